"""Extraction spread over workers: site by site, in shards that are joined in order."""
