"""Programs and classes that extend Dagster's own processes: the guarded webserver and the processes of `magnetis dev`."""
