"""The speed and memory of every stage, each measured against a floor."""
