"""Data sets: images with boxes, ready for training."""

from ssd_annotated.data.coco import COCOFolder
from ssd_annotated.data.graffiti import GraffitiDigits, export_voc
from ssd_annotated.data.voc import VOCFolder

__all__ = ["COCOFolder", "GraffitiDigits", "VOCFolder", "export_voc"]
