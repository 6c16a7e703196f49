"""Messages between server and sites: settings, tasks and answers, checked when they are read."""
