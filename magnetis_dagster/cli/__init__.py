"""The command line `magnetis`: one module per group of commands, and the tables that they print."""
