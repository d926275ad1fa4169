"""What the core stands on: checks of arguments, whole files, tables, and the search for candidates."""
