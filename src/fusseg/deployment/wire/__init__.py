"""What travels between server and sites: settings, tasks and answers, checked as they are read."""
