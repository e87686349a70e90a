"""Compares the catalogue with the API: routes, members of rows, query parameters."""
