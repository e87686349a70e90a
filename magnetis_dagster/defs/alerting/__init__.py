"""Alerts about failed runs and checks, posted to a webhook.

`sensor` reads Dagster's event log and posts; `cursor` stores the alerts between two ticks;
`message` formats them.
"""
