"""`python -m molkit`."""

from molkit.cli import entry

entry()
