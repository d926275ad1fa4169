"""Fit: what the augmentation does to objects of this size, and which priors would cover them.

Nothing is trained, and no image is decoded: boxes alone say what no prior can learn.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssd_annotated.data.augment import AUGMENTATIONS, Augmentation, sample, without_crowds
from ssd_annotated.data.folder import AnnotatedFolder
from ssd_annotated.data.warp import move
from ssd_annotated.priors import PriorSpec, make_priors, rescale_priors
from ssd_annotated.support.candidates import find_candidates
from ssd_annotated.support.tables import text_table

MOST = 200  # images to look at, spread over the data set
CELLS = 1 + 2**0.5  # a square that is covered wherever it stands is at least so many cells wide
HARM = 0.1  # share of the objects that expansion may take from the priors


class Forecast(NamedTuple):
    """What a network would see: the objects' √(w·h) in pixels, and how many no prior can learn."""

    sizes: Float[Tensor, "N"]
    uncovered: float


def seen_targets(dataset: AnnotatedFolder, augmentation: Augmentation) -> list[dict[str, object]]:
    """Targets as an epoch of training shows them, of up to `MOST` images that have objects.

    ValueError if there is no such image: training leaves crowds out.
    """
    some = [k for k, record in enumerate(dataset.records) if not record.crowd.all()]
    if not some:
        raise ValueError("no object to train on")
    seen = []
    for number in np.unique(np.linspace(0, len(some) - 1, MOST, dtype=int)).tolist():
        index = some[number]
        target, size = without_crowds(dataset.target(index)), dataset.records[index].size
        rng = np.random.default_rng((0, index))
        # Boxes are fractions of the result, so its size does not matter.
        plan = sample(rng, augmentation, size, target["boxes"], image_size=1000)
        seen.append(move(target, plan.geometry))
    return seen


def forecast(targets: Sequence[dict[str, object]], spec: PriorSpec, image_size: int) -> Forecast:
    """Measure the objects, and see how many have an IoU below ½ with every prior."""
    boxes = torch.cat([target["boxes"].cpu() for target in targets])
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt() * image_size
    with torch.device("cpu"):
        priors = make_priors(spec)
    best = find_candidates(priors, [boxes], 0.5).best()[0] if len(boxes) else np.ones(1)
    return Forecast(sizes, float((best < 0.5).mean()))


def fit_priors(spec: PriorSpec, targets: Sequence[dict[str, object]]) -> tuple[float, float]:
    """The (smallest, largest) for `rescale_priors` that leave fewest objects uncovered.

    Both are tried on a grid: from the small objects to the median, and from there beyond the large.
    ValueError if there is no object.
    """
    sizes = forecast(targets, spec, 1).sizes
    if not len(sizes):
        raise ValueError("no object is left to fit priors to")
    low, middle, high = np.quantile(sizes.numpy(), (0.02, 0.5, 0.98)).tolist()
    grid = np.geomspace(low, 1.2 * middle, 8), np.geomspace(1.2 * middle, min(2 * high, 1), 6)
    # As they are proposed, with three digits, and above 0.
    smallest, largest = (np.maximum(sizes.round(3), 0.001).tolist() for sizes in grid)
    pairs = [(least, max(least, most)) for least in smallest for most in largest]
    return min(pairs, key=lambda pair: forecast(targets, rescale_priors(spec, *pair), 1).uncovered)


def outlook(dataset: AnnotatedFolder, image_size: int, specs: Mapping[int, PriorSpec]) -> str:
    """Say what augmentations do to the objects at this image size, and propose what to train with.

    `specs` are the priors at this size and at larger ones that may be proposed: the smallest at
    which three of four objects are wide enough for the finest map. Caffe's augmentation is proposed
    unless it takes many objects from even the priors that are fitted to what it shows.
    """
    seen = {
        name: seen_targets(dataset, AUGMENTATIONS[name]) for name in ("none", "caffe", "gentle")
    }
    rows = {
        name: forecast(targets, specs[image_size], image_size) for name, targets in seen.items()
    }
    small = max(float(rows["none"].sizes.quantile(0.25)) / image_size, 1e-6)
    wide = [side for side, spec in specs.items() if small * spec.feature_maps[0] >= CELLS]
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
