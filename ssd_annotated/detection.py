"""Detect: photographs in, detections out."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from inspect import signature
from itertools import islice

import numpy as np
import torch

from ssd_annotated.model import SSD, Recipe, evaluating
from ssd_annotated.nms import Detections, postprocess
from ssd_annotated.support.checks import check_at_least
from ssd_annotated.transforms import prepare

#: What a recipe says about post-processing: all but the predictions and their priors.
_SETTINGS = tuple(signature(postprocess).parameters)[2:]


def detect(
    model: SSD, images: list[np.ndarray], batch_size: int = 32, **changes: object
) -> list[Detections]:
    """Find the objects in each image.

    Parameters
    ----------
    model
        Used in eval mode, whatever mode it is in, with its own recipe, on its own device and in its
        own precision: ``model.half().cuda()`` detects in half precision on a GPU.
    images
        uint8 RGB arrays (height, width, 3), each of any size.
    batch_size
        Images that pass through the network together.
    **changes
        Fields of the recipe that differ for this call: ``detect(model, images,
        score_threshold=0.5)`` finds what is fit to be drawn. (Average precision wants the unsure
        too, and so do the recipes.)

    Returns
    -------
    One `Detections` per image, boxes as ``xyxy`` fractions of that image, best first. What a
    network of half precision says is decoded and compared in single precision.
    """
    if isinstance(images, np.ndarray):
        raise ValueError(f"images must be a list of arrays, not one array of shape {images.shape}")
    return list(detect_stream(model, images, batch_size, **changes))


def detect_stream(
    model: SSD, images: Iterable[np.ndarray], batch_size: int = 32, **changes: object
) -> Iterator[Detections]:
    """`detect` for images without end: a batch is taken when its first detections are asked for."""
    check_at_least("batch_size", batch_size, 1)
    return _batches(model, iter(images), batch_size, changed(model.recipe, changes))


def _batches(
    model: SSD, images: Iterator[np.ndarray], batch_size: int, recipe: Recipe
) -> Iterator[Detections]:
    """The detections of images, batch by batch, none of which is held while the next is read."""
    while batch := list(islice(images, batch_size)):
        found = _detect_batch(model, batch, recipe)
        batch.clear()
        yield from found


def changed(recipe: Recipe, changes: dict[str, object]) -> Recipe:
    """The recipe with some fields replaced; a ValueError names the ones that it does not have."""
    unknown = sorted(set(changes) - set(vars(recipe)))
    if unknown:
        raise ValueError(f"a recipe has no {', '.join(unknown)}; it has {', '.join(vars(recipe))}")
    return replace(recipe, **changes)


@torch.no_grad()
def _detect_batch(model: SSD, images: list[np.ndarray], recipe: Recipe) -> list[Detections]:
    """The detections of images that pass through the network together."""
    batch = torch.stack([prepare(image, recipe) for image in images])
    with evaluating(model):
        offsets, logits = model(batch.to(model.priors))
    # Among 256 levels the best scores tie, and the worse of two boxes may suppress the better one.
    priors = model.priors.to(torch.promote_types(model.priors.dtype, torch.float32))
    settings = {name: getattr(recipe, name) for name in _SETTINGS}
    return postprocess((offsets.to(priors), logits.to(priors)), priors, **settings)
