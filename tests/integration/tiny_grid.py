"""Settings of grids that are trained in seconds; each test adds its methods and seeds."""

TINY = """
[config.data]
layout = "synthetic"
images_per_site = 3
image_size = [64, 96]
held_out_sites = ["yard"]

[config.model]
num_clusters = 2
code_dim = 4

[config.local]
steps = 2
batch_size = 2

[config.local.stego]
positions = 10
"""
