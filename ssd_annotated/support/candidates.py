"""Candidates: the few priors that an object overlaps well, found by arithmetic and not by search.

The priors of one shape stand on a grid of cells. Their IoU with an object falls with the distance
in x and with the distance in y. So the best prior of a shape stands in the nearest cell, and all
priors above a level lie in a rectangle of cells. SSD300 has 8732 priors, but only thirty shapes.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

# The priors of an object, best first: pairs (IoU, prior).
Ranking = Iterator[tuple[float, int]]
# Pairs of an object and a prior, object by object: the number of each, and their IoU.
Pairs = tuple[Int[ndarray, " K"], Int[ndarray, " K"], Float[ndarray, " K"]]
#: Single precision misplaces a corner by less than this; priors are a thousand times as large.
_ROUNDING = 1e-6
#: Priors that seem to have more maps than this have no grid.
_MOST_MAPS = 16
#: An object that fits no prior may overlap thousands a little; more than this are not listed.
_MOST_PAIRS = 1000


class Grid(NamedTuple):
    """Where the priors of each of S shapes stand; pairs of numbers are for x and for y."""

    first: Int[ndarray, " S"]  # index of the shape's prior in the first cell
    cells: Int[ndarray, "2 1 S"]  # columns and rows
    stride: Int[ndarray, "2 1 S"]  # from a prior to its neighbour, in indices
    origin: Float[ndarray, "2 1 S"]  # centre of the first cell
    step: Float[ndarray, "2 1 S"]
    size: Float[ndarray, "2 1 S"]


class Candidates:
    """All objects of a batch, with the rows image · P + prior that each overlaps well.

    All pairs whose IoU reaches the threshold are listed. For an object without such a pair, the
    pairs near its best IoU are listed instead, or none if it overlaps next to nothing.

    Attributes
    ----------
    objects, rows, iou
        The pairs, object by object.
    """

    def __init__(self, corners: ndarray, boxes: ndarray, home: ndarray, pairs: Pairs) -> None:
        self._corners, self._boxes, self._home = corners, boxes, home
        self.objects, priors, self.iou = pairs
        self.rows = home[self.objects] + priors
        self._ends = np.searchsorted(self.objects, np.arange(len(home) + 1))

    def best(self) -> tuple[Float[ndarray, " N"], Int[ndarray, " N"]]:
        """The largest IoU of each object, and the first row that has it."""
        iou, rows = np.zeros(len(self._home), self.iou.dtype), self._home.copy()
        listed = np.flatnonzero(np.diff(self._ends))
        starts = self._ends[listed]
        if len(listed):
            iou[listed] = np.maximum.reduceat(self.iou, starts)
            best = np.where(self.iou == iou[self.objects], self.rows, np.iinfo(int).max)
            rows[listed] = np.minimum.reduceat(best, starts)
        for index in set(range(len(rows))) - set(listed.tolist()):
            overlaps = self._overlaps(index)
            rows[index] += overlaps.argmax()
            iou[index] = overlaps.max()
        return iou, rows

    def ranking(self, index: int) -> Ranking:
        """An object's pairs (IoU, row), best first: the listed ones, then all others it may need.

        Each other object of its image takes one prior, so it never needs more pairs than objects.
        """
        most = int((self._home == self._home[index]).sum())
        own = slice(self._ends[index], self._ends[index + 1])
        order = self.rows[own].argsort()
        yield from by_falling_iou(self.iou[own][order], self.rows[own][order], most)
        # A suspended generator keeps its variables in memory, so nothing large has a name here.
        yield from by_falling_iou(
            self._overlaps(index), self._home[index] + np.arange(self._corners.shape[1]), most
        )

    def _overlaps(self, index: int) -> Float[ndarray, " P"]:
        return paired_iou(self._boxes[:, [index]], self._corners)


def by_falling_iou(
    iou: Float[ndarray, " K"], priors: Int[ndarray, " K"], most: int
) -> list[tuple[float, int]]:
    """The `most` best pairs (IoU, prior); of equals the first, for priors in rising order."""
    near = np.flatnonzero(iou > 0)
    if len(near) > most:
        near = near[iou[near] >= np.partition(iou[near], -most)[-most]]
    order = near[np.argsort(-iou[near], kind="stable")]
    order = np.concatenate([order, np.flatnonzero(iou <= 0)])[:most]  # zeros are in order
    return list(zip(iou[order].tolist(), priors[order].tolist()))


def find_candidates(
    priors: Float[Tensor, "P 4"], boxes: list[Float[Tensor, "_ 4"]], threshold: float
) -> Candidates:
    """The candidates of all objects of a batch, of one at least."""
    numbers, objects = _numbers(priors), _numbers(torch.cat(boxes)).T.copy()
    corners, grid = _analyse(numbers.tobytes(), numbers.dtype)
    home = np.repeat(np.arange(len(boxes)) * len(priors), [len(image) for image in boxes])
    if grid is None:
        pairs = pairs_anywhere(corners, objects, threshold)
    else:
        pairs = pairs_on_grid(grid, corners, objects, threshold)
    return Candidates(corners, objects, home, pairs)


def _numbers(tensor: Tensor) -> ndarray:
    """In NumPy, which does not know bfloat16: at least in single precision."""
    tensor = tensor.detach().cpu()
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).numpy()


@lru_cache(maxsize=4)
def _analyse(data: bytes, dtype: np.dtype) -> tuple[Float[ndarray, "4 P"], Grid | None]:
    """The corners of priors, each coordinate by itself, and their grid; seldom asked for others."""
    priors = np.frombuffer(data, dtype).reshape(-1, 4).copy()
    centre, size = priors.T[:2], priors.T[2:]
    return np.concatenate([centre - size / 2, centre + size / 2]), find_grid(priors)


def paired_iou(a: Float[ndarray, "4 *#n"], b: Float[ndarray, "4 *#n"]) -> Float[ndarray, "*n"]:
    """`pairwise_iou` of boxes that are paired already, given as four coordinates."""
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    both = np.maximum(width, 0) * np.maximum(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / np.where(union > 0, union, 1)


def _level(best: Float[ndarray, " N"], threshold: float) -> Float[ndarray, " N"]:
    """The IoU from which on an object's pairs are listed; 2, which none reaches, if it has none."""
    return np.where(best > 0, np.minimum(0.7 * best, threshold), 2).astype(best.dtype)


def pairs_anywhere(
    corners: Float[ndarray, "4 P"], boxes: Float[ndarray, "4 N"], threshold: float
) -> Pairs:
    """Show every object every prior."""
    found = []
    for index in range(boxes.shape[1]):
        iou = paired_iou(boxes[:, [index]], corners)
        priors = np.flatnonzero(iou >= _level(iou.max(keepdims=True), threshold))
        found.append((np.full(len(priors), index), priors, iou[priors]))
    return tuple(np.concatenate(field) for field in zip(*found))


# --- On a grid ------------------------------------------------------------------------------------


def find_grid(priors: Float[ndarray, "P 4"]) -> Grid | None:
    """The grid that all priors (``cxcywh``) stand on, or None if some do not."""
    maps: list[Grid] = []
    start = 0
    while start < len(priors):
        grid = _find_map(priors[start:], start) if len(maps) < _MOST_MAPS else None
        if grid is None:
            return None
        maps.append(grid)
        start += int(grid.cells[..., 0].prod()) * len(grid.first)
    return Grid(*(np.concatenate(field, axis=-1) for field in zip(*maps)))


def _find_map(priors: Float[ndarray, "P 4"], start: int) -> Grid | None:
    """The grid of the first feature map, if its cells follow each other row by row."""
    shapes = _repeats(priors[:, :2], 1)  # the priors of a cell share their centre,
    cells = _repeats(priors[:, 2:], shapes) // shapes  # the cells of a map their shapes,
    columns = _repeats(priors[: cells * shapes : shapes, 1:2], 1)  # the cells of a row their y
    sides = np.array([columns, cells // columns])
    lattice = priors[: sides.prod() * shapes].reshape(sides[1], columns, shapes, 4).astype(float)
    first, last = lattice[0, 0, 0, :2], lattice[-1, -1, 0, :2]
    step = np.where(sides > 1, (last - first) / np.maximum(sides - 1, 1), 1)
    x, y = (origin + np.arange(side) * by for origin, side, by in zip(first, sides, step))
    uneven = [lattice[..., 0] - x[:, None], lattice[..., 1] - y[:, None, None]]
    size = lattice[0, 0, :, 2:].T[:, None]
    even = max(abs(x).max() for x in uneven) < _ROUNDING and step.min() > 0
    if not even or size.min() < 1000 * _ROUNDING or abs(lattice).max() > 4:
        return None
    stride = np.array([shapes, shapes * columns])
    fields = (np.tile(field[:, None, None], shapes) for field in (sides, stride, first, step))
    return Grid(start + np.arange(shapes), *fields, size)


def _repeats(rows: ndarray, period: int) -> int:
    """How many rows, from the first, equal those one period before; the first period does."""
    changes = (rows[period:] != rows[:-period]).any(axis=1)
    return period + (int(changes.argmax()) if changes.any() else len(changes))


def pairs_on_grid(
    grid: Grid, corners: Float[ndarray, "4 P"], boxes: Float[ndarray, "4 N"], threshold: float
) -> Pairs:
    """Look at the nearest prior of each shape first, then into the rectangles around it."""
    ends = boxes.astype(float).reshape(2, 2, -1, 1)  # min and max, of x and y
    centre, size = (ends[0] + ends[1]) / 2, ends[1] - ends[0]
    nearest = np.rint((centre - grid.origin) / grid.step).clip(0, grid.cells - 1).astype(int)
    priors = grid.first + (nearest * grid.stride).sum(axis=0)
    best = paired_iou(boxes[:, :, None], corners[:, priors]).max(axis=1)
    level = _level(best, threshold)
    low, counts = _rectangles(grid, centre, size, level[:, None].astype(float))
    counts[:, (best < threshold) & (counts.prod(axis=0).sum(axis=1) > _MOST_PAIRS)] = 0
    objects, priors = _cells(grid, low, counts)
    iou = paired_iou(boxes[:, objects], corners[:, priors])
    good = iou >= level[objects]
    return objects[good], priors[good], iou[good]


def _rectangles(
    grid: Grid,
    centre: Float[ndarray, "2 N 1"],
    size: Float[ndarray, "2 N 1"],
    level: Float[ndarray, "N 1"],
) -> tuple[Int[ndarray, "2 N S"], Int[ndarray, "2 N S"]]:
    """Outside of which cells no IoU reaches the level: the first one, and how many from there.

    IoU ≥ t means that the intersection is at least t / (1 + t) times the sum of both areas. In y
    two boxes overlap by the lesser height at most; what is needed, divided by that, is how much
    they must overlap in x. Lest rounding keep one out, a little more is let in.
    """
    need = 0.999 * level / (1 + level) * (size.prod(axis=0) + grid.size.prod(axis=0))
    most = np.minimum(size, grid.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        least = need / most[::-1]
        reach = (size + grid.size) / 2 - least + _ROUNDING
        low = np.ceil((centre - reach - grid.origin) / grid.step).clip(0, grid.cells)
        high = np.floor((centre + reach - grid.origin) / grid.step).clip(-1, grid.cells - 1)
        counts = np.where(least <= most + _ROUNDING, high - low + 1, 0).clip(0)
    return np.nan_to_num(low).astype(int), counts.astype(int)


def _cells(
    grid: Grid, low: Int[ndarray, "2 N S"], counts: Int[ndarray, "2 N S"]
) -> tuple[Int[ndarray, " K"], Int[ndarray, " K"]]:
    """Objects and priors of all cells of all rectangles."""
    start = grid.first + (low * grid.stride).sum(axis=0)
    sizes = counts.prod(axis=0)
    objects, shapes = sizes.nonzero()
    sizes, start = sizes[objects, shapes], start[objects, shapes]
    rectangle = np.repeat(np.arange(len(sizes)), sizes)
    number = np.arange(len(rectangle)) - (sizes.cumsum() - sizes)[rectangle]
    y, x = np.divmod(number, counts[0, objects, shapes][rectangle])
    stride = grid.stride[:, 0, shapes][:, rectangle]
    return objects[rectangle], start[rectangle] + x * stride[0] + y * stride[1]
