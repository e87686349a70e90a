"""Extensions of Dagster's own processes: the guarded webserver, and the processes of `magnetis dev`."""
