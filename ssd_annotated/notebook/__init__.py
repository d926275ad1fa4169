"""What the chapters draw and show with."""
