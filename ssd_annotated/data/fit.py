"""Fit: what the augmentation does to objects of this size, and which priors would cover them.

Nothing is trained, and no image is decoded: boxes alone say what no prior can learn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ssd_annotated.boxes import xyxy_to_cxcywh
from ssd_annotated.data.augment import AUGMENTATIONS, Augmentation, sample, without_crowds
from ssd_annotated.data.folder import AnnotatedFolder
from ssd_annotated.data.survey import uncovered_objects
from ssd_annotated.data.warp import move
from ssd_annotated.priors import PriorSpec, make_priors, rescale_priors
from ssd_annotated.support.tables import text_table

MOST = 200  # images to look at, spread over the data set
CELLS = 1 + 2**0.5  # a square that is covered wherever it stands is at least so many cells wide
HARM = 0.1  # share of the objects that expansion may take from the priors


class Forecast(NamedTuple):
    """What a network would see: the objects' √(w·h) in pixels, and how many no prior can learn."""

    sizes: Float[Tensor, "N"]
    uncovered: float


def seen_targets(
    dataset: AnnotatedFolder, augmentation: Augmentation, seed: int = 0
) -> list[dict[str, object]]:
    """Targets as an epoch of training shows them, of up to `MOST` images."""
    seen = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, MOST, dtype=int)).tolist():
        target, size = without_crowds(dataset.target(index)), dataset.records[index].size
        rng = np.random.default_rng((seed, index))
        # Boxes are fractions of the result, so its size does not matter.
        plan = sample(rng, augmentation, size, target["boxes"], image_size=1000)
        seen.append(move(target, plan.geometry))
    return seen


def forecast(targets: Sequence[dict[str, object]], spec: PriorSpec, image_size: int) -> Forecast:
    """Measure the objects, and see how many have an IoU below ½ with every prior."""
    boxes = torch.cat([target["boxes"] for target in targets])
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt() * image_size
    missed = uncovered_objects(list(targets), make_priors(spec)).double()
    return Forecast(sizes, float(missed.mean()) if len(missed) else 0.0)


def fit_priors(spec: PriorSpec, targets: Sequence[dict[str, object]]) -> tuple[float, float]:
    """The (smallest, largest) for `rescale_priors` that leave fewest objects uncovered.

    Both are tried on a grid: from the small objects to the median, and from there beyond the large.
    ValueError if there is no object.
    """
    sizes = forecast(targets, spec, 1).sizes
    if not len(sizes):
        raise ValueError("no object is left to fit priors to")
    low, middle, high = np.quantile(sizes.numpy(), (0.02, 0.5, 0.98)).tolist()
    pairs = [
        (round(smallest, 3), round(max(smallest, largest), 3))
        for smallest in np.geomspace(low, 1.2 * middle, 8).tolist()
        for largest in np.geomspace(1.2 * middle, min(2 * high, 1), 6).tolist()
    ]
    boxes = torch.cat([target["boxes"] for target in targets])
    return min(pairs, key=lambda pair: (best_ious(rescale_priors(spec, *pair), boxes) < 0.5).mean())


def best_ious(spec: PriorSpec, boxes: Float[Tensor, "N 4"]) -> Float64[np.ndarray, "N"]:
    """IoU of each box with its best prior, wherever that is cut off.

    Of the priors of one shape the nearest is the best: so it takes one for each shape, not P.
    """
    steps = spec.steps if spec.centres == "steps" else [1 / side for side in spec.feature_maps]
    best = np.zeros(len(boxes))
    centre, size = np.split(xyxy_to_cxcywh(boxes).double().numpy(), 2, axis=1)
    shapes = make_priors(replace(spec, feature_maps=(1,) * len(spec.feature_maps), clip="none"))
    of_maps = shapes[:, 2:].double().split(list(spec.boxes_per_cell))
    for side, step, of_map in zip(spec.feature_maps, steps, of_maps):
        nearest = (np.clip(np.floor(centre / step), 0, side - 1) + 0.5) * step
        for shape in of_map.numpy():
            reach = (size + shape) / 2 - np.abs(centre - nearest)
            shared = np.minimum(np.minimum(size, shape), reach).clip(0).prod(axis=1)
            best = np.maximum(best, shared / (size.prod(axis=1) + shape.prod() - shared))
    return best


def outlook(dataset: AnnotatedFolder, image_size: int, specs: Mapping[int, PriorSpec]) -> str:
    """Say what augmentations do to the objects at this image size, and propose what to train with.

    `specs` are the priors at this size and at others that may be proposed: the smallest at which
    three of four objects are wide enough for the finest map. Caffe's augmentation is proposed
    unless it takes many objects from even the priors that are fitted to what it shows.
    """
    seen = {
        name: seen_targets(dataset, AUGMENTATIONS[name]) for name in ("none", "caffe", "gentle")
    }
    rows = {
        name: forecast(targets, specs[image_size], image_size) for name, targets in seen.items()
    }
    small = max(float(rows["none"].sizes.quantile(0.25)) / image_size, 1e-6)
    wide = [
        side
        for side in specs
        if side >= image_size and small * specs[side].feature_maps[0] >= CELLS
    ]
    side = min(wide, default=max(specs))
    pairs = {name: fit_priors(specs[side], seen[name]) for name in ("caffe", "gentle")}
    ends = {
        name: forecast(seen[name], rescale_priors(specs[side], *pair), side)
        for name, pair in pairs.items()
    }
    name = "caffe" if ends["caffe"].uncovered < ends["gentle"].uncovered + HARM else "gentle"
    smallest, largest = pairs[name]
    options = f"--augmentation {name} --smallest {smallest:g} --largest {largest:g}"
    options = options if side == image_size else f"--image-size {side} {options}"
    return f"{forecast_table({**rows, 'proposed': ends[name]})}\n\nproposed: {options}"


def forecast_table(forecasts: Mapping[str, Forecast]) -> str:
    """A line for each forecast: how many pixels objects have, and how many no prior can learn."""
    rows = []
    for name, found in forecasts.items():
        quantiles = np.quantile(found.sizes.numpy(), (0.05, 0.5, 0.95)).tolist()
        rows.append([name, *(f"{size:.0f} px" for size in quantiles), f"{found.uncovered:.0%}"])
    return text_table(["seen with augmentation", "5%", "50%", "95%", "no prior's IoU ≥ ½"], rows)
