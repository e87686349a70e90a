"""The name of the unnamed connection. A connection is one API key with its quota and rows."""

import re

NAME = re.compile(r"[a-z_][a-z0-9_]{0,29}")
UNNAMED = "magnetis"
"""Name of the connection that MAGNETIS_API_KEY defines; rows of earlier versions belong to it."""
