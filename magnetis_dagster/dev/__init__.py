"""`magnetis dev`: the database, the sandbox and Dagster as one program on one machine, and the first load through Dagster.

What belongs here: starting and stopping processes, and talking to Dagster's webserver like the browser does. No import of Dagster
(it is another process), no API calls of ours, no SQL.
"""
