"""Extensions of Dagster: the classes in dagster.yaml, run identity and retries, and the webserver."""
