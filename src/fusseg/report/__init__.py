"""Figures and one self-contained page per run."""
