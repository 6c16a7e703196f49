"""Grids of experiments (methods x columns x seeds): run their cells, write tables and figures."""
