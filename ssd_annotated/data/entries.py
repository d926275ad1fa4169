"""The entries of a file in COCO's format: what they say, or what is wrong with them.

Tools differ in how they write the same thing: ids and numbers may be strings, sizes and crowds
absent, a box only the outline of its polygon, a path that of another machine.
"""

import math
import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath

from ssd_annotated.data.annotation import (
    DataError,
    Problem,
    Record,
    Thing,
    check_class,
    check_size,
    fit_box,
    read_objects,
)

Entry = dict[str, object]
Key = int | str  # an id
LARGEST = 1e9  # no image is as large, in pixels


def read_record(
    file: Path,
    folder: Path,
    info: Entry,
    things: list[Entry],
    categories: dict[Key, str],
    expected: tuple[str, ...],
    keep_crowds: bool,
) -> tuple[Record, list[Problem]]:
    """Read one image's entry and its annotations, leaving out those that are returned as problems.

    Raises
    ------
    DataError, FileNotFoundError
        If the image as a whole cannot be used.
    """
    image = find_image(folder, read_text(info, "file_name"))
    objects = [
        (f"annotation {t['id']} ({categories.get(t['category_id'], 'of no category')})", t)
        for t in things
    ]
    read = partial(read_object, categories=categories, expected=expected, keep_crowds=keep_crowds)
    return read_objects(file, image, read_size(info), objects, read)


def find_image(folder: Path, name: str) -> Path:
    """The image of this name; its path may be another machine's, if the folder holds the file.

    A name never leads out of the folder, as ``../a.jpg`` and ``/etc/a.jpg`` would.
    """
    path = PureWindowsPath(name)  # parts at both slashes
    for image in (folder / name, folder / path.as_posix(), folder / path.name):
        inside = Path(os.path.normpath(image)).is_relative_to(os.path.normpath(folder))
        if inside and "\0" not in name and image.is_file():
            return image
    raise FileNotFoundError(f"no image: expected {folder / name}")


def read_size(info: Entry) -> tuple[int, int] | None:
    """Width and height in pixels; None if they are absent, null or 0."""
    if not (info.get("width") and info.get("height")):
        return None
    return check_size(*(read_number(info[key], key) for key in ("width", "height")))


# --- One object -----------------------------------------------------------------------------------


def read_object(
    thing: Entry,
    size: tuple[int, int],
    categories: dict[Key, str],
    expected: tuple[str, ...],
    keep_crowds: bool,
) -> Thing:
    """Name and box of an annotation, and whether it is a crowd."""
    category = thing["category_id"]
    if category not in categories:
        raise DataError(f"unknown class: there is no category {category}")
    name = check_class(categories[category], expected)
    crowd = read_crowd(thing) and not keep_crowds
    box, excess = read_box(thing, size)
    return Thing(name, box, excess, difficult=crowd, crowd=crowd)


def read_crowd(thing: Entry) -> bool:
    """Whether an annotation is a crowd, many objects in one box; absent and null say no."""
    crowd = thing.get("iscrowd") or 0
    if crowd not in (0, 1, "0", "1"):
        raise DataError(f"neither 0 nor 1: iscrowd is {crowd!r:.60}")
    return bool(int(crowd))


def read_box(
    thing: Entry, size: tuple[int, int]
) -> tuple[tuple[float, float, float, float], float]:
    """``xyxy`` fractions of a ``bbox``, whose pixels count from 0; or of a polygon without one."""
    if not thing.get("bbox") and thing.get("segmentation"):
        corners = surround(thing["segmentation"])
        written = "left {:g}, top {:g}, right {:g}, bottom {:g} of its polygon".format(*corners)
        return fit_box(corners, size, written)
    box = read_key(thing, "bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"not four numbers: bbox is {box!r:.60}")
    x, y, w, h = (read_number(number, "bbox", box) for number in box)
    return fit_box((x, y, x + w, y + h), size, f"x {x:g}, y {y:g}, width {w:g}, height {h:g}")


def surround(polygons: object) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of one or several polygons, lists of x, y, x, y, …"""
    lists = polygons if isinstance(polygons, list) else [None]
    lists = lists if isinstance(lists[0], list) else [lists]
    if not all(isinstance(points, list) and len(points) % 2 == 0 for points in lists):
        raise DataError(f"missing key: bbox, and segmentation is no polygon: {polygons!r:.60}")
    points = [read_number(p, "segmentation", polygons) for points in lists for p in points]
    if not points:
        raise DataError("missing key: bbox is absent, and segmentation empty")
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x), max(y)


# --- One value ------------------------------------------------------------------------------------


def read_categories(entries: Sequence[object], used: Collection[Key]) -> dict[Key, str]:
    """The names of the categories by their ids, in the order of the ids.

    Left out is the group that Roboflow puts above the classes: it is the supercategory of others,
    "none" is its own, and no annotation uses it. DataError if an entry makes no sense.
    """
    names = {read_id(entry, "id"): read_text(entry, "name") for entry in entries}
    for which, values in (
        ("id", [read_id(entry, "id") for entry in entries]),
        ("name", [read_text(entry, "name") for entry in entries]),
    ):
        if len(set(values)) < len(values):
            raise DataError(f"two have the same {which}: {tuple(values)}")
    above = {read_id(entry, "id"): entry.get("supercategory") for entry in entries}
    groups = {k for k, name in names.items() if above[k] == "none" and name in above.values()}
    kept = [key for key in sorted(names, key=order) if key not in groups or key in used]
    if not kept:
        raise DataError("there are none")
    return {key: names[key] for key in kept}


def read_key(entry: object, key: str) -> object:
    """What an entry says under a key; null is nothing."""
    if not isinstance(entry, dict):
        raise DataError(f"not an object: {entry!r:.60}")
    if entry.get(key) is None:
        raise DataError(f"missing key: {key} is absent or null")
    return entry[key]


def read_id(entry: object, key: str) -> Key:
    """The id under a key: a whole number or a string; ``"7"`` and ``7.0`` are ``7``."""
    value = read_key(entry, key)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip():
        text = value.strip()
        # "007" stays what it is: somebody may have another 7.
        return int(text) if text.isdecimal() and str(int(text)) == text else text
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"neither a whole number nor a string: {key} is {value!r:.60}")
    return value


def order(key: Key) -> tuple[bool, int, str]:
    """What ids are sorted by: numbers first, then strings."""
    return (True, 0, key) if isinstance(key, str) else (False, key, "")


def read_text(entry: object, key: str) -> str:
    """The string under a key, without blanks around it."""
    value = read_key(entry, key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"not a name: {key} is {value!r:.60}")
    return value.strip()


def read_number(value: object, key: str, whole: object = None) -> float:
    """A number, maybe as a string, and no larger than an image can be; NaN and true are none."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) < LARGEST:
        what = "not four numbers" if key == "bbox" else "not a number"
        raise DataError(f"{what}: {key} is {value if whole is None else whole!r:.60}")
    return number
