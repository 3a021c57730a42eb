"""`python -m ganctl`."""

from ganctl.cli.app import run

run()
