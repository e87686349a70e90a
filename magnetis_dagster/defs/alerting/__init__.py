"""Alerts about failed runs and checks: the sensor, its cursor and its messages."""
