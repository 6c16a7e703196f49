"""Certificates of the server, keys of the sites, and the list of sites that may join."""
