"""Generated scenes with exact masks, for those who have no images yet and for tests."""
