"""Self-contained HTML pages about runs, with their figures and tables."""
