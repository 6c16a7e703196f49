"""The rounds of a federation over a network, with Flower: the only package that imports it."""
