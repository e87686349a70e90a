"""`magnetis dev`: the database, the sandbox and Dagster as one program.

Does not import Dagster (a separate process), request the Magnetis API, or contain SQL.
"""
