"""Features of the frozen backbone: extracted once, then read from memory-mapped files."""
