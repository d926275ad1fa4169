"""One annotated image, in any format: its record, its pixels, or what is wrong with it.

Nothing is guessed. What cannot be used raises :class:`~ssd_annotated.data.pixels.DataError`; the
code that reads many files catches it and says where.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ssd_annotated.data import pixels
from ssd_annotated.data.pixels import DataError, read_header

TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
ROUNDING = 0.1  # pixels that a box may stick out because somebody rounded its numbers
T = TypeVar("T")


class Problem(NamedTuple):
    """Something wrong: the file, the object (empty if it is the whole file), and what it is.

    `what` is written "kind: values", so that problems can be counted by kind.
    """

    file: Path
    object: str
    what: str
    error = ValueError  # which it is, unless it is left out

    def __str__(self) -> str:
        return f"{self.file}{self.object and ', '}{self.object}: {self.what}"


class Missing(Problem):
    """A file that is not there."""

    error = FileNotFoundError


class Thing(NamedTuple):
    """One object: its class, its box as ``xyxy`` fractions, its flags, and what was cut off.

    `excess` is by how many pixels its box stuck out of the image before it was cut.
    """

    name: str
    box: tuple[float, float, float, float]
    excess: float
    difficult: bool = False
    truncated: bool = False
    crowd: bool = False


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


def make_record(annotation: Path, image: Path, frame: Frame, objects: list[Thing]) -> Record:
    """The record of an image and of its objects."""
    flags = [(thing.difficult, thing.truncated, thing.crowd) for thing in objects]
    return Record(
        *(frame.size, frame.upright, frame.undecided, frame.measured),
        *(annotation, image),
        np.array([thing.box for thing in objects], dtype=np.float32).reshape(-1, 4),
        tuple(thing.name for thing in objects),
        *np.array(flags, dtype=bool).reshape(-1, 3).T,
        tuple(thing.excess for thing in objects if thing.excess > ROUNDING),
    )


# --- Reading one ----------------------------------------------------------------------------------


def outcomes(
    file: Path,
    image: str,
    read: Callable[..., tuple[Record, list[Problem]]],
    *arguments: object,
) -> Iterator[Record | Problem]:
    """What reading an image comes to: problems of its objects and its record, or its own problem.

    `image` says which of the file's images it is; empty if the file is about one image only.
    """
    try:
        record, problems = read(*arguments)
    except FileNotFoundError as error:
        yield Missing(file, image, str(error))
    except DataError as error:
        yield Problem(file, image, str(error))
    else:
        yield from (*problems, record)


def read_objects(
    annotation: Path,
    image: Path,
    size: tuple[int, int] | None,
    objects: Iterable[tuple[str, T]],
    read: Callable[[T, tuple[int, int]], Thing],
) -> tuple[Record, list[Problem]]:
    """The record of an image whose annotation says this size, and the problems of its objects.

    `read` makes a `Thing` of an object and of the image's size. The objects have names for the
    messages.
    """
    frame = frame_of(image, size)
    things, problems = [], []
    for name, thing in objects:
        try:
            things.append(read(thing, frame.size))
        except DataError as error:
            problems.append(Problem(annotation, name, str(error)))
    return make_record(annotation, image, frame, things), problems


# --- One object -----------------------------------------------------------------------------------


def check_class(name: str, expected: tuple[str, ...] | None) -> str:
    """The name of a class, if it is one of those expected (of any, if that is None)."""
    if name == "background":
        raise DataError("unknown class: 'background' means that there is no object")
    if expected is not None and name not in expected:
        raise DataError(f"unknown class: {name!r} is none of {', '.join(expected[1:])}")
    return name


def fit_box(
    corners: tuple[float, float, float, float], size: tuple[int, int], written: str
) -> tuple[tuple[float, float, float, float], float]:
    """Cut a box at the border of its image; ``xyxy`` fractions, and the pixels it stuck out by.

    Parameters
    ----------
    corners
        Left, top, right and bottom edge in pixels; the image reaches from 0 to `size`.
    written
        The box as its annotation writes it, for the message.

    Raises
    ------
    DataError
        If the box has no area, lies outside the image, or would lose more than half its area.
    """
    (left, top, right, bottom), (width, height) = corners, size
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


# --- One image ------------------------------------------------------------------------------------


def check_size(width: float, height: float) -> tuple[int, int] | None:
    """A size as an annotation says it, in whole pixels; None if it says 0, which is none."""
    if width == 0 or height == 0:
        return None
    if width < 1 or height < 1 or width % 1 or height % 1:
        raise DataError(f"impossible size: {width:g} × {height:g}")
    return int(width), int(height)


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


def unread(file: Path, error: Exception) -> Problem:
    """The problem of an image file that could not be read, from an error that names it."""
    return Problem(file, "", str(error).removeprefix(f"{file}: "))
