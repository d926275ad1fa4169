"""One warp: a plan says what happens to an image and its boxes, and here it is followed.

There is no chance in this module. A plan is a record of plain numbers; its geometry is a chain of
affine maps, multiplied into one before a pixel is touched.
"""

from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Real, UInt8
from torch import Tensor

from ssd_annotated.boxes import check_boxes
from ssd_annotated.transforms import check_image

Pair = tuple[float, float]

#: A warp cannot average over areas; for it, as for OpenCV's own `warpAffine`, "area" is bilinear.
INTERPOLATIONS = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_LINEAR,
    "nearest": cv2.INTER_NEAREST,
    "cubic": cv2.INTER_CUBIC,
    "lanczos4": cv2.INTER_LANCZOS4,
}
#: The same for `resize`, whose INTER_NEAREST takes the pixel at the left top corner.
_RESIZE = {**INTERPOLATIONS, "nearest": cv2.INTER_NEAREST_EXACT}
#: How far away a pixel may lie and still count, in pixels of the source: Lanczos takes 8 by 8.
_REACH = 5


# --- The plan -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distortion:
    """What becomes of the colours: the values drawn, in the units of `Augmentation`."""

    brightness: float = 0.0
    brightness_factor: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    wrap_hue: bool = False
    contrast_first: bool = True
    channels: tuple[int, int, int] = (0, 1, 2)


@dataclass(frozen=True)
class Geometry:
    """Where everything goes: expand, crop, flip, resize, in whole pixels until the last step.

    Parameters
    ----------
    source
        Width and height of the image.
    canvas, place
        Width and height of the canvas, and where on it the image's top left corner lies.
    crop
        ``xyxy`` pixels of the canvas.
    flips
        Whether left and right, and top and bottom, change places.
    image_size
        Side of the result.
    interpolation, fill
        As in `Augmentation`.
    """

    source: tuple[int, int]
    canvas: tuple[int, int]
    place: tuple[int, int]
    crop: tuple[int, int, int, int]
    flips: tuple[bool, bool]
    image_size: int
    interpolation: str = "linear"
    fill: tuple[int, int, int] = (123, 117, 104)

    @property
    def steps(self) -> dict[str, Float64[np.ndarray, "3 3"]]:
        """Each step as the matrix that takes (x, y, 1) from its input's pixels to its output's.

        Coordinates are continuous: pixel i reaches from i to i + 1, and its centre is at i + ½.
        """
        left, top, right, bottom = self.crop
        size = np.array([right - left, bottom - top])
        flips = np.array(self.flips)
        return {
            "expand": affine(shift=self.place),
            "crop": affine(shift=(-left, -top)),
            "flip": affine(scale=np.where(flips, -1, 1), shift=np.where(flips, size, 0)),
            "resize": affine(scale=self.image_size / size),
        }

    @property
    def matrix(self) -> Float64[np.ndarray, "3 3"]:
        """All steps at once: from pixels of the source to pixels of the result."""
        return reduce(lambda before, step: step @ before, self.steps.values())


class Plan(NamedTuple):
    """All that will be done to one image and its target."""

    distortion: Distortion
    geometry: Geometry


def affine(
    scale: Real[np.ndarray, "2"] | Pair = (1, 1), shift: Real[np.ndarray, "2"] | Pair = (0, 0)
) -> Float64[np.ndarray, "3 3"]:
    """The matrix of (x, y) ↦ (scale_x · x + shift_x, scale_y · y + shift_y)."""
    (a, c), (b, d) = scale, shift
    return np.array([[a, 0, b], [0, c, d], [0, 0, 1]], dtype=np.float64)


# --- Following it ---------------------------------------------------------------------------------


def apply(
    image: UInt8[np.ndarray, "h w 3"], target: dict[str, object], plan: Plan
) -> tuple[UInt8[np.ndarray, "H W 3"], dict[str, object]]:
    """Distort the colours, warp the pixels once, and move the boxes along.

    Parameters
    ----------
    image
        8-bit RGB, of the size that the plan was drawn for. It is left as it is.
    target
        ``boxes`` (G, 4) in ``xyxy`` fractions, and whatever else: tensors of G rows lose the rows
        of lost objects, numbers and other things stay.

    Raises
    ------
    ValueError
        If the image is not uint8 (height, width, 3) of the plan's size, a box is none, or a tensor
        has neither G rows nor no dimension at all.
    TypeError
        If the image is no array.
    """
    check_image(image)
    moved = move(target, plan.geometry)
    seen, geometry = cut(image, plan.geometry)
    return warp(distort(seen, plan.distortion), geometry), moved


def distort(
    image: UInt8[np.ndarray, "h w 3"], distortion: Distortion
) -> UInt8[np.ndarray, "h w 3"]:
    """Brightness, contrast, saturation, hue and order of the channels, folded together.

    Brightness and contrast are one look-up table, saturation and hue one pass in HSV. Only a
    contrast that comes after a change of colour needs a table of its own.
    """
    d = distortion
    brightness, contrast = (d.brightness_factor, d.brightness), (d.contrast, 0.0)
    coloured = (d.saturation, d.hue) != (1, 0)
    late = coloured and not d.contrast_first and d.contrast != 1
    image = np.ascontiguousarray(image)
    steps = [brightness] if late else [brightness, contrast]
    if set(steps) != {(1, 0)}:
        image = cv2.LUT(image, level_table(steps))
    if coloured:
        image = shift_colours(image, d.saturation, d.hue, d.wrap_hue)
    if late:
        image = cv2.LUT(image, level_table([contrast]))
    return image if d.channels == (0, 1, 2) else np.ascontiguousarray(image[..., d.channels])


def level_table(steps: list[Pair]) -> UInt8[np.ndarray, "256"]:
    """What becomes of each level after steps of (factor, addend), each rounded and clipped."""
    levels = np.arange(256.0)
    for factor, addend in steps:
        levels = np.clip(np.rint(levels * factor + addend), 0, 255)
    return levels.astype(np.uint8)


def shift_colours(
    image: UInt8[np.ndarray, "h w 3"], saturation: float, hue: float, wrap_hue: bool
) -> UInt8[np.ndarray, "h w 3"]:
    """Multiply S and add to H (degrees) in 8-bit HSV, where H counts 0 to 179 in steps of 2°.

    Caffe passes through HSV twice, once for each, which rounds once more.
    """
    levels = np.arange(256.0)
    hues = np.rint(levels + hue / 2)
    hues = (hues if wrap_hue else np.maximum(hues, 0)) % 180
    saturations = np.clip(np.rint(levels * saturation), 0, 255)
    # Plane by plane: OpenCV takes twice as long for a table of three columns.
    h, s, v = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    h = cv2.LUT(h, hues.astype(np.uint8))
    s = cv2.LUT(s, saturations.astype(np.uint8))
    return cv2.cvtColor(cv2.merge([h, s, v]), cv2.COLOR_HSV2RGB)


def cut(
    image: UInt8[np.ndarray, "h w 3"], geometry: Geometry
) -> tuple[UInt8[np.ndarray, "_ _ 3"], Geometry]:
    """Leave out what the result cannot see, so that nobody paints it: the rest, and its geometry.

    Of an expanded image a few pixels beyond the crop stay, as neighbours of those at its edge.
    """
    _check_source(image, geometry)
    expanded = geometry.canvas != geometry.source
    size, place = np.array(geometry.source), np.array(geometry.place)
    margin = _REACH if expanded else 0
    low = np.clip(np.array(geometry.crop[:2]) - place - margin, 0, size - 1)
    high = np.clip(np.array(geometry.crop[2:]) - place + margin, low + 1, size)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    seen = image[top:bottom, left:right]
    source = (right - left, bottom - top)
    if expanded:
        return seen, replace(geometry, source=source, place=tuple((place + low).tolist()))
    return seen, replace(geometry, source=source, canvas=source, place=(0, 0), crop=(0, 0, *source))


def warp(image: UInt8[np.ndarray, "h w 3"], geometry: Geometry) -> UInt8[np.ndarray, "H W 3"]:
    """Expand, crop, flip and resize in one go: every pixel of the result is looked up once.

    Notes
    -----
    Pixels are interpolated the way that the plan drew: nearest, bilinear, bicubic or Lanczos, as
    Caffe's resize would, so that a network sees what each of them does to edges. "area", Caffe's
    fifth, becomes bilinear, since a warp only looks up and never averages. Where much is shrunk
    it therefore aliases, as `cv2.resize` does with anything but "area".

    An image that was not expanded is Caffe's way: a slice, resized, which knows nothing outside
    of itself. On an expanded one everything beyond is `fill`, and the pixels just outside of the
    crop still count at its edge; the canvas itself is never painted.
    """
    _check_source(image, geometry)
    if geometry.canvas == geometry.source:
        left, top, right, bottom = geometry.crop
        side = (geometry.image_size, geometry.image_size)
        flag = _RESIZE[geometry.interpolation]
        result = cv2.resize(image[top:bottom, left:right], side, interpolation=flag)
        return _flip(result, geometry.flips)
    return _warp_expanded(image, geometry)


def _warp_expanded(
    image: UInt8[np.ndarray, "h w 3"], geometry: Geometry
) -> UInt8[np.ndarray, "H W 3"]:
    """Warp to where the image lies in the result, with `fill` around it."""
    side, matrix = geometry.image_size, geometry.matrix
    width, height = geometry.source
    reached = np.array([[-_REACH, -_REACH, width + _REACH, height + _REACH]], dtype=np.float64)
    ends = map_boxes(matrix, reached)[0].reshape(2, 2)
    low = np.clip(np.floor(ends[0]), 0, side - 1).astype(int)
    high = np.clip(np.ceil(ends[1]), low + 1, side).astype(int)
    # OpenCV counts from the centre of the first pixel, not from its corner.
    to_corner, to_centre = affine(shift=(0.5, 0.5)), affine(shift=-0.5 - low)
    part = cv2.warpAffine(
        image,
        (to_centre @ matrix @ to_corner)[:2],
        tuple((high - low).tolist()),
        flags=INTERPOLATIONS[geometry.interpolation],
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=geometry.fill,
    )
    (left, top), (right, bottom) = low.tolist(), (side - high).tolist()
    border = cv2.BORDER_CONSTANT
    return cv2.copyMakeBorder(part, top, bottom, left, right, border, value=geometry.fill)


def _flip(image: UInt8[np.ndarray, "h w 3"], flips: tuple[bool, bool]) -> np.ndarray:
    across, down = flips
    return cv2.flip(image, -1 if across and down else int(across)) if across or down else image


def _check_source(image: UInt8[np.ndarray, "h w 3"], geometry: Geometry) -> None:
    size = image.shape[1::-1]
    if size != geometry.source:
        raise ValueError(f"the plan is for (width, height) = {geometry.source}, not {size}")


def move(target: dict[str, object], geometry: Geometry) -> dict[str, object]:
    """Take the objects along: drop those whose centre is cut off, clip the boxes of the others.

    An object of which no area is left, in its boxes' precision, is dropped too: it has no offsets.
    """
    boxes = target["boxes"]
    check_fractions(boxes)
    pixels = boxes.double().numpy(force=True) * (*geometry.source, *geometry.source)
    result = map_boxes(geometry.matrix, pixels) / geometry.image_size
    moved = torch.from_numpy(np.clip(result, 0, 1)).to(boxes)
    on_canvas = pixels + np.tile(geometry.place, 2)
    inside = torch.from_numpy(centres_inside(np.array([geometry.crop]), on_canvas)[0])
    kept = inside.to(boxes.device) & (moved[:, :2] < moved[:, 2:]).all(dim=1)
    rows = kept.nonzero().flatten()
    things = {**target, "boxes": moved}
    return {name: _keep(name, thing, rows, len(boxes)) for name, thing in things.items()}


def map_boxes(
    matrix: Float64[np.ndarray, "3 3"], boxes: Float64[np.ndarray, "G 4"]
) -> Float64[np.ndarray, "G 4"]:
    """Map two corners of each box and sort them again, since a flip exchanges them."""
    corners = boxes.reshape(-1, 2, 2) @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def centres_inside(
    crops: Real[np.ndarray, "N 4"], boxes: Float64[np.ndarray, "G 4"]
) -> Bool[np.ndarray, "N G"]:
    """Which boxes have their centre in which crop, its edge included."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = crops[:, None, :2], crops[:, None, 2:]
    return ((low <= centres) & (centres <= high)).all(axis=2)


def check_fractions(boxes: Tensor) -> None:
    """Refuse boxes that are none, or that lie outside the image: most likely they are pixels."""
    if boxes.is_floating_point() and boxes.shape[1:] == (4,):
        corners = boxes.double().numpy(force=True)
        ordered = (corners[:, :2] <= corners[:, 2:]).all()
        if ordered and (corners >= -1e-4).all() and (corners <= 1 + 1e-4).all():
            return  # to find out what is wrong would take ten times as long
    check_boxes(boxes)
    outside = ((boxes < -1e-4) | (boxes > 1 + 1e-4)).any(dim=1)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"boxes[{row}] = {boxes[row].tolist()} must be fractions of the image, from 0 to 1"
        )


def _keep(name: str, thing: object, rows: Int64[Tensor, " _"], count: int) -> object:
    if not isinstance(thing, Tensor) or thing.ndim == 0:
        return thing
    if len(thing) != count:
        raise ValueError(f"{name} has {len(thing)} rows for {count} boxes")
    return thing.index_select(0, rows)
