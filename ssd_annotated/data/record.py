"""One image's record: its objects as numbers, if they make sense, and its pixels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ssd_annotated.data import pixels
from ssd_annotated.data.annotation import Box, DataError, Item, Problem, Thing, unread
from ssd_annotated.data.pixels import read_header

TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
ROUNDING = 0.1  # pixels that a box may stick out because somebody rounded its numbers


@dataclass(frozen=True)
class Frame:
    """The image that boxes refer to: its size (width, height), and which way up it is.

    `upright` says whether the image is turned as its EXIF orientation asks, `undecided` that the
    annotation's size could not tell (see :class:`~ssd_annotated.data.voc.VOCFolder`), `measured`
    that the annotation says no size and the image's own was taken.
    """

    size: tuple[int, int]
    upright: bool
    undecided: bool
    measured: bool


@dataclass(frozen=True)
class Record(Frame):
    """One image as its annotation describes it, boxes as ``xyxy`` fractions; no pixels yet.

    `cut` holds by how many pixels each of the boxes stuck out that were cut at the border.
    """

    annotation: Path
    image: Path
    boxes: Float32[np.ndarray, "G 4"]
    names: tuple[str, ...]
    difficult: Bool[np.ndarray, "G"]
    truncated: Bool[np.ndarray, "G"]
    crowd: Bool[np.ndarray, "G"]
    cut: tuple[float, ...]


def read_record(
    item: Item, expected: tuple[str, ...] | None, keep_crowds: bool = False
) -> tuple[Record, list[Problem]]:
    """Read one annotation; the problems are those of its objects, which the record leaves out.

    Raises
    ------
    DataError, FileNotFoundError
        If the image as a whole cannot be used.
    """
    image, size, objects = item.read()
    frame = frame_of(image, size)
    things, problems = [], []
    for label, read in objects:
        try:
            thing = read(expected)
            thing = thing._replace(crowd=thing.crowd and not keep_crowds)
            things.append((thing, *fit_box(thing.box, frame.size, thing.written)))
        except DataError as error:
            problems.append(Problem(item.file, label, str(error)))
    return make_record(item.file, image, frame, things), problems


def make_record(
    annotation: Path,
    image: Path,
    frame: Frame,
    objects: list[tuple[Thing, Box, float]],
) -> Record:
    """The record of an image and of its objects, each with its box and how far that stuck out."""
    flags = [(t.difficult or t.crowd, t.truncated, t.crowd) for t, _, _ in objects]
    return Record(
        *(frame.size, frame.upright, frame.undecided, frame.measured),
        annotation,
        image,
        np.array([box for _, box, _ in objects], dtype=np.float32).reshape(-1, 4),
        tuple(thing.name for thing, _, _ in objects),
        *np.array(flags, dtype=bool).reshape(-1, 3).T,
        tuple(excess for _, _, excess in objects if excess > ROUNDING),
    )


def fit_box(edges: Box, size: tuple[int, int], written: str) -> tuple[Box, float]:
    """Cut a box at the border of its image; ``xyxy`` fractions, and the pixels it stuck out by.

    Parameters
    ----------
    edges
        In pixels; the image reaches from 0 to `size`.
    written
        The box as its annotation writes it, for the message.

    Raises
    ------
    DataError
        If the box has no area, lies outside the image, or would lose more than half its area.
    """
    (left, top, right, bottom), (width, height) = edges, size
    if left >= right or top >= bottom:
        raise DataError(f"degenerate box: {written}")
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if x0 >= x1 or y0 >= y1:
        raise DataError(f"box outside the image: {written}, but the image is {width} × {height}")
    kept = (x1 - x0) * (y1 - y0) / ((right - left) * (bottom - top))
    if kept < 0.5:
        inside = f"{kept:.0%} of it lies in the image of {width} × {height}"
        raise DataError(f"box mostly outside the image: {written}; {inside}")
    box = np.float32([x0 / width, y0 / height, x1 / width, y1 / height])
    if not (box[:2] < box[2:]).all():  # as it is kept, not as it is written
        raise DataError(f"degenerate box: {written}")
    return tuple(box.tolist()), max(-left, -top, right - width, bottom - height, 0)


def frame_of(image: Path, size: tuple[int, int] | None) -> Frame:
    """Which way up an image belongs whose annotation says this size, or none.

    Only the file's header is read. DataError if the annotation's size fits neither way. Without a
    size the pixels stay as they are stored.
    """
    stored, orientation = read_header(image)
    if size is None:
        return Frame(stored, False, orientation != 1, True)
    turned = stored[::-1] if orientation in TURNED else stored
    if size not in (stored, turned):
        wrong = f"the annotation says {size[0]} × {size[1]}, {image} is {stored[0]} × {stored[1]}"
        raise DataError(f"wrong size: {wrong}")
    return Frame(size, size != stored, orientation != 1 and stored == turned, False)


def read_image(record: Record) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an image, RGB, the way up that its boxes refer to.

    Errors are those of :func:`ssd_annotated.data.pixels.read_image`, and a ValueError if the image
    no longer has the size it had.
    """
    image = pixels.read_image(record.image, record.upright)
    height, width = image.shape[:2]
    if (width, height) != record.size:
        expected = f"expected {record.size[0]} × {record.size[1]}"
        raise ValueError(f"{record.image}: wrong size: {width} × {height}, {expected}")
    return image


def decoding_problem(record: Record) -> Problem | None:
    """What is wrong with an image's pixels, if anything is."""
    try:
        read_image(record)
    except (ValueError, OSError) as error:
        return unread(record.image, error)
    return None
