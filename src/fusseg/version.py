"""The one place that holds the package's version."""

VERSION = "0.1.0"
