"""`python -m wtool` is `wtool`."""

from wtool.cli import main

main()
