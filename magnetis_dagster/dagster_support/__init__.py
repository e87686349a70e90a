"""Extensions of Dagster: classes in dagster.yaml, run identity and retries, the webserver."""
