"""One module per command: its run and its result."""
