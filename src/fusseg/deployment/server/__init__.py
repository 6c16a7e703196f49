"""The server of a deployment: its edge, its list of sites, and its rounds."""
