"""What the core stands on: checks, whole files, tables, and the search for candidates."""
