"""One kernel as the controller holds it: its record, its process's files, its output, what holds it to its limits."""
