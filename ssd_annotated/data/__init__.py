"""Data sets: images with boxes, ready for training."""

from ssd_annotated.data.graffiti import GraffitiDigits, export_voc

__all__ = ["GraffitiDigits", "export_voc"]
