"""Settings of one experiment: their schema, their file, and the device they choose."""
