"""The same rounds over a network, with Flower; the only place that imports it."""
