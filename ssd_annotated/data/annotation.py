"""One image and its annotation in VOC's XML: what they say, or what is wrong with them.

Nothing is guessed. What cannot be used raises :class:`DataError`; whoever reads many files catches
it and says where.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import cv2
import numpy as np
from defusedxml import ElementTree
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

FLAGS = {"0": False, "1": True, "false": False, "true": True}
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
Pictures = dict[str, list[Path]]  # the image files of a root by id
Thing = tuple[str, list[float], bool, bool]  # name, ``xyxy`` fractions, difficult, truncated


class Problem(NamedTuple):
    """Something wrong: the file, the object (empty if it is the whole file), and what it is.

    `what` is written "kind: values", so that problems can be counted by kind.
    """

    file: Path
    object: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}{self.object and ', '}{self.object}: {self.what}"


class DataError(ValueError):
    """What one file or object says cannot be used; the message says why, not yet where."""


@dataclass(frozen=True)
class Record:
    """One image as its annotation describes it, boxes as ``xyxy`` fractions; no pixels yet.

    `upright` says whether the image is turned as its EXIF orientation asks, `undecided` that the
    annotation's size could not tell (see :class:`~ssd_annotated.data.voc.VOCFolder`).
    """

    annotation: Path
    image: Path
    size: tuple[int, int]  # width, height
    upright: bool
    undecided: bool
    boxes: Float32[np.ndarray, "G 4"]
    names: tuple[str, ...]
    difficult: Bool[np.ndarray, "G"]
    truncated: Bool[np.ndarray, "G"]


# --- One annotation -------------------------------------------------------------------------------


def read_record(
    annotation: Path, pictures: Pictures, expected: tuple[str, ...] | None
) -> tuple[Record, list[Problem]]:
    """Read one annotation; the problems are those of its objects, which the record leaves out.

    Raises
    ------
    DataError, FileNotFoundError
        If the image as a whole cannot be used.
    """
    root = read_xml(annotation)
    size = read_size(root)
    image = find_image(annotation, pictures)
    objects, problems = [], []
    for number, thing in enumerate(root.findall("object"), start=1):
        try:
            objects.append(read_object(thing, size, expected))
        except DataError as error:
            name = (thing.findtext("name") or "").strip() or "without a name"
            problems.append(Problem(annotation, f"object {number} ({name})", str(error)))
    return make_record(annotation, image, size, objects), problems


def make_record(
    annotation: Path, image: Path, size: tuple[int, int], objects: list[Thing]
) -> Record:
    """The record of an image of this size and of its objects."""
    upright, undecided = which_way_up(image, size)
    boxes = np.array([box for _, box, _, _ in objects], dtype=np.float32).reshape(-1, 4)
    names = tuple(name for name, _, _, _ in objects)
    flags = np.array([flags for _, _, *flags in objects], dtype=bool).reshape(-1, 2)
    return Record(annotation, image, size, upright, undecided, boxes, names, *flags.T)


def read_xml(file: Path) -> Element:
    """The ``<annotation>`` of a file, read without entities, which nobody needs and some abuse."""
    if not file.is_file():
        raise FileNotFoundError("no such annotation file")
    try:
        root = ElementTree.parse(file).getroot()
    except (ParseError, LookupError, ValueError, OSError) as error:
        raise DataError(f"malformed XML: {error}") from error
    if root.tag != "annotation":
        raise DataError(f"no annotation: the outermost tag is <{root.tag}>")
    return root


def read_object(thing: Element, size: tuple[int, int], expected: tuple[str, ...] | None) -> Thing:
    """Name, box, ``difficult`` and ``truncated`` of an ``<object>``."""
    name = check_class(read_text(thing, "name"), expected)
    box = read_box(thing, size)
    return name, box, read_flag(thing, "difficult"), read_flag(thing, "truncated")


def check_class(name: str, expected: tuple[str, ...] | None) -> str:
    """The name of a class, if it is one of those expected (of any, if that is None)."""
    if name == "background":
        raise DataError("unknown class: 'background' means that there is no object")
    if expected is not None and name not in expected:
        raise DataError(f"unknown class: {name!r} is none of {', '.join(expected[1:])}")
    return name


def read_box(thing: Element, size: tuple[int, int]) -> list[float]:
    """``xyxy`` fractions of a ``<bndbox>``, whose pixels count from 1 and are inclusive."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    x0, y0, x1, y1 = (read_number(thing, f"bndbox/{side}") for side in sides)
    written = f"xmin {x0:g}, ymin {y0:g}, xmax {x1:g}, ymax {y1:g}"
    width, height = size
    if x0 >= x1 or y0 >= y1:
        raise DataError(f"degenerate box: {written}")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise DataError(f"box outside the image: {written}, but the image is {width} × {height}")
    return [max(x0 - 1, 0) / width, max(y0 - 1, 0) / height, x1 / width, y1 / height]


def read_size(root: Element) -> tuple[int, int]:
    """Width and height in pixels."""
    width, height = (read_number(root, f"size/{side}") for side in ("width", "height"))
    if not (width >= 1 and height >= 1 and width.is_integer() and height.is_integer()):
        raise DataError(f"impossible size: {width:g} × {height:g}")
    return int(width), int(height)


def read_text(element: Element, path: str) -> str:
    """What stands in a tag, or DataError if the tag is missing or empty."""
    text = (element.findtext(path) or "").strip()
    if not text:
        raise DataError(f"missing tag: <{path.replace('/', '><')}> is absent or empty")
    return text


def read_number(element: Element, path: str) -> float:
    """The finite number in a tag; VOC 2012 has some that are not whole."""
    text = read_text(element, path)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"not a number: <{path.replace('/', '><')}> is {text!r}")
    return number


def read_flag(thing: Element, tag: str) -> bool:
    """Whether a tag says yes; absent and empty ones say no."""
    text = (thing.findtext(tag) or "").strip() or "0"
    if text.lower() not in FLAGS:
        raise DataError(f"neither 0 nor 1: <{tag}> is {text!r}")
    return FLAGS[text.lower()]


# --- One image ------------------------------------------------------------------------------------


def find_image(annotation: Path, pictures: Pictures) -> Path:
    """The one picture that has the annotation's id; the annotation's ``filename`` is not asked."""
    found = pictures.get(annotation.stem, [])
    if not found:
        folder = annotation.parent.parent / "JPEGImages"
        raise FileNotFoundError(f"no image: expected {folder / annotation.stem}.jpg (or .png, …)")
    if len(found) > 1:
        raise DataError(f"several images: {', '.join(file.name for file in found)}")
    return found[0]


def which_way_up(image: Path, size: tuple[int, int]) -> tuple[bool, bool]:
    """Whether the boxes ask for the photograph turned as EXIF says; and whether nobody can tell.

    Only the file's header is read. DataError if the annotation's size fits neither way.
    """
    stored, orientation = read_header(image)
    turned = stored[::-1] if orientation in TURNED else stored
    if size not in (stored, turned):
        wrong = f"the annotation says {size[0]} × {size[1]}, {image} is {stored[0]} × {stored[1]}"
        raise DataError(f"wrong size: {wrong}")
    return size != stored, orientation != 1 and stored == turned


def read_header(image: Path) -> tuple[tuple[int, int], int]:
    """Width and height as stored, and the EXIF orientation, from 1 to 8."""
    try:
        with Image.open(image) as header:
            # Not header.getexif(), which decodes a whole PNG to look behind its pixels.
            return header.size, read_orientation(header.info.get("exif"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"corrupt image: {image.name}: {error}") from error


def read_orientation(block: bytes | None) -> int:
    """The orientation in an EXIF block; 1, upright as stored, if there is none or nonsense."""
    exif = Image.Exif()
    try:
        exif.load(block)
        orientation = exif.get(0x0112)
    except (OSError, SyntaxError, ValueError, struct.error):
        return 1
    return orientation if orientation in range(1, 9) else 1


def read_image(record: Record) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image to 8-bit RGB, from grey, 16 bits, CMYK or with transparency alike.

    Raises
    ------
    ValueError
        If the file ends early or is no image, or no longer has the size it had.
    """
    try:
        return cv2.cvtColor(decode(record), cv2.COLOR_BGR2RGB)
    except DataError as error:
        raise ValueError(f"{record.image}: {error}") from None


def decode(record: Record) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels in OpenCV's order, BGR; DataError if there are none, too few or too many."""
    # Bytes: from a file OpenCV reads a JPEG that ends early, and makes up the rest in grey.
    data = np.frombuffer(record.image.read_bytes(), dtype=np.uint8)
    way_up = 0 if record.upright else cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(data, cv2.IMREAD_COLOR | way_up) if len(data) else None
    if image is None:
        raise DataError("corrupt image: OpenCV cannot decode it")
    height, width = image.shape[:2]
    if (width, height) != record.size:
        expected = f"expected {record.size[0]} × {record.size[1]}"
        raise DataError(f"wrong size: {width} × {height}, {expected}")
    return image


def decoding_problem(record: Record) -> Problem | None:
    """What is wrong with an image's pixels, if anything is."""
    try:
        decode(record)
    except DataError as error:
        return Problem(record.image, "", str(error))
    except OSError as error:
        return Problem(record.image, "", f"corrupt image: {error}")
    return None
