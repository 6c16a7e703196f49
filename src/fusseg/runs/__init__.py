"""A run from start to finish: prepare, train, record, save, resume, load and adapt."""
