"""Evaluate segmentations: counts, matching and scores. Only this package reads labels."""
