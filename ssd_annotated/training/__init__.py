"""Training: the loop, its settings, its batches, a run in a folder, several processes."""
