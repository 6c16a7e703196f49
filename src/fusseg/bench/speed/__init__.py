"""Every stage against a floor measured beside it: `fusseg bench speed`."""
