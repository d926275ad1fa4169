"""Evaluation: average precision as VOC and COCO define it, and the mistakes behind it."""
