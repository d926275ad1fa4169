"""One annotated image as it was found, and what its annotation says, in any format.

Nothing is guessed: what cannot be used raises a `DataError`.
"""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import NamedTuple

Box = tuple[float, float, float, float]  # left, top, right and bottom edge
#: Names of no class; the second is labelme's.
BACKGROUNDS = ("background", "_background_")


class DataError(ValueError):
    """What one file or object says cannot be used; the message says why, not yet where."""


class Problem(NamedTuple):
    """Something wrong: the file, the object (empty if it is the whole file), and what it is.

    `what` is written "kind: values", so that problems can be counted by kind.
    """

    file: Path
    object: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}{self.object and ', '}{self.object}: {self.what}"


class Thing(NamedTuple):
    """One object as its annotation describes it: its class, its box and its flags.

    Its edges are in pixels, counted from 0 at the corner of the image; `written` is the box as it
    stands in the annotation, for messages.
    """

    name: str
    box: Box
    written: str
    difficult: bool = False
    truncated: bool = False
    crowd: bool = False


class Written(NamedTuple):
    """What an annotation says: its image, the image's size if it is there, and the objects.

    An object is what to call it in a message, and the function that reads it if its class is one of
    those expected (any, if that is None).
    """

    image: Path
    size: tuple[int, int] | None
    objects: list[tuple[str, Callable[[tuple[str, ...] | None], Thing]]]


class Item(NamedTuple):
    """One annotated image that was found and is not read yet.

    `name` is what lists and shares know it by. `file` is its annotation, and `where` the place in
    it, empty if the file is about one image only; `listing` is the file or folder that says that it
    is there. What has the same `key` is the same. `read` raises a DataError or a FileNotFoundError
    if the image as a whole cannot be used.
    """

    name: str
    file: Path
    where: str
    listing: Path
    key: Hashable
    read: Callable[[], Written]


class Found(NamedTuple):
    """What was found: images, what to say of them, and what is wrong before any is read.

    A file in COCO's format knows its classes, and the folder of its images. `how` says in a line
    how it was understood.
    """

    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    class_names: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    how: str = ""


def unread(file: Path, error: Exception) -> Problem:
    """The problem of an image file that could not be read, from an error that names it."""
    return Problem(file, "", str(error).removeprefix(f"{file}: "))


def check_size(width: float, height: float) -> tuple[int, int] | None:
    """A size as an annotation says it, in whole pixels; None if it says 0, which is none."""
    if width == 0 or height == 0:
        return None
    if width < 1 or height < 1 or width % 1 or height % 1:
        raise DataError(f"impossible size: {width:g} × {height:g}")
    return int(width), int(height)


def check_class(name: str, expected: tuple[str, ...] | None) -> str:
    """The name of a class, if it is one of those expected (of any, if that is None)."""
    if name in BACKGROUNDS:
        raise DataError(f"unknown class: {name!r} means that there is no object")
    if expected is not None and name not in expected:
        raise DataError(f"unknown class: {name!r} is none of {', '.join(expected[1:])}")
    return name
