"""The command line, and what it does with pictures, videos and files."""
