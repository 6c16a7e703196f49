"""Run the command line with `python -m fusseg`."""

from fusseg.cli.app import main

main()
