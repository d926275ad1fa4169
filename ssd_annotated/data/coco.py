"""Folders of images with one JSON file in COCO's format, as many annotation tools write it.

The file lists ``images``, ``annotations`` and ``categories``, each by its id. pycocotools, the
extra ``coco``, tells which annotation belongs to which image.
"""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ssd_annotated.data.annotation import (
    DataError,
    Problem,
    Record,
    Thing,
    check_class,
    make_record,
)
from ssd_annotated.data.folder import AnnotatedFolder, check_class_names

LISTS = ("images", "annotations", "categories")
SLACK = 1  # pixels by which a box may stick out of its image
Entry = dict[str, object]


class COCOFolder(AnnotatedFolder):
    """Images and objects of a folder and a file in COCO's format, in the order of the images' ids.

    Items are those of :class:`~ssd_annotated.data.folder.AnnotatedFolder`. ``difficult`` are what
    COCO calls crowds, many objects in one box; ``truncated`` is false, for COCO does not say.

    Parameters
    ----------
    images
        The folder that the images' ``file_name`` is in, for example ``"coco/val2017"``.
    annotations
        The file, for example ``"coco/annotations/instances_val2017.json"``.
    class_names
        Class names, ``"background"`` first. By default those of all categories in the order of
        their ids: gaps between the ids close, so that COCO's 80 categories, numbered up to 90,
        become the labels 1 … 80.
    on_bad
        ``"raise"`` or ``"skip"``, as for :class:`~ssd_annotated.data.voc.VOCFolder`.

    Raises
    ------
    ImportError
        If pycocotools is not installed.
    FileNotFoundError
        If the folder or the file does not exist, whatever `on_bad` says, or an image does not.
    ValueError
        If the file is no JSON, lacks one of its three lists, or its categories make no sense,
        whatever `on_bad` says. If no image is left, an id or an image is listed twice, a key is
        missing or senseless, an image or a category unknown, an image corrupt or of another size,
        or a box impossible.

    Notes
    -----
    cocodataset.org, "Data format": a box is ``[x, y, width, height]`` in pixels counted from 0 at
    the corner of the image, not from its first pixel as VOC's. The numbers are rounded, some boxes
    stick out by that: up to one pixel is cut off and nothing said, more is an error. A box without
    width or height is one, too (COCO 2017's training set has two:
    github.com/cocodataset/cocoapi, issue 355).
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        class_names: Sequence[str] | None = None,
        on_bad: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__(on_bad)
        folder, self._file = Path(images), Path(annotations)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        content = read_json(self._file)
        categories = read_categories(self._file, content["categories"])
        own = ("background", *(n for n in categories.values() if n != "background"))
        expected = check_class_names(own if class_names is None else class_names)
        for info, things in self._listed(content):
            where = f"image {info['id']}"
            arguments = self._file, folder, info, things, categories, expected
            self._add(self._file, where, read_record, *arguments)
        self._finish(expected)

    def _listed(self, content: dict[str, list]) -> Iterator[tuple[Entry, list[Entry]]]:
        """Every image once, with its annotations."""
        index = self._index(content)
        seen = set()
        for image_id, info in sorted(index.imgs.items()):
            name = str(info.get("file_name", image_id))
            if name in seen:
                self._leave_out(Problem(self._file, f"image {image_id}", f"listed twice: {name}"))
                continue
            seen.add(name)
            yield info, index.imgToAnns[image_id]

    def _index(self, content: dict[str, list]) -> object:
        """pycocotools' index of the file, without what it cannot take."""
        images = self._whole("image", content["images"], ["id"])
        things = self._whole(
            "annotation", content["annotations"], ["id", "image_id", "category_id"]
        )
        index = make_index(content | {"images": images, "annotations": things})
        for thing in things:
            if thing["image_id"] not in index.imgs:
                what = f"unknown image: image_id is {thing['image_id']}"
                self._leave_out(Problem(self._file, f"annotation {thing['id']}", what))
        return index

    def _whole(self, kind: str, entries: list, keys: list[str]) -> list[Entry]:
        """The entries that can be indexed: they have whole numbers for all keys, and their own id.

        pycocotools would stop at the first that has not, and mix up those with the same id.
        """
        whole, seen = [], set()
        for number, entry in enumerate(entries, start=1):
            try:
                identity, *_ = [read_whole(entry, key) for key in keys]
                if identity in seen:
                    raise DataError("listed twice")
            except DataError as error:
                known = isinstance(entry, dict) and "id" in entry
                where = f"{kind} {entry['id']}" if known else f"{kind} number {number} of the list"
                self._leave_out(Problem(self._file, where, str(error)))
                continue
            seen.add(identity)
            whole.append(entry)
        return whole


# --- The file -------------------------------------------------------------------------------------


def read_json(file: Path) -> dict[str, list]:
    """The three lists of a file in COCO's format."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{file}: malformed JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in LISTS):
        raise ValueError(f"{file}: not COCO's format: it must have lists of {', '.join(LISTS)}")
    return {name: content[name] for name in LISTS}


def read_categories(file: Path, entries: list) -> dict[int, str]:
    """The names of the categories by their ids, in the order of the ids."""
    try:
        names = sorted((read_whole(entry, "id"), read_text(entry, "name")) for entry in entries)
    except DataError as error:
        raise ValueError(f"{file}: categories: {error}") from None
    if not names:
        raise ValueError(f"{file}: categories: there are none")
    for which, values in zip(("id", "name"), zip(*names)):
        if len(set(values)) < len(values):
            raise ValueError(f"{file}: categories: two have the same {which}: {values}")
    return dict(names)


def make_index(content: dict[str, list]) -> object:
    """pycocotools' index of the file, silently: the library reports to the screen."""
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise ImportError(
            "COCO's format needs pycocotools: pip install 'ssd-annotated[coco]'"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = content
        index.createIndex()
    return index


# --- One image ------------------------------------------------------------------------------------


def read_record(
    file: Path,
    folder: Path,
    info: Entry,
    things: list[Entry],
    categories: dict[int, str],
    expected: tuple[str, ...],
) -> tuple[Record, list[Problem]]:
    """Read one image's entry and its annotations, leaving out those that are returned as problems.

    Raises
    ------
    DataError, FileNotFoundError
        If the image as a whole cannot be used.
    """
    image = folder / read_text(info, "file_name")
    if not image.is_file():
        raise FileNotFoundError(f"no image: expected {image}")
    size = read_whole(info, "width"), read_whole(info, "height")
    if min(size) < 1:
        raise DataError(f"impossible size: {size[0]} × {size[1]}")
    objects, problems = [], []
    for thing in things:
        name = categories.get(thing["category_id"], "of no category")
        try:
            objects.append(read_object(thing, size, categories, expected))
        except DataError as error:
            problems.append(Problem(file, f"annotation {thing['id']} ({name})", str(error)))
    return make_record(file, image, size, objects), problems


def read_object(
    thing: Entry, size: tuple[int, int], categories: dict[int, str], expected: tuple[str, ...]
) -> Thing:
    """Name, box, whether it is a crowd, and False, of an annotation."""
    category = thing["category_id"]
    if category not in categories:
        raise DataError(f"unknown class: there is no category {category}")
    name = check_class(categories[category], expected)
    crowd = thing.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise DataError(f"neither 0 nor 1: iscrowd is {crowd!r:.60}")
    return name, read_box(thing, size), bool(crowd), False


def read_box(thing: Entry, size: tuple[int, int]) -> list[float]:
    """``xyxy`` fractions of a ``bbox``, whose pixels count from 0."""
    box = read_key(thing, "bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        raise DataError(f"not four numbers: bbox is {box!r:.60}")
    x, y, w, h = box
    width, height = size
    written = f"x {x:g}, y {y:g}, width {w:g}, height {h:g}"
    if min(x, y) < -SLACK or x + w > width + SLACK or y + h > height + SLACK:
        raise DataError(f"box outside the image: {written}, but the image is {width} × {height}")
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    fractions = np.array([x0 / width, y0 / height, x1 / width, y1 / height], dtype=np.float32)
    if not (fractions[:2] < fractions[2:]).all():  # as they are kept, not as they are written
        raise DataError(f"degenerate box: {written}")
    return fractions.tolist()


def read_key(entry: object, key: str) -> object:
    """What an entry says under a key; null is nothing."""
    if not isinstance(entry, dict):
        raise DataError(f"not an object: {entry!r:.60}")
    if entry.get(key) is None:
        raise DataError(f"missing key: {key} is absent or null")
    return entry[key]


def read_whole(entry: object, key: str) -> int:
    """The whole number under a key."""
    value = read_key(entry, key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"not a whole number: {key} is {value!r:.60}")
    return value


def read_text(entry: object, key: str) -> str:
    """The string under a key."""
    value = read_key(entry, key)
    if not isinstance(value, str) or not value:
        raise DataError(f"not a name: {key} is {value!r:.60}")
    return value


def is_number(value: object) -> bool:
    """Whether a value is a number, and no larger than an image can be; NaN is neither."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
