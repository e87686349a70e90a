"""Define the two kinds of errors, named by what a rerun would change.

Every layer raises one of them. A message says what failed, why, and what to do. It never contains
the key, a row or a value of a row, because rows contain people's numbers and names.
"""


class MagnetisError(Exception):
    """Base of every error that this package raises on purpose.

    The text is written for the person who reads the run.
    """


class PermanentError(MagnetisError):
    """A rerun fails too until somebody changes the key, configuration or machine."""


class TransientError(MagnetisError):
    """A rerun may succeed unchanged.

    The network, the API or the database was unavailable.
    """


class KeyRefused(PermanentError):
    """401: the key is unknown or expired. Create another in the Magnetis interface."""
