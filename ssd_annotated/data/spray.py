"""Spray paint: real handwriting, real photographs, and how the one gets onto the other.

The digits come inside scikit-learn, the photographs inside scikit-image and scikit-learn, so
nothing is downloaded. Both are divided into a training and a test part that share nothing.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from ssd_annotated.data.pixels import decode
from ssd_annotated.support.checks import check_choice
from ssd_annotated.support.extras import need

_need = partial(need, extra="graffiti", purpose="graffiti")

# Each split has a person, plants, metal, darkness and a rough texture; no photograph is in both.
PHOTOGRAPHS = {
    "train": (
        *("astronaut.png", "brick.png", "chelsea.png", "china.jpg", "gravel.png"),
        *("hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg"),
    ),
    "test": ("camera.png", "coffee.png", "coins.png", "flower.jpg", "grass.png", "rocket.jpg"),
}
SPLITS = tuple(PHOTOGRAPHS)
TEST_EVERY = 5  # every fifth image of a digit is a test image

FIELD_SCALE = 4  # pixels of a glyph's field per pixel of its 8 × 8 original
EDGE = 2.5  # steepness of a glyph's edge: paint fades out over about one pixel
CONTRAST = 75.0  # difference in luminance (0 to 255) that makes paint easy to see


class Glyph(NamedTuple):
    """A shape to spray: paint goes where ``field`` exceeds 1/2, and ``hull`` is its convex hull.

    The hull's points are (x, y) in pixels of the field, with pixel centres at integers.
    """

    field: Float32[np.ndarray, "F F"]
    hull: Float32[np.ndarray, "K 2"]


# --- The material ---------------------------------------------------------------------------------


@lru_cache
def photographs(split: str, shorter_side: int = 512) -> dict[str, UInt8[np.ndarray, "_ _ 3"]]:
    """Read the photographs of one split, by name: RGB, shrunk to at most `shorter_side` pixels."""
    check_choice("split", split, SPLITS)
    return {Path(name).stem: _read_photograph(name, shorter_side) for name in PHOTOGRAPHS[split]}


def _read_photograph(name: str, shorter_side: int) -> UInt8[np.ndarray, "H W 3"]:
    package = "sklearn.datasets.images" if name in ("china.jpg", "flower.jpg") else "skimage.data"
    _need(package)
    image = decode((files(package) / name).read_bytes())
    scale = min(1.0, shorter_side / min(image.shape[:2]))
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


@lru_cache
def handwriting(split: str) -> tuple[tuple[Glyph, ...], ...]:
    """Trace the handwriting of one split: ``handwriting(split)[7]`` holds every seven."""
    images = _need("sklearn.datasets").load_digits().images
    return tuple(tuple(map(trace, images[chosen])) for chosen in digit_indices(split))


def digit_indices(split: str) -> list[Int64[np.ndarray, "..."]]:
    """List, for each digit, the images of ``sklearn.datasets.load_digits`` in one split."""
    check_choice("split", split, SPLITS)
    written = _need("sklearn.datasets").load_digits().target
    indices = [np.flatnonzero(written == digit) for digit in range(10)]
    return [i[(np.arange(len(i)) % TEST_EVERY == 0) == (split == "test")] for i in indices]


def trace(image: Float[np.ndarray, "8 8"]) -> Glyph:
    """Turn a digit into a smooth glyph.

    Each of its 8 × 8 values, 0 to 16, counts the inked dots in a block of 4 × 4. Such counting
    closes small holes, so the image is sharpened before it is enlarged.
    """
    ink = np.pad(image.astype(np.float32) / 16, 2)
    ink -= 0.5 * cv2.Laplacian(ink, cv2.CV_32F)
    side = len(ink) * FIELD_SCALE
    field = cv2.resize(ink, (side, side), interpolation=cv2.INTER_CUBIC)
    return with_hull(cv2.GaussianBlur(field, (0, 0), FIELD_SCALE / 4) - 0.15)


def with_hull(field: Float32[np.ndarray, "F F"]) -> Glyph:
    """Find where interpolation between neighbouring pixels crosses 1/2, and the convex hull."""
    points = []
    for f, xy in ((field, [0, 1]), (field.T, [1, 0])):
        row, left = np.nonzero((f[:, 1:] > 0.5) != (f[:, :-1] > 0.5))
        step = (0.5 - f[row, left]) / (f[row, left + 1] - f[row, left])
        points.append(np.stack([left + step, row], axis=1)[:, xy])
    hull = cv2.convexHull(np.concatenate(points).astype(np.float32))
    return Glyph(field, hull[:, 0])


def draw_stroke(rng: np.random.Generator) -> Glyph:
    """Scribble something that is not a digit: a wave, a zigzag, a cross or an arc."""
    t = np.linspace(-1, 1, 25)
    turns, lean, drift = rng.uniform([1.25, -0.7, -0.7], [2.0, 0.7, 0.7])
    kinds = (
        [(t, 0.5 * np.sin(np.pi * turns * t))],
        [(t, 0.4 * np.arcsin(np.sin(np.pi * turns * t)))],
        [(t, lean * t), (drift * t, t)],
        [(np.cos(turns * t), np.sin(turns * t))],
    )
    side = 12 * FIELD_SCALE
    canvas = np.zeros((side, side), dtype=np.uint8)
    for line in kinds[rng.integers(len(kinds))]:
        points = np.rint((np.stack(line, axis=1) * 0.35 + 0.5) * side).astype(np.int32)
        cv2.polylines(canvas, [points], False, 255, thickness=5, lineType=cv2.LINE_AA)
    return with_hull(cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), FIELD_SCALE / 4))


# --- The paint ------------------------------------------------------------------------------------


def draw_wall(
    rng: np.random.Generator, photos: Sequence[UInt8[np.ndarray, "_ _ 3"]], image_size: int
) -> Float32[np.ndarray, "{image_size} {image_size} 3"]:
    """Cut a random square, mirrored or not, from a random photograph in random light; 0 to 255."""
    photo = photos[rng.integers(len(photos))]
    side = int(min(photo.shape[:2]) * rng.uniform(0.5, 1.0))
    y, x = rng.integers(0, np.array(photo.shape[:2]) - side + 1)
    method = cv2.INTER_AREA if side > image_size else cv2.INTER_LINEAR
    cut = photo[y : y + side, x : x + side]
    wall = cv2.resize(cut, (image_size, image_size), interpolation=method)
    light = rng.uniform(0.75, 1.1) * rng.uniform(0.85, 1.15, 3)
    return np.minimum(wall[:, :: rng.choice((-1, 1))] * light.astype(np.float32), 255)


def stencil(
    glyph: Glyph, degrees: float, width: int, height: int
) -> Float32[np.ndarray, "{height} {width}"]:
    """Rotate a glyph, then stretch it until it just touches all four sides of a box.

    The extent of the rotated hull is the tight crop. One affine map takes the centre of each pixel
    of the box back into the glyph's field, so the shape is interpolated only once.

    Parameters
    ----------
    width, height
        Size of the box in pixels.

    Returns
    -------
    Coverage of each pixel by paint (alpha), 0 to 1.

    Notes
    -----
    Each pixel is sampled at its centre. In a small box a tip may fall between two centres; paint
    then ends short of that side. The gap is seldom more than a pixel, and there is none where the
    shorter side has 9 pixels and the longer side at most three times as many.
    """
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    hull = glyph.hull @ turn.T
    low, high = hull.min(axis=0), hull.max(axis=0)
    step = (high - low) / (width, height)  # pixels of the field per pixel of the box
    back = np.column_stack([turn.T * step, turn.T @ (low + step / 2)])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    field = cv2.warpAffine(glyph.field, back, (width, height), flags=flags)
    steepness = max(1.0, EDGE / float(np.sqrt(step.prod())))
    return np.clip(0.5 + (field - 0.5) * np.float32(steepness), 0, 1)


def spray(
    rng: np.random.Generator,
    canvas: Float32[np.ndarray, "S S 3"],
    box: Int64[np.ndarray, "4"],
    alpha: Float32[np.ndarray, "h w"],
) -> None:
    """Paint `box` (xyxy pixels) of `canvas` in place: one colour, fading to another, grainy."""
    x0, y0, x1, y1 = box
    patch = canvas[y0:y1, x0:x1]
    # Not a matrix product: for so few numbers, waking the threads of BLAS costs more than adding.
    local = luminance(np.einsum("hw,hwc->c", alpha, patch) / alpha.sum())
    colour = pick_colour(rng, float(local))
    # The second tone is no harder to see: light paint fades towards white, dark paint to black.
    away = np.float32(255 if luminance(colour) > local else 0)
    fade = np.linspace(0, 0.35, len(patch), dtype=np.float32)[:: rng.choice((-1, 1)), None, None]
    grain = np.abs(rng.standard_normal(alpha.shape, dtype=np.float32))
    opacity = alpha * (np.float32(rng.uniform(0.9, 1.0)) - np.float32(0.06) * grain)
    patch += opacity[:, :, None] * (colour + fade * (away - colour) - patch)


def luminance(rgb: Float32[np.ndarray, "*N 3"]) -> Float32[np.ndarray, "*N"] | np.float32:
    """Weigh red, green and blue as the eye does: 0.299 R + 0.587 G + 0.114 B."""
    return (rgb * np.array([0.299, 0.587, 0.114], dtype=np.float32)).sum(axis=-1)


def pick_colour(rng: np.random.Generator, local: float) -> Float32[np.ndarray, "3"]:
    """Take a can that is easy to see on a wall of luminance `local` or, one time in seven, hard."""
    contrast = np.abs(luminance(SPRAY_CANS) - local)
    easy = contrast > CONTRAST
    wanted = easy if rng.random() < 0.85 else ~easy & (contrast > CONTRAST / 3)
    colours = SPRAY_CANS[wanted]
    return colours[rng.integers(len(colours))]


def spray_cans() -> Float32[np.ndarray, "N 3"]:
    """Fill the shelf: eighteen hues in five tones each, and two dozen cans of white and black."""
    tones = [(255, 255), (255, 190), (255, 130), (170, 255), (110, 255)]  # saturation, value
    hsv = np.array([[(hue, *tone) for hue in range(0, 180, 10) for tone in tones]], dtype=np.uint8)
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]
    return np.concatenate([rgb, [(250, 250, 250), (20, 20, 20)] * 12]).astype(np.float32)


SPRAY_CANS = spray_cans()
