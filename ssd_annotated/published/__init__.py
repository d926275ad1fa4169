"""Published SSDs: what each decides differently, and how its checkpoints are read."""
