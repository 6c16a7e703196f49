"""Feature maps on disk: one store for each site, and the codecs they are kept in."""
