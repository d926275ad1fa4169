"""Augmentation: what is drawn by lot for every training image, and the data set that draws it.

All chance is in this module. `sample` draws a `Plan`, and `warp.apply` follows it.
"""

import math
import operator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ssd_annotated.boxes import pairwise_iou
from ssd_annotated.checkpoint import plain
from ssd_annotated.data.warp import (
    INTERPOLATIONS,
    Distortion,
    Geometry,
    Pair,
    Plan,
    apply,
    centres_inside,
    check_fractions,
)
from ssd_annotated.support.checks import check_at_least, check_seed, check_within
from ssd_annotated.transforms import check_image

#: Between which numbers a range of `Augmentation` may lie.
_LIMITS = {
    "brightness": (-255, 255),
    "brightness_factor": (0, math.inf),
    "contrast": (0, math.inf),
    "saturation": (0, math.inf),
    "hue": (-180, 180),
    "expand_ratio": (1, math.inf),
    "crop_scale": (0.01, 1),
    "crop_aspect": (0.01, 100),
}


# --- The numbers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmentation:
    """The numbers of the lottery; a pair is a range to draw from uniformly.

    Parameters
    ----------
    distort_probability
        Of each of brightness, contrast, saturation and hue.
    brightness, brightness_factor
        Added to the levels of 0 to 255, and multiplied with them before.
    contrast
        A factor on raw levels. It comes before saturation and hue or, as often, after them.
    saturation
        A factor on the S of HSV.
    hue
        Degrees added to the H of HSV, which 8 bits hold in steps of two.
    wrap_hue
        Whether a hue below zero comes round from above. Caffe's 8 bits stop at zero: what is red
        can turn yellow there, but not purple. (Above 360 degrees hue comes round in any case.)
    channel_swap_probability
        Of shuffling red, green and blue.
    expand_probability, expand_ratio
        Of placing the image on a larger canvas, and how many times larger its sides are.
    fill
        The canvas's colour, RGB levels of 0 to 255; the mean of the training images.
    crop_options
        Least IoU that a crop must have with some object; 0 is any crop, None the whole image.
    crop_trials
        How many crops an option may try.
    crop_scale, crop_aspect
        Crops have sides of s·√a and s/√a, in fractions of the canvas's, neither above 1.
    independent_sides
        Draw both sides from `crop_scale` instead; their ratio in pixels must be in `crop_aspect`.
    keep_one
        Whether the object that meets the option must also have its centre in the crop.
    flip_probability, vertical_flip_probability
        Of exchanging left and right, top and bottom.
    interpolations
        Names from `INTERPOLATIONS`, each as likely as the others.

    Raises
    ------
    ValueError
        If a probability or a range is outside its limits, reversed or not a number, or a choice
        is empty or unknown.

    Notes
    -----
    Liu et al. 2016, sections 2.2 ("Data augmentation") and 3.6 (expansion). The defaults are those
    of the authors' Caffe code, whose crops have at least 0.3 of the side where the paper says 0.1.
    """

    distort_probability: float = 0.5
    brightness: Pair = (-32, 32)
    brightness_factor: Pair = (1, 1)
    contrast: Pair = (0.5, 1.5)
    saturation: Pair = (0.5, 1.5)
    hue: Pair = (-36, 36)
    wrap_hue: bool = False
    channel_swap_probability: float = 0.0
    expand_probability: float = 0.5
    expand_ratio: Pair = (1, 4)
    fill: tuple[int, int, int] = (123, 117, 104)
    crop_options: tuple[float | None, ...] = (None, 0, 0.1, 0.3, 0.5, 0.7, 0.9)
    crop_trials: int = 50
    crop_scale: Pair = (0.3, 1)
    crop_aspect: Pair = (0.5, 2)
    independent_sides: bool = False
    keep_one: bool = False
    flip_probability: float = 0.5
    vertical_flip_probability: float = 0.0
    interpolations: tuple[str, ...] = tuple(INTERPOLATIONS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fill", plain(self.fill))  # OpenCV takes no integers of NumPy's
        for field in fields(self):
            if field.name.endswith("probability"):
                check_within(field.name, getattr(self, field.name), 0, 1)
        for name, limits in _LIMITS.items():
            _check_range(name, getattr(self, name), *limits)
        if len(self.fill) != 3:
            raise ValueError(f"fill must be three levels, RGB, not {self.fill}")
        for level in self.fill:
            check_within("fill", level, 0, 255)
        check_at_least("crop_trials", self.crop_trials, 1)
        for name in ("crop_options", "interpolations"):
            if len(getattr(self, name)) == 0:
                raise ValueError(f"{name} must not be empty")
        for option in self.crop_options:
            if option is not None:
                check_within("crop_options", option, 0, 1)
        for name in self.interpolations:
            if name not in INTERPOLATIONS:
                known = ", ".join(INTERPOLATIONS)
                raise ValueError(f"interpolations must be among {known}, not {name!r}")


def _check_range(name: str, bounds: Pair, low: float, high: float) -> None:
    pair = isinstance(bounds, (tuple, list)) and len(bounds) == 2
    if not (pair and low <= bounds[0] <= bounds[1] <= high and math.isfinite(bounds[1])):
        raise ValueError(
            f"{name} must be a range (least, most) between {low} and {high}, not {bounds}"
        )


_OTHERS = Augmentation(
    hue=(-18, 18),
    wrap_hue=True,
    channel_swap_probability=0.5,
    independent_sides=True,
    keep_one=True,
    interpolations=("linear",),
)
#: What the others draw. They pick an option first and, if it fails, pick again among all of them,
#: so that options which often fail come up more than in Caffe; that is not reproduced. Nor is this:
#: one object's IoU and the centre of another are enough for lufficc and sgrvinod.
AUGMENTATIONS = {
    "none": Augmentation(
        distort_probability=0,
        expand_probability=0,
        crop_options=(None,),
        flip_probability=0,
        interpolations=("linear",),
    ),
    "caffe": Augmentation(),
    # Not reproduced: contrast and saturation as mixtures with grey.
    "torchvision": replace(
        _OTHERS,
        brightness=(0, 0),
        brightness_factor=(0.875, 1.125),
        crop_trials=40,
    ),
    # Its least IoU is never enforced: five of its six options are alike. Not reproduced: levels and
    # hues in floating point, not rounded between the steps.
    "ssd.pytorch": replace(_OTHERS, crop_options=(None, 0, 0, 0, 0, 0)),
    # The same with the least IoU repaired.
    "lufficc": replace(_OTHERS, crop_options=(None, 0, 0.1, 0.3, 0.7, 0.9)),
    # Not reproduced: contrast and saturation as mixtures with grey, all four in random order, and
    # Pillow's resizing, which smooths what it shrinks.
    "sgrvinod": replace(
        _OTHERS,
        brightness=(0, 0),
        brightness_factor=(0.5, 1.5),
        hue=(-360 * 18 / 255, 360 * 18 / 255),
        channel_swap_probability=0,
        fill=(124, 116, 104),  # ImageNet's mean, in whole levels
    ),
    # No colours and no expansion: any patch or the whole, mirrored by half, now and then upside
    # down. The post does not show how it cuts its patches; here they have the photograph's shape.
    "tf2": Augmentation(
        distort_probability=0,
        expand_probability=0,
        crop_options=(None, 0),
        crop_aspect=(1, 1),
        vertical_flip_probability=0.2,
        interpolations=("linear",),
    ),
    # Nobody's: Caffe's colours and mirror, and nothing that shrinks. A crop enlarges a little.
    "gentle": Augmentation(
        expand_probability=0,
        crop_options=(None, 0),
        crop_scale=(0.6, 1),
        crop_aspect=(0.8, 1.25),
        keep_one=True,
    ),
}


# --- Drawing a plan -------------------------------------------------------------------------------


def sample(
    rng: np.random.Generator,
    augmentation: Augmentation,
    size: tuple[int, int],
    boxes: Float[Tensor, "G 4"],
    image_size: int,
) -> Plan:
    """Draw what will be done to an image of `size` (width, height) pixels with these objects.

    All chance comes from `rng`. The boxes matter because of the crop.
    """
    check_fractions(boxes)
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, not {image_size}")
    distortion = sample_distortion(rng, augmentation)
    canvas, place = sample_canvas(rng, augmentation, size)
    on_canvas = boxes.double().numpy(force=True) * (*size, *size) + (*place, *place)
    chances = (augmentation.flip_probability, augmentation.vertical_flip_probability)
    geometry = Geometry(
        size,
        canvas,
        place,
        crop=sample_crop(rng, augmentation, canvas, on_canvas),
        flips=tuple((rng.random(2) < chances).tolist()),
        image_size=image_size,
        interpolation=augmentation.interpolations[rng.integers(len(augmentation.interpolations))],
        fill=augmentation.fill,
    )
    return Plan(distortion, geometry)


def sample_distortion(rng: np.random.Generator, augmentation: Augmentation) -> Distortion:
    """Draw the colours' part; what is not chosen keeps its neutral value."""
    a = augmentation
    ranges = [a.brightness, a.brightness_factor, a.contrast, a.saturation, a.hue]
    values = rng.uniform(*np.array(ranges, dtype=np.float64).T)
    coins = rng.random(4) < a.distort_probability
    chosen = coins[[0, 0, 1, 2, 3]]  # one for both ways to be brighter
    swapped = rng.random() < a.channel_swap_probability
    return Distortion(
        *np.where(chosen, values, [0, 1, 1, 1, 0]).tolist(),
        wrap_hue=a.wrap_hue,
        contrast_first=bool(rng.random() < 0.5),
        channels=tuple(rng.permutation(3).tolist()) if swapped else (0, 1, 2),
    )


def sample_canvas(
    rng: np.random.Generator, augmentation: Augmentation, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Draw the canvas's width and height, and where the image's top left corner goes on it."""
    if rng.random() >= augmentation.expand_probability:
        return size, (0, 0)
    ratio = rng.uniform(*augmentation.expand_ratio)
    canvas = [int(side * ratio) for side in size]
    place = rng.integers(0, np.array(canvas) - size, endpoint=True)
    return tuple(canvas), tuple(place.tolist())


def sample_crop(
    rng: np.random.Generator,
    augmentation: Augmentation,
    canvas: tuple[int, int],
    boxes: Float64[np.ndarray, "G 4"],
) -> tuple[int, int, int, int]:
    """Draw a crop: try the options in random order, and take the first that succeeds.

    Parameters
    ----------
    canvas
        Width and height.
    boxes
        The objects, ``xyxy`` pixels of the canvas.

    Returns
    -------
    ``xyxy`` pixels of the canvas; all of it if nothing succeeds, as where there is no object.

    Notes
    -----
    Caffe runs all seven samplers and then picks one of the successes. That is the same lottery:
    whether an option succeeds has nothing to do with the order, and of the options that would
    succeed, each is as likely as any other to come first. Only most of the work is saved.

    Caffe measures IoU on the crop as drawn and cuts pixels and boxes at slightly different places;
    here a crop is whole pixels from the start.
    """
    whole = (0, 0, *canvas)
    for index in rng.permutation(len(augmentation.crop_options)):
        option = augmentation.crop_options[index]
        if option is None:
            return whole
        crops = draw_crops(rng, augmentation, canvas)
        met = _meets(crops.astype(np.float64), boxes, option, augmentation.keep_one)
        if met.any():
            return tuple(crops[met.argmax()].tolist())
    return whole


def draw_crops(
    rng: np.random.Generator, augmentation: Augmentation, canvas: tuple[int, int]
) -> Int64[np.ndarray, "N 4"]:
    """All the trials of one option: rectangles of whole pixels, anywhere on the canvas.

    Caffe draws a scale, and an aspect ratio no more extreme than the canvas has room for. Everybody
    else draws width and height, and what is too oblong is a trial lost.
    """
    trials, (least, most) = augmentation.crop_trials, augmentation.crop_aspect
    if augmentation.independent_sides:
        fractions = rng.uniform(*augmentation.crop_scale, (trials, 2))
    else:
        scale = rng.uniform(*augmentation.crop_scale, trials)
        root = np.sqrt(np.clip(rng.uniform(least, most, trials), scale**2, scale**-2))
        fractions = np.stack([scale * root, scale / root], axis=1)
    sides = np.maximum(np.rint(fractions * canvas), 1).astype(np.int64)
    if augmentation.independent_sides:
        ratio = sides[:, 0] / sides[:, 1]
        sides = sides[(least <= ratio) & (ratio <= most)]
    start = rng.integers(0, canvas - sides, endpoint=True)
    return np.concatenate([start, start + sides], axis=1)


def _meets(
    crops: Float64[np.ndarray, "N 4"],
    boxes: Float64[np.ndarray, "G 4"],
    least: float,
    keep_one: bool,
) -> Bool[np.ndarray, "N"]:
    """Which crops have the least IoU with some object, and its centre where that is asked for."""
    good = (pairwise_iou(torch.from_numpy(crops), torch.from_numpy(boxes)) >= least).numpy()
    return (good & centres_inside(crops, boxes) if keep_one else good).any(axis=1)


# --- A data set -----------------------------------------------------------------------------------

#: A data set may draw its own scenes from (seed, ..., index): the two must not throw the same dice.
_STREAM = int.from_bytes(b"augment", "big")


class Augmented(Dataset):
    """A data set seen through an augmentation: every epoch anew, and the same for everybody.

    ``augmented[index, epoch]`` is an item as that epoch shows it; ``augmented[index]`` is epoch 0.
    It depends on the seed, the epoch and the index, and on nothing else: neither on the number of
    workers nor on what was asked for before. A run that is resumed sees what it would have seen.

    Parameters
    ----------
    dataset
        Items are (uint8 RGB image, target), as `GraffitiDigits` gives them.
    augmentation
        What to draw from.
    image_size
        Side of the results in pixels: that of the model's recipe.
    seed
        At least 0.

    Raises
    ------
    TypeError
        If a key is neither a whole number nor two of them.
    IndexError
        If the data set has no such index. It may count from the end, as a list's.
    ValueError
        If the epoch is negative.
    """

    def __init__(
        self, dataset: Dataset, augmentation: Augmentation, image_size: int, seed: int = 0
    ) -> None:
        check_at_least("image_size", image_size, 1)
        check_seed(seed)
        self.dataset, self.augmentation = dataset, augmentation
        self.image_size, self.seed = image_size, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(
        self, key: int | tuple[int, int]
    ) -> tuple[UInt8[np.ndarray, "S S 3"], dict[str, object]]:
        index, epoch = self._index_and_epoch(key)
        image, target = self.dataset[index]
        target = without_crowds(target)
        check_image(image)
        rng = np.random.default_rng((_STREAM, self.seed, epoch, index))
        size = image.shape[1::-1]
        plan = sample(rng, self.augmentation, size, target["boxes"], self.image_size)
        return apply(image, target, plan)

    def _index_and_epoch(self, key: object) -> tuple[int, int]:
        parts = key if isinstance(key, tuple) else (key, 0)
        try:
            index, epoch = map(operator.index, parts)
        except (TypeError, ValueError):
            raise TypeError(f"a key must be an index or (index, epoch), not {key!r}") from None
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a data set of {len(self)} items")
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, not {epoch}")
        return index % len(self), epoch


def without_crowds(target: dict[str, object]) -> dict[str, object]:
    """A target without its crowds: a box round many objects is no example of one."""
    if "crowd" not in target:
        return target
    keep = ~target["crowd"]
    rows = {name: value for name, value in target.items() if name != "crowd"}
    return {n: v[keep] if isinstance(v, Tensor) and v.dim() else v for n, v in rows.items()}
