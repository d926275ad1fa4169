"""Folders in VOC's layout: your own photographs, or PASCAL VOC 2007 and 2012 at once.

A root holds ``ImageSets/Main/<set>.txt`` (one id a line), ``Annotations/<id>.xml`` (the objects)
and ``JPEGImages/<id>.jpg`` (or .png, .bmp, …). Whatever is wrong with one of them is an error that
names the file, the object and the value, or is left out, counted and reported: never silent.
"""

import math
import operator
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import cv2
import numpy as np
import torch
from defusedxml import ElementTree
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ssd_annotated.boxes import cxcywh_to_xyxy, pairwise_iou

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
FLAGS = {"0": False, "1": True, "false": False, "true": True}
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
Pictures = dict[str, list[Path]]  # the image files of a root by id


class Problem(NamedTuple):
    """Something wrong: the file, the object (empty if it is the whole image), and what it is.

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
    annotation's size could not tell (see `VOCFolder`).
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


class VOCFolder(Dataset):
    """Images and objects of one or several image sets in VOC's layout.

    An item is the image, uint8 RGB (height, width, 3) of its own size, and its target: ``boxes``
    (G, 4) ``xyxy`` fractions, ``labels`` (G,) 1 … C − 1, ``difficult`` and ``truncated`` (G,).
    Annotations and the headers of the images are read once, here; pixels when they are asked for.

    Parameters
    ----------
    sets
        Pairs of a root and an image set, for example ``[("VOC2007", "trainval"), ("VOC2012",
        "trainval")]``, or a single pair in a list.
    class_names
        Class names, ``"background"`` first. By default those found, in alphabetical order: give a
        test set the names of its training set, ``train.class_names``.
    on_bad
        ``"raise"``: the first bad thing is an error. ``"skip"``: a bad object is left out, or a bad
        image with all its objects; `problems` lists them and `report` says how many. Then every
        image is decoded once, now, so that no run meets a corrupt one later; with ``"raise"`` that
        is left to `verify`. An image whose last object is left out stays, as one without objects.

    Raises
    ------
    FileNotFoundError
        If an image set or folder does not exist, whatever `on_bad` says, or an annotation or an
        image does not.
    ValueError
        If an image set is empty (or no image or class is left), an id is listed twice, a file
        cannot be read, a tag is missing or senseless, a class unknown, or a box impossible.

    Notes
    -----
    VOC counts pixels from 1 and includes the last: ``xmin … xmax`` covers ``xmin − 1`` to ``xmax``
    out of the width. Some tools count from 0: an ``xmin`` of 0 is taken as the image's border (a 1
    is too), and their other boxes are read a pixel too far left and up. A box with ``xmin = xmax``,
    although one pixel wide by this count, is a click and not a box: it counts as degenerate. Parts
    of objects (``<part>``) are not read; ``difficult`` and ``truncated`` are false if absent.

    Boxes belong to the pixels as they are stored: VOC's own code and many tools ignore the EXIF
    orientation. Others turn the photograph first. The annotation's size decides: if it fits the
    turned photograph alone, that is what an item shows. If it fits both (a square, or upside down)
    nobody can tell, the pixels stay as stored, and `survey` counts the image as undecided.
    """

    def __init__(
        self,
        sets: Sequence[tuple[str | Path, str]],
        class_names: Sequence[str] | None = None,
        on_bad: Literal["raise", "skip"] = "raise",
    ) -> None:
        if on_bad not in ("raise", "skip"):
            raise ValueError(f"on_bad must be 'raise' or 'skip', not {on_bad!r}")
        self.on_bad = on_bad
        self.problems: list[Problem] = []
        self.records: list[Record] = []
        expected = None if class_names is None else check_class_names(class_names)
        for annotation, pictures in self._listed(check_sets(sets)):
            self._read(annotation, pictures, expected)
        if on_bad == "skip":
            self.verify()
        if not self.records:
            raise ValueError(f"no image is left:\n{self.report()}")
        self.class_names = expected or discover(self.records)

    def _listed(self, sets: list[tuple[Path, str]]) -> Iterable[tuple[Path, Pictures]]:
        """Every annotation file once, with the pictures of its root."""
        seen = set()
        # All sets are looked for before the first annotation is read: that may take a while.
        found = [(root, *read_ids(root, name), find_pictures(root)) for root, name in sets]
        for root, listing, ids, pictures in found:
            for name in ids:
                if (root.resolve(), name) in seen:
                    self._leave_out(Problem(listing, "", f"listed twice: {name}"))
                    continue
                seen.add((root.resolve(), name))
                yield root / "Annotations" / f"{name}.xml", pictures

    def _read(self, annotation: Path, pictures: Pictures, expected: tuple[str, ...] | None) -> None:
        """Add the record of one image, or say what is wrong with it."""
        try:
            record, problems = read_record(annotation, pictures, expected)
        except (DataError, FileNotFoundError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            self._leave_out(Problem(annotation, "", str(error)), kind)
            return
        for problem in problems:
            self._leave_out(problem)
        self.records.append(record)

    def _leave_out(self, problem: Problem, error: type[Exception] = ValueError) -> None:
        if self.on_bad == "raise":
            raise error(str(problem)) from None
        self.problems.append(problem)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], dict[str, Tensor]]:
        record = self.records[operator.index(index)]
        labels = [self.class_names.index(name) for name in record.names]
        # torch.tensor copies: whoever moves a box in place does not move it for ever.
        return read_image(record), {
            "boxes": torch.tensor(record.boxes),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "difficult": torch.tensor(record.difficult),
            "truncated": torch.tensor(record.truncated),
        }

    def verify(self) -> None:
        """Decode every image once; a corrupt one is an error, or left out with ``"skip"``.

        Only what the decoder notices can be found: files that end early, or are something else.

        Raises
        ------
        ValueError
            If an image is corrupt and `on_bad` is ``"raise"``.
        """
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(decoding_problem, self.records))
        for problem in filter(None, found):
            self._leave_out(problem)
        self.records = [r for r, problem in zip(self.records, found) if problem is None]

    def report(self, most: int = 20) -> str:
        """Say how much there is, what was left out by kind, and list the first `most` problems."""
        objects = sum(len(record.names) for record in self.records)
        kinds = Counter(problem.what.partition(":")[0] for problem in self.problems)
        problems = len(self.problems)
        lines = [f"images: {len(self.records)}, objects: {objects}, problems: {problems}"]
        lines += [f"{count} × {kind}" for kind, count in kinds.most_common()]
        lines += [f"- {problem}" for problem in self.problems[:most]]
        if len(self.problems) > most:
            lines.append(f"- and {len(self.problems) - most} more")
        return "\n".join(lines)


# --- What was asked for ---------------------------------------------------------------------------


def check_sets(sets: Sequence[tuple[str | Path, str]]) -> list[tuple[Path, str]]:
    """Turn roots into paths; a ValueError if these are no (root, image set) pairs, or none."""
    pairs = list(sets)
    if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"sets must be a list of (root, image set) pairs, not {sets!r}")
    return [(Path(root), image_set) for root, image_set in pairs]


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Raise a ValueError unless the names are different and ``"background"`` stands first."""
    names = tuple(class_names)
    if len(names) < 2 or names[0] != "background" or len(set(names)) < len(names):
        raise ValueError(
            f"class_names must be 'background' and then different names, not {class_names!r}"
        )
    return names


def discover(records: list[Record]) -> tuple[str, ...]:
    """``"background"`` and the names that occur, in alphabetical order."""
    found = sorted({name for record in records for name in record.names})
    if not found:
        raise ValueError("no image has an object: give class_names")
    return ("background", *found)


def read_ids(root: Path, image_set: str) -> tuple[Path, list[str]]:
    """The file of an image set, and the ids that it lists, one a line."""
    listing = root / "ImageSets" / "Main" / f"{image_set}.txt"
    if not listing.is_file():
        there = ", ".join(sorted(file.stem for file in listing.parent.glob("*.txt")))
        raise FileNotFoundError(f"{listing}: no such image set; there are: {there or 'none'}")
    # A line that is no UTF-8 becomes an id without annotation, and is reported as such.
    text = listing.read_text(encoding="utf-8-sig", errors="replace")
    ids = [line.strip() for line in text.splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"{listing}: the image set is empty")
    return listing, ids


def find_pictures(root: Path) -> Pictures:
    """The image files of a root by id: listing a folder is faster than asking for each file."""
    folder = root / "JPEGImages"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    pictures: Pictures = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES:
            pictures.setdefault(file.stem, []).append(file)
    return pictures


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
    upright, undecided = which_way_up(image, size)
    objects, problems = [], []
    for number, thing in enumerate(root.findall("object"), start=1):
        try:
            objects.append(read_object(thing, size, expected))
        except DataError as error:
            name = (thing.findtext("name") or "").strip() or "without a name"
            problems.append(Problem(annotation, f"object {number} ({name})", str(error)))
    boxes = np.array([box for _, box, _, _ in objects], dtype=np.float32).reshape(-1, 4)
    names = tuple(name for name, _, _, _ in objects)
    flags = np.array([flags for _, _, *flags in objects], dtype=bool).reshape(-1, 2)
    return Record(annotation, image, size, upright, undecided, boxes, names, *flags.T), problems


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


def read_object(
    thing: Element, size: tuple[int, int], expected: tuple[str, ...] | None
) -> tuple[str, list[float], bool, bool]:
    """Name, box, ``difficult`` and ``truncated`` of an ``<object>``."""
    name = read_text(thing, "name")
    if name == "background":
        raise DataError("unknown class: 'background' means that there is no object")
    if expected is not None and name not in expected:
        raise DataError(f"unknown class: {name!r} is none of {', '.join(expected[1:])}")
    box = read_box(thing, size)
    return name, box, read_flag(thing, "difficult"), read_flag(thing, "truncated")


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


# --- What a folder holds --------------------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """What a data set holds, as plain numbers.

    Parameters
    ----------
    images, empty, undecided
        How many there are, how many without an object, and how many whose orientation is unclear.
    objects
        Number of objects of each class.
    difficult, truncated
        How many objects are flagged so.
    per_image, sizes, ratios
        `QUANTILES` over images of the number of objects; over objects of √(width · height) and of
        width / height, both in fractions of the image, as a network sees it that was made square.
        Empty if there is no object.
    uncovered
        Share of each class's objects whose best prior has an IoU below ½; None without priors.
    """

    images: int
    empty: int
    undecided: int
    objects: dict[str, int]
    difficult: int
    truncated: int
    per_image: tuple[float, ...]
    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    uncovered: dict[str, float] | None


def survey(dataset: VOCFolder, priors: Float[Tensor, "P 4"] | None = None) -> Survey:
    """Count and measure what a data set holds, from its annotations alone.

    Parameters
    ----------
    priors
        ``cxcywh`` fractions, to see how many objects overlap none of them by half. Each of these is
        taught to a single prior (see `match_priors`).
    """
    records = dataset.records
    counts = [len(record.names) for record in records]
    names = Counter(name for record in records for name in record.names)
    boxes = np.concatenate([np.empty((0, 4)), *(record.boxes for record in records)])
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    return Survey(
        images=len(records),
        empty=counts.count(0),
        undecided=sum(record.undecided for record in records),
        objects={name: names[name] for name in dataset.class_names[1:]},
        difficult=sum(int(record.difficult.sum()) for record in records),
        truncated=sum(int(record.truncated.sum()) for record in records),
        per_image=quantiles(counts),
        sizes=quantiles(np.sqrt(width * height)),
        ratios=quantiles(width / height),
        uncovered=None if priors is None else uncovered_share(records, priors),
    )


def quantiles(values: Sequence[float] | Float[np.ndarray, "N"]) -> tuple[float, ...]:
    """The `QUANTILES` of some numbers, none of no numbers."""
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else ()


def uncovered_share(records: list[Record], priors: Float[Tensor, "P 4"]) -> dict[str, float]:
    """Share of each class's objects whose best prior has an IoU below ½, image by image."""
    corners = cxcywh_to_xyxy(priors)
    missed, all_objects = Counter(), Counter()
    for record in records:
        boxes = torch.tensor(record.boxes).to(corners)
        low = pairwise_iou(boxes, corners).amax(dim=1) < 0.5
        all_objects.update(record.names)
        missed.update(name for name, is_low in zip(record.names, low.tolist()) if is_low)
    return {name: missed[name] / count for name, count in sorted(all_objects.items())}
