"""Layout: the boxes of a scene, drawn before their contents.

Because the box comes *first*, this file decides which sizes, shapes and overlaps occur, not the
handwriting: every feature map, every aspect ratio and every rule of matching gets something to do.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

TRIES = 48  # places offered to a box before it is left out
MIN_SIDE_PX = 4  # nothing thinner can be read
MAX_HIDDEN = 0.2  # share of a box that later boxes may cover


@dataclass(frozen=True)
class Variant:
    """What the scenes of one kind hold.

    Parameters
    ----------
    sizes
        Smallest and largest √(width · height), in fractions of the image's side; log-uniform.
    stretch
        Least and largest longer side / shorter side; log-uniform, for wide and tall boxes alike.
    counts
        Fewest and most objects (or pairs of objects); n has a probability ∝ 1 / n. Now and then
        an object finds no place.
    pair_iou
        If given, objects come in pairs, whose IoU is uniform in this range.
    strokes
        Fewest and most painted strokes that are not digits and have no box.
    max_iou
        Largest IoU of two objects, or of two pairs.

    Raises
    ------
    ValueError
        If a range is empty or its boxes do not fit into an image.
    """

    sizes: tuple[float, float] = (0.2, 0.85)
    stretch: tuple[float, float] = (1.0, 3.0)
    counts: tuple[int, int] = (2, 5)
    pair_iou: tuple[float, float] | None = None
    strokes: tuple[int, int] = (0, 0)
    max_iou: float = 0.3

    def __post_init__(self) -> None:
        least = {"sizes": 0.01, "stretch": 1, "counts": 0, "strokes": 0, "pair_iou": 0}
        for name, lowest in least.items():
            low, high = getattr(self, name) or (0, 0)
            if not lowest <= low <= high:
                raise ValueError(f"{name} must rise from at least {lowest}, not {(low, high)}")
        if self.sizes[1] * self.stretch[0] ** 0.5 > 1:
            raise ValueError(f"sizes {self.sizes} at stretch {self.stretch} exceed the image")


VARIANTS = {
    "standard": Variant(),
    "tiny": Variant(sizes=(0.06, 0.18), counts=(4, 10)),
    "wide": Variant(sizes=(0.12, 0.4), stretch=(3.0, 6.0)),
    "crowd": Variant(sizes=(0.2, 0.5), counts=(1, 2), pair_iou=(0.45, 0.8)),
    "decoys": Variant(strokes=(2, 4)),
}


def draw_boxes(
    rng: np.random.Generator,
    variant: Variant,
    image_size: int,
    among: Int64[np.ndarray, "A 4"] | None = None,
) -> Int64[np.ndarray, "G 4"]:
    """Draw the size, shape and place of every box, before its content is drawn.

    Parameters
    ----------
    among
        Existing boxes, which the new ones must respect.

    Returns
    -------
    The new boxes, ``xyxy`` in whole pixels, in the order of painting: the largest first, a pair's
    two in a row. A box (or pair) that found no free place is left out.
    """
    among = np.empty((0, 4), dtype=np.int64) if among is None else among
    boxes = among
    for shape in draw_shapes(rng, variant, draw_count(rng, variant.counts), image_size):
        place = draw_place(rng, shape, image_size, boxes, variant.max_iou)
        if variant.pair_iou and len(place):
            partner = draw_partner(rng, place[0], image_size, variant.pair_iou)
            free = partner[is_free(partner, boxes, variant.max_iou)]
            place = np.concatenate([place, free])[: 2 * len(free)]
        boxes = np.concatenate([boxes, place])
    return boxes[len(among) :]


def draw_count(rng: np.random.Generator, counts: tuple[int, int]) -> int:
    """Draw n with a probability ∝ 1 / n, so that scenes of each n bring equally many objects."""
    numbers = np.arange(counts[0], counts[1] + 1)
    odds = np.cumsum(1 / np.maximum(numbers, 1))
    return int(numbers[np.searchsorted(odds, rng.random() * odds[-1])])


def draw_shapes(
    rng: np.random.Generator, variant: Variant, count: int, image_size: int
) -> Int64[np.ndarray, "N 2"]:
    """Draw `count` widths and heights in pixels, largest area first."""
    size = np.exp(rng.uniform(*np.log(variant.sizes), count))
    # A box of size s and stretch r is s √r long, and this must not exceed 1.
    most = np.minimum(variant.stretch[1], size**-2)
    stretch = np.exp(rng.uniform(np.log(variant.stretch[0]), np.log(most)))
    root = np.sqrt(stretch) ** rng.choice((-1, 1), count)
    sides = np.rint(np.stack([size * root, size / root], axis=1) * image_size).astype(np.int64)
    sides = np.clip(sides, MIN_SIDE_PX, image_size)
    return sides[np.argsort(-sides.prod(axis=1))]


def draw_place(
    rng: np.random.Generator,
    shape: Int64[np.ndarray, "2"],
    image_size: int,
    boxes: Int64[np.ndarray, "G 4"],
    max_iou: float,
) -> Int64[np.ndarray, "N 4"]:
    """Put a box of this shape anywhere inside the image; no row if no place was free."""
    corner = (rng.random((TRIES, 2)) * (image_size + 1 - shape)).astype(np.int64)
    places = np.concatenate([corner, corner + shape], axis=1)
    return places[is_free(places, boxes, max_iou)][:1]


def draw_partner(
    rng: np.random.Generator,
    box: Int64[np.ndarray, "4"],
    image_size: int,
    pair_iou: tuple[float, float],
) -> Int64[np.ndarray, "N 4"]:
    """Draw a box like `box` at an IoU uniform in `pair_iou`; no row if no try succeeds.

    It is the smaller one of the two, since it will be painted over the other.
    """
    sides = (box[2:] - box[:2]) * np.exp(rng.uniform(-0.3, 0.0, (8 * TRIES, 1)))
    centre = (box[:2] + box[2:]) / 2 + rng.normal(scale=0.15, size=sides.shape) * sides
    places = np.rint(np.concatenate([centre - sides / 2, centre + sides / 2], axis=1)).astype(int)
    iou = overlaps(places, box[None])[1][:, 0]
    inside = ((places >= 0) & (places <= image_size)).all(axis=1)
    allowed = inside & (iou >= pair_iou[0]) & (iou <= pair_iou[1])
    miss = np.abs(iou - rng.uniform(*pair_iou))[allowed]
    return places[allowed][np.argsort(miss)[:1]]


def is_free(
    places: Int64[np.ndarray, "N 4"], boxes: Int64[np.ndarray, "G 4"], max_iou: float
) -> Bool[np.ndarray, "N"]:
    """Tell whether a box keeps to `max_iou` and leaves enough of the earlier boxes visible."""
    shared, iou = overlaps(places, boxes)
    hidden = np.triu(overlaps(boxes, boxes)[0], 1).sum(axis=1) + shared
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return ((shared == 0) | (iou <= max_iou) & (hidden <= MAX_HIDDEN * area)).all(axis=1)


def overlaps(
    a: Int64[np.ndarray, "N 4"], b: Int64[np.ndarray, "M 4"]
) -> tuple[Int64[np.ndarray, "N M"], Float64[np.ndarray, "N M"]]:
    """Compute the shared area in pixels, and the IoU, of every pair of boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b))
    return shared, shared / (area_a[:, None] + area_b - shared)
