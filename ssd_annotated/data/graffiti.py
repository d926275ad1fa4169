"""Graffiti digits: real handwriting sprayed on real photographs, with every box known exactly."""

import operator
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ssd_annotated.data.layout import VARIANTS, Variant, draw_boxes, draw_count
from ssd_annotated.data.spray import (
    SPLITS,
    Glyph,
    draw_stroke,
    draw_wall,
    handwriting,
    photographs,
    spray,
    stencil,
)
from ssd_annotated.support.checks import check_at_least, check_choice, check_seed

CLASS_NAMES = ("background", *"0123456789")  # the label of a digit is the digit + 1
MAX_TILT = 15.0  # degrees
STROKES = Variant(sizes=(0.1, 0.3))  # where decoys go
# A 1 in a wide box is only a bar, so tall boxes get three shares of ones and the others none.
DIGITS_IF_TALL = (0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9)
DIGITS_IF_WIDE = (0, 2, 3, 4, 5, 6, 7, 8, 9)


def draw_digits(
    rng: np.random.Generator, boxes: Int64[np.ndarray, "G 4"], twins: bool = False
) -> Int64[np.ndarray, "G"]:
    """Choose for each box a digit that stays legible; with `twins`, half of the pairs are equal."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    choices = [DIGITS_IF_TALL if tall else DIGITS_IF_WIDE for tall in width < 0.8 * height]
    digits = np.array([digits[rng.integers(len(digits))] for digits in choices], dtype=np.int64)
    if twins:  # NMS works class by class, so only twins can suppress each other
        equal = rng.random(len(boxes) // 2) < 0.5
        digits[1::2][equal] = digits[::2][equal]
    return digits


def scene(
    rng: np.random.Generator,
    split: str = "train",
    variant: Variant = VARIANTS["standard"],
    image_size: int = 128,
) -> tuple[UInt8[np.ndarray, "{image_size} {image_size} 3"], dict[str, Tensor]]:
    """Draw boxes, spray a digit into each, and say what stands where.

    Returns
    -------
    The RGB image, and its target: ``boxes`` (G, 4) ``xyxy`` fractions, ``labels`` (G,) 1 to 10,
    ``difficult`` (G,), all false.
    """
    canvas = draw_wall(rng, tuple(photographs(split, 2 * image_size).values()), image_size)
    boxes = draw_boxes(rng, variant, image_size)
    digits = draw_digits(rng, boxes, twins=variant.pair_iou is not None)
    for box, digit in zip(boxes, digits, strict=True):
        glyphs = handwriting(split)[digit]
        paint(rng, canvas, box, glyphs[rng.integers(len(glyphs))], MAX_TILT)
    for box in draw_strokes(rng, variant, image_size, boxes):
        paint(rng, canvas, box, draw_stroke(rng), 180.0)
    return np.rint(canvas).astype(np.uint8), {
        "boxes": torch.from_numpy((boxes / image_size).astype(np.float32)),
        "labels": torch.from_numpy(digits + 1),
        "difficult": torch.from_numpy(np.zeros(len(boxes), dtype=bool)),
    }


def draw_strokes(
    rng: np.random.Generator, variant: Variant, image_size: int, boxes: Int64[np.ndarray, "G 4"]
) -> Int64[np.ndarray, "N 4"]:
    """Find room for strokes among the digits: try six layouts, keep the one with most strokes."""
    count = draw_count(rng, variant.strokes)
    wanted = replace(STROKES, counts=(count, count))
    tries = [draw_boxes(rng, wanted, image_size, boxes) for _ in range(6 if count else 1)]
    return max(tries, key=len)


def paint(
    rng: np.random.Generator,
    canvas: Float32[np.ndarray, "S S 3"],
    box: Int64[np.ndarray, "4"],
    glyph: Glyph,
    max_tilt: float,
) -> None:
    """Spray a glyph, tilted by up to `max_tilt` degrees, into a box (``xyxy`` pixels), in place."""
    width, height = (box[2:] - box[:2]).tolist()
    spray(rng, canvas, box, stencil(glyph, rng.uniform(-max_tilt, max_tilt), width, height))


class GraffitiDigits(Dataset):
    """Scenes with handwritten digits on photographs, made when they are asked for.

    Item i depends only on the split, the variant, the seed, the image size and i. (OpenCV 4 warps
    less exactly than OpenCV 5 and paints some digits a little differently.) The same i has the same
    wall in every variant, and ``decoys`` is ``standard`` with strokes added, so that you can see
    scene by scene what a variant breaks.

    Parameters
    ----------
    split
        ``"train"`` or ``"test"``: they share no photograph and no image of a digit.
    variant
        A name from `VARIANTS`, or a `Variant` of your own.
    length
        Number of scenes.
    image_size
        Side in pixels, at least 16.
    seed
        Another seed gives other scenes.

    Raises
    ------
    ValueError
        If a name is unknown or a number too small.
    """

    class_names = CLASS_NAMES

    def __init__(
        self,
        split: str,
        variant: str | Variant = "standard",
        length: int = 1000,
        image_size: int = 128,
        seed: int = 0,
    ) -> None:
        check_choice("split", split, SPLITS)
        if isinstance(variant, str):
            check_choice("variant", variant, tuple(VARIANTS))
            variant = VARIANTS[variant]
        check_at_least("length", length, 1)
        check_at_least("image_size", image_size, 16)
        check_seed(seed)
        self.split, self.variant, self.seed = split, variant, seed
        self.length, self.image_size = length, image_size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "S S 3"], dict[str, Tensor]]:
        # Counts from the end if negative; IndexError outside.
        index = range(self.length)[operator.index(index)]
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
        return scene(rng, self.split, self.variant, self.image_size)


# --- A folder in the layout of PASCAL VOC ---------------------------------------------------------


def export_voc(dataset: GraffitiDigits, folder: str | Path) -> None:
    """Write a dataset as ``JPEGImages``, ``Annotations`` and ``ImageSets/Main/<split>.txt``.

    Boxes become VOC's whole pixels, counted from 1 and inclusive: a box that fills an image of
    128 pixels is written 1, 1, 128, 128. Both splits may go to the same folder.

    Raises
    ------
    FileExistsError
        If the folder already holds this split.
    """
    folder = Path(folder)
    listing = folder / "ImageSets" / "Main" / f"{dataset.split}.txt"
    if listing.exists():
        raise FileExistsError(f"{listing} exists: choose another folder or remove this one")
    for place in (folder / "JPEGImages", folder / "Annotations", listing.parent):
        place.mkdir(parents=True, exist_ok=True)
    names = [f"{dataset.split}_{index:06d}" for index in range(len(dataset))]
    for name, (image, target) in zip(names, dataset, strict=True):
        picture = folder / "JPEGImages" / f"{name}.jpg"
        if not cv2.imwrite(str(picture), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f"could not write {picture}")
        annotation = ElementTree.ElementTree(_voc_annotation(picture.name, image.shape, target))
        ElementTree.indent(annotation)
        annotation.write(folder / "Annotations" / f"{name}.xml")
    listing.write_text("".join(f"{name}\n" for name in names))


def _voc_annotation(
    filename: str, shape: tuple[int, ...], target: dict[str, Tensor]
) -> ElementTree.Element:
    height, width, depth = shape
    root = ElementTree.Element("annotation")
    _add(root, filename=filename)
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=depth)
    sides = target["boxes"].new_tensor([width, height] * 2)
    boxes = (target["boxes"] * sides).round().int().tolist()
    rows = zip(boxes, target["labels"].tolist(), target["difficult"].tolist(), strict=True)
    for (x0, y0, x1, y1), label, difficult in rows:
        thing = ElementTree.SubElement(root, "object")
        _add(thing, name=CLASS_NAMES[label], truncated=0, difficult=int(difficult))
        _add(ElementTree.SubElement(thing, "bndbox"), xmin=x0 + 1, ymin=y0 + 1, xmax=x1, ymax=y1)
    return root


def _add(parent: ElementTree.Element, **values: str | int) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(parent, tag).text = str(value)
