"""The server of a deployment: its edge, the sites it admits, and its rounds."""
