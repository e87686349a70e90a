"""`magnetis`."""
