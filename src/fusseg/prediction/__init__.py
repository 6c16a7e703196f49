"""From images of any size to regions on disk: views, tiles, strips, edges, results."""
