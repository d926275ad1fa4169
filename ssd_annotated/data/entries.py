"""A file in COCO's format: its images and what it says of them, or what is wrong with it.

The file lists ``images``, ``annotations`` and ``categories``, each by its id.

Tools differ in how they write the same thing: ids and numbers may be strings, sizes and crowds
absent, a box only the outline of its polygon, a path that of another machine.
"""

import json
import math
import os
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from ssd_annotated.data.annotation import (
    BACKGROUNDS,
    Box,
    DataError,
    Found,
    Item,
    Problem,
    Thing,
    Written,
    check_class,
    check_size,
)
from ssd_annotated.data.items import IMAGE_FOLDERS, grouped

Entry = dict[str, object]
Key = int | str  # an id
LARGEST = 1e9  # no image is as large, in pixels
LISTS = ("images", "annotations", "categories")


def read_coco(file: Path, images: Path | None = None) -> Found:
    """What a file in COCO's format holds: images in the order of their ids, and its classes.

    Parameters
    ----------
    images
        The folder of the images; None for the one that `find_images` finds.

    Raises
    ------
    FileNotFoundError
        If the folder or the file does not exist.
    ValueError
        If the file is no JSON, lacks one of its three lists, or its categories make no sense.
    """
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"{images}: no such folder")
    content = read_json(file)
    folder = find_images(file, content["images"]) if images is None else images
    infos, problems = whole_entries(file, "image", content["images"], ["id"])
    keys = ["id", "image_id", "category_id"]
    things, more = whole_entries(file, "annotation", content["annotations"], keys)
    known = {info["id"] for info in infos}
    lost = [
        Problem(file, f"annotation {t['id']}", f"unknown image: image_id is {t['image_id']}")
        for t in things
        if t["image_id"] not in known
    ]
    try:
        used = {thing["category_id"] for thing in things}
        categories = read_categories(content["categories"], used)
    except DataError as error:
        raise ValueError(f"{file}: categories: {error}") from None
    things_of = grouped(things, lambda thing: thing["image_id"])
    items = []
    for info in sorted(infos, key=lambda info: order(info["id"])):
        image_id, name = info["id"], str(info.get("file_name", info["id"]))
        read = partial(read_entry, folder, info, things_of.get(image_id, []), categories)
        items.append(Item(name, file, f"image {image_id}", file, (file, name), read))
    names = tuple(name for name in categories.values() if name not in BACKGROUNDS)
    return Found(tuple(items), (), (*problems, *more, *lost), names, (folder,))


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


def find_images(file: Path, entries: list) -> Path:
    """The folder, the file's own or one near it, that holds one of a file's first images.

    Near are folders for images, and those that share their name with the file, as ``train2017``
    and ``instances_train2017.json``.
    """
    names = [e["file_name"] for e in entries if isinstance(e, dict) and e.get("file_name")]
    if not names:
        return file.parent
    near = [folder for base in (file.parent, file.parent.parent) for folder in inside(base, file)]
    for name in names[:20]:  # a folder that lacks all of them is another
        for spelling, folder in product(spellings(str(name).strip()), near):
            if is_inside(folder / spelling, folder):
                return folder
    raise FileNotFoundError(f"{file}: no folder near it holds {names[0]}; give IMAGES:{file}")


def spellings(name: str) -> list[str]:
    """How a name may be written on this disk.

    Paths have both slashes, and may be those of another machine or, with ``%20`` for a blank, of a
    server. A letter and its accent are one character or two.
    """
    paths = [PureWindowsPath(text) for text in (name, unquote(name))]  # parts at both slashes
    plain = [name, *(text for path in paths for text in (path.as_posix(), path.name))]
    forms = [unicodedata.normalize(form, text) for text in plain for form in ("NFC", "NFD")]
    return list(dict.fromkeys([*plain, *forms]))


def inside(base: Path, file: Path) -> Iterator[Path]:
    """A folder, those in it that may hold the images of a file, and those in these."""
    yield base
    for folder in sorted(f for f in base.iterdir() if f.is_dir()):
        if folder.name.lower() in IMAGE_FOLDERS or folder.name in file.stem:
            yield from inside(folder, file)


def whole_entries(
    file: Path, kind: str, entries: list, keys: list[str]
) -> tuple[list[Entry], list[Problem]]:
    """The entries with ids under all keys, and one of their own; and the problems of the others."""
    whole, problems = {}, []
    for number, entry in enumerate(entries, start=1):
        try:
            ids = {key: read_id(entry, key) for key in keys}
            if ids["id"] in whole:
                raise DataError("listed twice")
            whole[ids["id"]] = entry | ids
        except DataError as error:
            known = isinstance(entry, dict) and "id" in entry
            where = f"{kind} {entry['id']}" if known else f"{kind} number {number} of the list"
            problems.append(Problem(file, where, str(error)))
    return list(whole.values()), problems


# --- One image ------------------------------------------------------------------------------------


def read_entry(
    folder: Path, info: Entry, things: list[Entry], categories: dict[Key, str]
) -> Written:
    """What one image's entry and its annotations say."""
    image = find_image(folder, read_text(info, "file_name"))
    objects = []
    for thing in things:
        name = categories.get(thing["category_id"], "of no category")
        label = f"annotation {thing['id']} ({name})"
        objects.append((label, partial(read_object, thing, categories)))
    return Written(image, read_size(info), objects)


def find_image(folder: Path, name: str) -> Path:
    """The image of this name; its path may be another machine's, if the folder holds the file.

    A name never leads out of the folder, as ``../a.jpg`` and ``/etc/a.jpg`` would.
    """
    for image in (folder / spelling for spelling in spellings(name)):
        if is_inside(image, folder):
            return image
    raise FileNotFoundError(f"no image: expected {folder / name}")


def is_inside(image: Path, folder: Path) -> bool:
    """Whether a file is there, and its path does not lead out of the folder."""
    inside = Path(os.path.normpath(image)).is_relative_to(os.path.normpath(folder))
    return inside and "\0" not in str(image) and image.is_file()


def read_size(info: Entry) -> tuple[int, int] | None:
    """Width and height in pixels; None if they are absent, null, 0 or, as VIA 3 has them, −1."""
    if not (info.get("width") and info.get("height")):
        return None
    size = [read_number(info[key], key) for key in ("width", "height")]
    return None if size == [-1, -1] else check_size(*size)


# --- One object -----------------------------------------------------------------------------------


def read_object(
    thing: Entry, categories: dict[Key, str], expected: tuple[str, ...] | None
) -> Thing:
    """Name and box of an annotation, and whether it is a crowd."""
    category = thing["category_id"]
    if category not in categories:
        raise DataError(f"unknown class: there is no category {category}")
    name = check_class(categories[category], expected)
    return Thing(name, *read_box(thing), crowd=read_crowd(thing))


def read_crowd(thing: Entry) -> bool:
    """Whether an annotation is a crowd, many objects in one box; absent and null say no."""
    crowd = thing.get("iscrowd") or 0
    if crowd not in (0, 1, "0", "1"):
        raise DataError(f"neither 0 nor 1: iscrowd is {crowd!r:.60}")
    return bool(int(crowd))


def read_box(thing: Entry) -> tuple[Box, str]:
    """The edges of a ``bbox``, or of a polygon without one; and how they are written."""
    # VIA 3 gives a polygon the box of four nulls.
    if thing.get("bbox") in (None, [], [None] * 4) and thing.get("segmentation"):
        edges = surround(thing["segmentation"])
        names = "left {:g}, top {:g}, right {:g}, bottom {:g}".format(*edges)
        return edges, f"{names} of its polygon"
    box = read_key(thing, "bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"not four numbers: bbox is {box!r:.60}")
    x, y, w, h = (read_number(number, "bbox", box) for number in box)
    return (x, y, x + w, y + h), f"x {x:g}, y {y:g}, width {w:g}, height {h:g}"


def surround(polygons: object) -> Box:
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
    ids = [read_id(entry, "id") for entry in entries]
    names = [read_text(entry, "name") for entry in entries]
    above = [entry.get("supercategory") for entry in entries]
    groups = {k for k, n, group in zip(ids, names, above) if group == "none" and n in above}
    kept = {k: n for k, n in zip(ids, names) if k not in groups or k in used}
    for which, values in (("id", ids), ("name", [*kept.values()])):  # a group may share its name
        if len(set(values)) < len(values):
            raise DataError(f"two have the same {which}: {tuple(values)}")
    if not kept:
        raise DataError("there are none")
    return dict(sorted(kept.items(), key=lambda pair: order(pair[0])))


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
