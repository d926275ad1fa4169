"""Folders of images with one JSON file in COCO's format, as many annotation tools write it.

The file lists ``images``, ``annotations`` and ``categories``, each by its id. pycocotools, the
extra ``coco``, tells which annotation belongs to which image.
"""

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path, PureWindowsPath
from typing import Literal

from ssd_annotated.data.annotation import DataError, Problem, Record, outcomes
from ssd_annotated.data.entries import Entry, Key, order, read_categories, read_id, read_record
from ssd_annotated.data.find import in_share
from ssd_annotated.data.folder import AnnotatedFolder, check_class_names
from ssd_annotated.data.items import IMAGE_FOLDERS
from ssd_annotated.support.checks import check_choice
from ssd_annotated.support.extras import need

LISTS = ("images", "annotations", "categories")


class COCOFolder(AnnotatedFolder):
    """Images and objects of a folder and a file in COCO's format, in the order of the images' ids.

    Items are those of :class:`~ssd_annotated.data.folder.AnnotatedFolder`. ``truncated`` is false,
    for COCO does not say.

    Parameters
    ----------
    images
        The folder that the images' ``file_name`` is in, for example ``"coco/val2017"``. None: the
        folder of the file or one near it, ``images`` for example, where the first image is.
    annotations
        The file, for example ``"coco/annotations/instances_val2017.json"``.
    class_names
        Class names, ``"background"`` first. By default those of all categories in the order of
        their ids: gaps between the ids close, so that COCO's 80 categories, numbered up to 90,
        become the labels 1 … 80.
    on_bad
        ``"raise"`` or ``"skip"``, as for every :class:`~ssd_annotated.data.folder.AnnotatedFolder`.
    crowds
        ``"ignore"``, as COCO does: what it calls a crowd, many objects in one box, is ``crowd`` and
        ``difficult``, so :class:`~ssd_annotated.data.augment.Augmented` leaves it out of training
        and evaluation ignores what is found there. ``"keep"``: a crowd is an object like any other.
    share
        None, or the share of the images to take: ``"0.9"``, or ``"-0.1"`` for the rest (see
        :func:`~ssd_annotated.data.find.in_share`).

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
    the corner of the image, not from its first pixel as VOC's. A box that sticks out is cut at the
    border, and counted (`notes`) if it is by more than rounding; it is bad if it lies outside or
    would lose more than half its area. A box without width or height is bad, too (COCO 2017's
    training set has two: github.com/cocodataset/cocoapi, issue 355). Without a ``bbox`` an object
    has that of its polygon, and without a size an image has its own.
    """

    def __init__(
        self,
        images: str | Path | None,
        annotations: str | Path,
        class_names: Sequence[str] | None = None,
        on_bad: Literal["raise", "skip"] = "raise",
        crowds: Literal["ignore", "keep"] = "ignore",
        share: str | None = None,
    ) -> None:
        check_choice("crowds", crowds, ("ignore", "keep"))
        file = Path(annotations)
        if images is not None and not Path(images).is_dir():
            raise FileNotFoundError(f"{images}: no such folder")
        content = read_json(file)
        self.folder = find_images(file, content["images"]) if images is None else Path(images)
        index, problems = index_of(file, content)
        categories = categories_of(file, content, index)
        own = ("background", *(n for n in categories.values() if n != "background"))
        expected = check_class_names(own if class_names is None else class_names)
        options = {"categories": categories, "expected": expected, "keep_crowds": crowds == "keep"}
        read = partial(read_record, file, self.folder, **options)
        super().__init__(chain(problems, read_images(file, index, share, read)), expected, on_bad)


def read_images(
    file: Path, index: object, share: str | None, read: Callable
) -> Iterator[Record | Problem]:
    """Read every image of a share once, with its annotations."""
    seen = set()
    for image_id, info in sorted(index.imgs.items(), key=lambda pair: order(pair[0])):
        name, where = str(info.get("file_name", image_id)), f"image {image_id}"
        if share is not None and not in_share(name, share):
            continue
        if name in seen:
            yield Problem(file, where, f"listed twice: {name}")
            continue
        seen.add(name)
        yield from outcomes(file, where, read, info, index.imgToAnns[image_id])


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


def find_images(file: Path, entries: list) -> Path:
    """The folder, the file's own or one near it, that holds the first image of a file.

    Near are folders for images, and those that share their name with the file, as ``train2017``
    and ``instances_train2017.json``.
    """
    names = [e["file_name"] for e in entries if isinstance(e, dict) and e.get("file_name")]
    if not names:
        return file.parent
    path = PureWindowsPath(str(names[0]).strip())  # parts at both slashes
    near = [folder for base in (file.parent, file.parent.parent) for folder in inside(base, file)]
    for name in (path.as_posix(), path.name):
        for folder in near:
            if (folder / name).is_file():
                return folder
    raise FileNotFoundError(f"{file}: no folder near it holds {names[0]}; give IMAGES:{file}")


def inside(base: Path, file: Path) -> Iterator[Path]:
    """A folder, those in it that may hold the images of a file, and those in these."""
    yield base
    for folder in sorted(f for f in base.iterdir() if f.is_dir()):
        if folder.name.lower() in IMAGE_FOLDERS or folder.name in file.stem:
            yield from inside(folder, file)


def categories_of(file: Path, content: dict[str, list], index: object) -> dict[Key, str]:
    """The names of a file's categories by their ids."""
    try:
        used = {thing["category_id"] for thing in index.anns.values()}
        return read_categories(content["categories"], used)
    except DataError as error:
        raise ValueError(f"{file}: categories: {error}") from None


def index_of(file: Path, content: dict[str, list]) -> tuple[object, list[Problem]]:
    """pycocotools' index of a file, silently, for it reports to the screen; and what it lacks."""
    library = need("pycocotools.coco", "coco", "COCO's format")
    images, problems = whole_entries(file, "image", content["images"], ["id"])
    keys = ["id", "image_id", "category_id"]
    things, more = whole_entries(file, "annotation", content["annotations"], keys)
    with contextlib.redirect_stdout(io.StringIO()):
        index = library.COCO()
        index.dataset = {"images": images, "annotations": things}
        index.createIndex()
    lost = [
        Problem(file, f"annotation {t['id']}", f"unknown image: image_id is {t['image_id']}")
        for t in things
        if t["image_id"] not in index.imgs
    ]
    return index, problems + more + lost


def whole_entries(
    file: Path, kind: str, entries: list, keys: list[str]
) -> tuple[list[Entry], list[Problem]]:
    """The entries that have ids under all keys, and one of their own; and the problem of others.

    pycocotools would stop at the first without, and mix up those with the same id.
    """
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
