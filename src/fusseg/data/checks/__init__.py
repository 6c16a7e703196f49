"""What `fusseg check` looks for before anything runs."""
