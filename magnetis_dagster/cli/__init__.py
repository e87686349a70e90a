"""The command line `magnetis`.

One module per command or group, `*_report.py` for the tables that a command prints.
"""
