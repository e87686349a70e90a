"""`python -m magnetis_dagster.cli`."""

from magnetis_dagster.cli.app import main

main()
