"""The server's certificates and the sites' keys, and which sites may join."""
