"""Frozen backbone features, extracted once and read from memory-mapped files."""
