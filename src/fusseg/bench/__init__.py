"""Grids of experiments: methods x columns x seeds, run as cells, set in tables and figures."""
