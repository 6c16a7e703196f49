"""Data sets: layouts, partitions, generated scenes, and reading images and masks."""
