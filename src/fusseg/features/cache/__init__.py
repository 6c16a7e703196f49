"""Feature maps on disk: one store per site, and codecs that compress them."""
