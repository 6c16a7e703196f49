"""Checks of a data set before anything runs, as in `fusseg check`."""
