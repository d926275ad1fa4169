"""Priors: the boxes that are there before anyone has looked at an image.

The paper calls them *default boxes* (section 2.2), torchvision calls them *anchors*. Every cell of
every feature map carries a handful, of the map's own size and of several shapes.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssd_annotated.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from ssd_annotated.support.checks import check_choice, check_positive


@dataclass(frozen=True)
class PriorSpec:
    """Everything that decides where the priors lie, in fractions of the image.

    Parameters
    ----------
    feature_maps
        Cells along one side of each feature map, finest first; (rows, columns) if it is not square.
    sizes
        Side s of each map's square prior. A tuple lists all that the ratios do not make: the sides
        (s, s') of both squares, or any number of sides and of shapes (width, height).
    ratios
        Aspect ratios (width / height) of each map's other priors, one entry for each pair
        (a, 1/a): ``(2, 3)`` means 2, 1/2, 3 and 1/3. Code that writes 1/3 as 0.333 is
        ``(2, (3, 0.333))``. They stretch the first square, or the first shape listed.
    last_extra
        Side s' of the last map's extra square. Elsewhere s' = √(s · next s), as in the paper.
        Not used where `sizes` are pairs.
    order
        Order of the priors within a cell, which must be the order of the network's channels:
        ``"caffe"`` s, s', 2, 1/2, 3, 1/3; ``"sgrvinod"`` s, s', 2, 3, 1/2, 1/3; ``"tf2"`` s', s,
        2, 1/2, 3, 1/3 with the cells taken column by column.
    centres
        ``"fmap"``: the centre of cell j is (j + ½) / feature map side. ``"steps"``: (j + ½) · step.
    steps
        Distance of neighbouring centres on each map, for ``centres="steps"``; a pair if it is not
        the same down as across.
    clip
        ``"none"``; ``"wh"`` limits sizes to [0, 1]; ``"cxcywh"`` limits centres and sizes to
        [0, 1]; ``"corners"`` cuts the boxes off at the image's border.

    Raises
    ------
    ValueError
        If the sequences differ in length, a number is not positive, or a choice is unknown.
    """

    feature_maps: tuple[int | tuple[int, int], ...]
    sizes: tuple[float, ...] | tuple[tuple[float | tuple[float, float], ...], ...]
    ratios: tuple[tuple[float | tuple[float, float], ...], ...]
    last_extra: float | None = None
    order: Literal["caffe", "sgrvinod", "tf2"] = "caffe"
    centres: Literal["fmap", "steps"] = "fmap"
    steps: tuple[float | tuple[float, float], ...] | None = None
    clip: Literal["none", "wh", "cxcywh", "corners"] = "none"

    def __post_init__(self) -> None:
        check_choice("order", self.order, ("caffe", "sgrvinod", "tf2"))
        check_choice("centres", self.centres, ("fmap", "steps"))
        check_choice("clip", self.clip, ("none", "wh", "cxcywh", "corners"))
        self._check_lengths()
        extra = () if self.last_extra is None else self.last_extra
        given = (self.feature_maps, self.sizes, self.aspect_pairs, self.steps or (), extra)
        check_positive("every number of a PriorSpec", *_numbers(given))

    def _check_lengths(self) -> None:
        if not self.feature_maps:
            raise ValueError("a PriorSpec needs at least one feature map")
        lengths = {"sizes": len(self.sizes), "ratios": len(self.ratios)}
        if self.centres == "steps":
            lengths["steps"] = len(self.steps or ())
        for field, length in lengths.items():
            if length != len(self.feature_maps):
                raise ValueError(f"{length} {field} for {len(self.feature_maps)} feature maps")
        if self.last_extra is None and not isinstance(self.sizes[-1], tuple):
            raise ValueError("last_extra, the side of the last map's extra square, is missing")

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of each map."""
        return [_pair(cells) for cells in self.feature_maps]

    @property
    def square_sizes(self) -> list[tuple[float | tuple[float, float], ...]]:
        """The sides (s, s') of both squares of each map, or what `sizes` lists instead."""
        if isinstance(self.sizes[0], tuple):
            return list(self.sizes)
        extras = [math.sqrt(s * following) for s, following in pairwise(self.sizes)]
        return list(zip(self.sizes, [*extras, self.last_extra]))

    @property
    def aspect_pairs(self) -> list[list[tuple[float, float]]]:
        """The pairs (a, 1/a) of each map, the inverses written out."""
        return [
            [ratio if isinstance(ratio, tuple) else (ratio, 1 / ratio) for ratio in ratios]
            for ratios in self.ratios
        ]

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Priors in each cell of each map: the squares, and a pair for each ratio."""
        return tuple(len(s) + 2 * len(r) for s, r in zip(self.square_sizes, self.ratios))

    @property
    def counts(self) -> tuple[int, ...]:
        """Priors of each map; their sum is P."""
        return tuple(rows * cols * n for (rows, cols), n in zip(self.grids, self.boxes_per_cell))


def _pair(value: float | tuple[float, float]) -> tuple[float, float]:
    """A pair as it is, a number twice."""
    return value if isinstance(value, tuple) else (value, value)


def _numbers(value: object) -> list[float]:
    """All numbers in tuples and lists of tuples and lists."""
    if not isinstance(value, tuple | list):
        return [value]
    return [number for part in value for number in _numbers(part)]


def make_priors(spec: PriorSpec, dtype: torch.dtype = torch.float32) -> Float[Tensor, "P 4"]:
    """Lay the priors of `spec` over the image: every shape at every centre of every map.

    Returns
    -------
    ``cxcywh`` fractions, map by map (finest first), cell by cell (row by row), then in the order
    of the shapes within a cell: the order in which the network's outputs are flattened.

    Notes
    -----
    Section 2.2 of the paper, "Choosing scales and aspect ratios for default boxes".
    """
    steps = spec.steps if spec.centres == "steps" else [(1 / r, 1 / c) for r, c in spec.grids]
    maps = []
    for (rows, columns), step, squares, pairs in zip(
        spec.grids, steps, spec.square_sizes, spec.aspect_pairs
    ):
        shapes = _cell_shapes(squares, pairs, spec.order)
        down, across = _pair(step)
        cells = np.empty((rows, columns, len(shapes), 4))
        cells[..., 0] = (np.arange(columns)[:, None] + 0.5) * across
        cells[..., 1] = (np.arange(rows)[:, None, None] + 0.5) * down
        cells[..., 2:] = shapes
        in_order = cells.swapaxes(0, 1) if spec.order == "tf2" else cells
        maps.append(in_order.reshape(-1, 4))
    return _clip(torch.tensor(np.concatenate(maps)), spec.clip).to(dtype)


def _cell_shapes(
    squares: tuple[float | tuple[float, float], ...], pairs: list[tuple[float, float]], order: str
) -> list[tuple[float, float]]:
    """Width and height of the priors in one cell, in the given order."""
    shapes = [_pair(square) for square in squares]
    width, height = shapes[0]
    if order == "sgrvinod":
        aspects = [wide for wide, _ in pairs] + [tall for _, tall in pairs]
    else:
        aspects = [aspect for pair in pairs for aspect in pair]
    # w · h = s² and w / h = a: every shape of a map covers the same area.
    others = [(width * math.sqrt(aspect), height / math.sqrt(aspect)) for aspect in aspects]
    return (shapes[::-1] if order == "tf2" else shapes) + others


def _clip(priors: Float[Tensor, "P 4"], clip: str) -> Float[Tensor, "P 4"]:
    if clip == "wh":
        return torch.cat([priors[:, :2], priors[:, 2:].clamp(0, 1)], dim=1)
    if clip == "cxcywh":
        return priors.clamp(0, 1)
    if clip == "corners":
        return xyxy_to_cxcywh(cxcywh_to_xyxy(priors).clamp(0, 1))
    return priors


def paper_scales(num_maps: int, smallest: float = 0.2, largest: float = 0.9) -> list[float]:
    """Evenly spread scales, s_k = s_min + (s_max − s_min) (k − 1) / (m − 1): eq. (4)."""
    if num_maps < 2:
        raise ValueError(f"num_maps must be at least 2 (eq. 4 divides by m - 1), not {num_maps}")
    return [smallest + (largest - smallest) * k / (num_maps - 1) for k in range(num_maps)]


def rescale_priors(spec: PriorSpec, smallest: float, largest: float) -> PriorSpec:
    """Fit priors to other objects: the same maps and shapes, sizes from `smallest` to `largest`.

    The sizes are spread evenly over the maps (eq. 4), and the last extra square is the geometric
    mean of the last size and the one that would come next.

    Raises
    ------
    ValueError
        Unless 0 < smallest ≤ largest.
    """
    if not 0 < smallest <= largest:
        raise ValueError(f"sizes must rise from above 0, not from {smallest} to {largest}")
    sizes = paper_scales(len(spec.feature_maps), smallest, largest)
    beyond = 2 * sizes[-1] - sizes[-2]
    return replace(spec, sizes=tuple(sizes), last_extra=math.sqrt(sizes[-1] * beyond))


def tiny_priors(image_size: int) -> PriorSpec:
    """Priors of d2l's TinySSD for square images of any size: maps of n/8 ... n/64 cells, and one.

    At 256 pixels the maps have 32, 16, 8, 4 and 1 cells a side and P = 5444.
    """
    if image_size < 16:
        raise ValueError(f"image_size must be at least 16 pixels, not {image_size}")
    sides = [max(image_size // stride, 1) for stride in (8, 16, 32, 64)]
    sizes = ((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961))
    return PriorSpec(feature_maps=(*sides, 1), sizes=sizes, ratios=((2.0,),) * 5)


_SSD300_MAPS, _SSD512_MAPS = (38, 19, 10, 5, 3, 1), (64, 32, 16, 8, 4, 2, 1)
#: Distances of the centres in pixels, which 300 is no multiple of.
_SSD300_STEPS, _SSD512_STEPS = (8, 16, 32, 64, 100, 300), (8, 16, 32, 64, 128, 256, 512)


def _vgg(
    sizes: tuple[float, ...],
    last_extra: float,
    three: float | tuple = 3.0,
    maps: tuple[int, ...] = _SSD300_MAPS,
    **options,
) -> PriorSpec:
    """All maps have the ratios 2 and 3 (and inverses) but the first and the last two: only 2."""
    few, many = (2.0,), (2.0, three)
    ratios = (few, *[many] * (len(maps) - 3), few, few)
    return PriorSpec(maps, sizes, ratios, last_extra, **options)


def _caffe(sizes_px: tuple[float, ...], side: int = 300, **options) -> PriorSpec:
    """Sizes in pixels of the image, the last one only for the last extra square."""
    maps, steps = (_SSD300_MAPS, _SSD300_STEPS) if side == 300 else (_SSD512_MAPS, _SSD512_STEPS)
    *sizes, beyond = (size / side for size in sizes_px)
    last_extra = math.sqrt(sizes[-1] * beyond)
    options = {"centres": "steps", "steps": tuple(step / side for step in steps), **options}
    return _vgg(tuple(sizes), last_extra, maps=maps, **options)


_VOC_PX = (30, 60, 111, 162, 213, 264, 315)
_COCO_PX = (21, 45, 99, 153, 207, 261, 315)
#: For 512 pixels the authors' scripts count in percent of the side.
_VOC_512_PX = tuple(5.12 * percent for percent in (7, 15, 30, 45, 60, 75, 90, 105))
_COCO_512_PX = tuple(5.12 * percent for percent in (4, 10, 26, 42, 58, 74, 90, 106))
_PAPER_SIZES = (0.1, 0.2, 0.375, 0.55, 0.725, 0.9)

#: The published priors, one entry for each implementation that *Many SSDs* compares.
PRESETS: dict[str, PriorSpec] = {
    # Liu et al. 2016, section 3.1: conv4_3 at 0.1, the formula's 0.2 to 0.9 on the other five maps.
    "paper": _vgg(_PAPER_SIZES, last_extra=1.0),
    "caffe-voc": _caffe(_VOC_PX),
    "caffe-coco": _caffe(_COCO_PX),
    "caffe-voc-512": _caffe(_VOC_512_PX, 512),
    "caffe-coco-512": _caffe(_COCO_512_PX, 512),
    "torchvision": _caffe(_COCO_PX, clip="wh"),
    "ssd.pytorch": _caffe(_VOC_PX, clip="cxcywh"),
    "lufficc": _caffe(_VOC_PX, clip="cxcywh"),
    "sgrvinod": _vgg(_PAPER_SIZES, 1.0, (3.0, 0.333), order="sgrvinod", clip="cxcywh"),
    "annotated": _vgg(
        (0.1, 0.26, 0.42, 0.58, 0.74, 0.9), 1.0, (3.0, 0.33), order="sgrvinod", clip="cxcywh"
    ),
    "d2l": tiny_priors(256),
    # Its formula counts k from 0, so that the largest map gets 0.06; the next scale would be 0.9.
    "tf2": _vgg(
        (0.06, 0.2, 0.34, 0.48, 0.62, 0.76),
        last_extra=math.sqrt(0.76 * 0.9),
        order="tf2",
        clip="corners",
    ),
}
