"""Segment images of any size and write the results: views, tiles, strips, edges, files."""
