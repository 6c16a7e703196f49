"""Measurements that maintainers run by hand; no part of the package."""
