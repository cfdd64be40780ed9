"""`python -m fittedq`."""

from fittedq.cli.main import entry

entry()
