"""Data sets: images with boxes, ready for training."""
