"""Detect: photographs in, detections out."""

import numpy as np
import torch

from ssd_annotated.model import SSD, evaluating
from ssd_annotated.nms import Detections, postprocess
from ssd_annotated.transforms import prepare

#: What a recipe says about post-processing.
_SETTINGS = (
    "score_threshold",
    "top_k",
    "nms_threshold",
    "max_detections",
    "variances",
    "max_log_size",
    "clip",
    "class_agnostic",
)


@torch.no_grad()
def detect(model: SSD, images: list[np.ndarray], batch_size: int = 32) -> list[Detections]:
    """Find the objects in each image.

    Parameters
    ----------
    model
        Used in eval mode, whatever mode it is in, with its own recipe.
    images
        uint8 RGB arrays (height, width, 3), each of any size.
    batch_size
        Images that pass through the network together.

    Returns
    -------
    One `Detections` per image, boxes as ``xyxy`` fractions of that image, best first. What a
    network of half precision says is decoded and compared in single precision.
    """
    if isinstance(images, np.ndarray):
        raise ValueError(f"images must be a list of arrays, not one array of shape {images.shape}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    recipe = model.recipe
    settings = {name: getattr(recipe, name) for name in _SETTINGS}
    # Among 256 levels the best scores tie, and the worse of two boxes may suppress the better one.
    priors = model.priors.to(torch.promote_types(model.priors.dtype, torch.float32))
    detections: list[Detections] = []
    with evaluating(model):
        for start in range(0, len(images), batch_size):
            batch = [prepare(image, recipe) for image in images[start : start + batch_size]]
            offsets, logits = model(torch.stack(batch).to(model.priors))
            detections += postprocess((offsets.to(priors), logits.to(priors)), priors, **settings)
    return detections
