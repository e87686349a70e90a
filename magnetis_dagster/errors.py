"""Errors named by what a rerun would change. Every layer raises one of these two kinds; nothing else belongs here.

A message says what was expected, where, and what to do. It never carries the key, a row or a value of a row: rows hold
the numbers and names of people.
"""


class MagnetisError(Exception):
    """Base of every error that this package raises on purpose. Its text is meant for the person who reads the run."""


class PermanentError(MagnetisError):
    """A rerun gives the same answer until somebody changes the key, the configuration or the machine."""


class TransientError(MagnetisError):
    """A rerun may succeed with nothing changed: the network, the API or the database was not well at that moment."""


class KeyRefused(PermanentError):
    """401: the key is unknown or expired. Make another in the Magnetis interface."""
