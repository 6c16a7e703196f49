"""The one place that holds the package's version."""

VERSION = "0.2.0"
