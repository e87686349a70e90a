"""`magnetis dev`: the database, the sandbox and Dagster as one program.

This package starts and stops processes, and uses Dagster's webserver for the initial load. It does
not import Dagster (a separate process), request the Magnetis API, or contain SQL.
"""
