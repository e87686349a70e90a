"""Reports and alerts at Magnetis: change detection and reviewed baseline."""
