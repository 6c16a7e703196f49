"""How good a segmentation is: counts, matching and scores; the only reader of labels."""
