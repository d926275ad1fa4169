"""The kinds of folder that hold images and their annotations, as tools write them.

Three are known, and the first that fits is taken:

1. *VOC's layout*: ``ImageSets/Main/<set>.txt`` lists names, one a line; the files are
   ``Annotations/<name>.xml`` and ``JPEGImages/<name>.jpg`` (or .png, …).
2. *XML by name*: every image with the ``.xml`` of its name, beside it (labelImg, Roboflow), in a
   sibling folder such as ``annotations`` or ``xmls``, or anywhere, if no other has its name.
3. *COCO's JSON*: files with lists of images, annotations and categories.

In 2 and 3 a folder named ``train``, ``val`` (``valid``, ``validation``) or ``test`` makes a set of
this name; in 3 the name of a file does, too (``instances_train2017.json``).
"""

import mmap
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ssd_annotated.data.annotation import Found
from ssd_annotated.data.entries import read_coco
from ssd_annotated.data.items import (
    SUFFIXES,
    composed,
    ending,
    pair,
    paired_items,
    read_voc,
    stems,
    walk,
)

#: Names of sets, by what folders and files are called.
SETS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
BOTH = "trainval"  # the first two together, as VOC calls them
OTHER = "other"  # the set of what is in no folder of such a name, if others are
MOST_JSON = 20  # more JSON files in a folder are not COCO's, but for one that is no image's
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
OTHER_TASKS = ("captions", "image_info", "panoptic", "person_keypoints", "stuff")  # COCO's own


class Kind(NamedTuple):
    """A folder that was understood: in words; the names of its sets; and how to read one of them.

    The set None is the whole folder, if there are no sets. `lists` is the folder of the files that
    make the sets, if these do.
    """

    root: Path
    words: str
    sets: tuple[str, ...]
    read: Callable[[str | None], Found]
    lists: Path | None = None
    in_json: bool = False


def understand(root: Path) -> Kind:
    """Say what kind of folder this is.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or neither images nor annotations in it.
    ValueError
        If it is no kind that is known; the message says what was found.
    """
    if not root.is_dir():
        hint = ": unpack it" if root.suffix.lower() in ARCHIVES else ": it is a file"
        raise FileNotFoundError(f"{root}: no such folder{hint if root.is_file() else ''}")
    lists = find_lists(root)
    if lists is not None:
        read = partial(read_voc, root, lists)
        return Kind(root, "PASCAL VOC's layout", list_sets(lists), read, lists)
    inner = sorted(folder for folder in root.iterdir() if folder.is_dir() and find_lists(folder))
    if inner:  # as VOCdevkit, which holds VOC2007 and VOC2012
        there = ", ".join(map(str, inner))
        raise ValueError(f"{root}: the folders in it have lists of their own; name one: {there}")
    files = list(walk(root))
    images = ending(files, SUFFIXES)
    pairs = pair(root, images, ending(files, (".xml",)))
    if any(pairs.values()):
        return xml_kind(root, images, pairs)
    jsons = coco_files(files)
    if jsons:
        return json_kind(root, jsons)
    raise nothing_known(root, files, images)


def nothing_known(root: Path, files: Sequence[Path], images: Sequence[Path]) -> Exception:
    """The error that says what is in a folder that is of no known kind."""
    wanted = "VOC's lists, an .xml of each image's name, or COCO's JSON"
    if not images:
        return FileNotFoundError(
            f"{root}: no image in this folder; looked for {', '.join(SUFFIXES)}"
        )
    endings = Counter(file.suffix.lower() for file in files)
    hints = {
        ".xml": "none has an image's name; CVAT's own can be exported as Pascal VOC or COCO",
        ".json": "they are not COCO's; labelme's can be converted with its labelme2coco.py",
        ".txt": "YOLO's must be converted",
    }
    there = [f"{endings[end]} {end} ({hint})" for end, hint in hints.items() if endings[end]]
    also = f"; there are also {', '.join(there)}" if there else ""
    return ValueError(
        f"{root}: {count_of(len(images))}, but no annotations: expected {wanted}{also}"
    )


def count_of(images: int) -> str:
    """So many images, in words."""
    return f"{images} image{'s' * (images != 1)}"


def usual(name: str) -> str:
    """What a set of this name is usually called: CVAT proposes ``Train`` and ``Validation``."""
    small = name.lower()
    return SETS.get(small, small)


def set_of(file: Path, root: Path) -> str | None:
    """The set that a folder on the way to a file stands for."""
    folders = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    return next((SETS[name.lower()] for name in folders if name.lower() in SETS), None)


def names_of_sets(found: Iterable[str | None]) -> tuple[str, ...]:
    """The sets that occur, in the order of `SETS`, those without a name last."""
    there = set(found)
    return tuple(name for name in dict.fromkeys((*SETS.values(), BOTH, OTHER)) if name in there)


# --- VOC's layout ---------------------------------------------------------------------------------


def find_lists(root: Path) -> Path | None:
    """The folder of a root that holds lists, if there is one."""
    folders = root / "ImageSets" / "Main", root / "ImageSets"
    return next((folder for folder in folders if any(folder.glob("*.txt"))), None)


def list_sets(lists: Path) -> tuple[str, ...]:
    """The names of the sets: those of the lists, and those that lists of classes make together."""
    there = sorted(file.stem for file in lists.glob("*.txt"))
    parts = {name.rpartition("_")[2] for name in there if "_" in name}
    whole = {usual(name) for name in there}
    made = (part for part in sorted(parts) if part.lower() in SETS and usual(part) not in whole)
    return (*there, *made)


# --- XML by name ----------------------------------------------------------------------------------


def xml_kind(root: Path, images: Sequence[Path], pairs: Mapping[Path, Sequence[Path]]) -> Kind:
    """A folder of images with an XML file each."""
    sets = {text: set_of((*found, text)[0], root) for text, found in pairs.items()}
    other = OTHER if any(sets.values()) else None
    sets = {text: name or other for text, name in sets.items()}
    names = names_of_sets(sets.values())
    known = {(name, composed(stem)) for text, name in sets.items() for stem in stems(text)}
    alone = {}
    for image in images:
        own = set_of(image, root) or other
        # One whose name has an XML file in its set is a picture of the boxes, or of a mask.
        if (own, composed(image.stem)) not in known:
            # Images of a set in which no image has an annotation are said with the first set.
            alone[image] = own if own in names else (*names, None)[0]

    def read(name: str | None) -> Found:
        items = [item for item in paired_items(root, pairs) if name in (None, sets[item.file])]
        bare = [image for image, own in alone.items() if name in (None, own)]
        shown = ", ".join(image.name for image in bare[:3]) + ", …" * (len(bare) > 3)
        said = f"{count_of(len(bare))} without annotation, left out: {shown}"
        return Found(tuple(items), (said,) if bare else ())

    return Kind(root, describe(root, pairs), names, read)


def describe(root: Path, pairs: Mapping[Path, Sequence[Path]]) -> str:
    """Where the images and their XML files are, in words."""
    places = sorted((found[0].parent, text.parent) for text, found in pairs.items() if found)
    if all(a == b for a, b in places):
        return "images with the XML of their name beside them"
    (images, texts), _ = Counter(places).most_common(1)[0]
    names = [os.path.relpath(folder, root) + "/" for folder in (images, texts)]
    words = "images in {}, XML in {}".format(*names).replace("in ./", "in the folder itself")
    return words + ", and so on" * (len(set(places)) > 1)


# --- COCO's JSON ----------------------------------------------------------------------------------


def coco_files(files: Sequence[Path]) -> list[Path]:
    """The files in COCO's format that hold boxes."""
    pictures = {image.stem for image in ending(files, SUFFIXES)}
    every = ending(files, (".json",))
    of_no_image = [file for file in every if pictures.isdisjoint(stems(file))]
    found = [f for f in dict.fromkeys(few(every) + few(of_no_image)) if looks_like_coco(f)]
    boxes = [file for file in found if not file.stem.startswith(OTHER_TASKS)]
    return boxes or found


def few(files: Sequence[Path]) -> list[Path]:
    """The files that do not lie among too many in their folder."""
    count = Counter(file.parent for file in files)
    return [file for file in files if count[file.parent] <= MOST_JSON]


def looks_like_coco(file: Path) -> bool:
    """Whether the three words occur that COCO's format must have; it is not parsed for that."""
    if not file.stat().st_size:
        return False
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return all(text.find(w) >= 0 for w in (b'"images"', b'"annotations"', b'"categories"'))


def json_kind(root: Path, files: Sequence[Path]) -> Kind:
    """A folder with files in COCO's format."""
    sets = {file: set_of(file, root) or set_in_name(file) for file in files}

    def read(name: str | None) -> Found:
        chosen = [file for file in files if name in (None, sets[file])]
        if len(chosen) > 1:
            listed = ", ".join(map(str, chosen))
            raise ValueError(f"{root}: several files in COCO's format; give IMAGES:FILE: {listed}")
        found = read_coco(chosen[0])
        return found._replace(notes=of_no_set) if name in there[:1] else found

    there = names_of_sets(sets.values())
    of_no_set = tuple(f"{f}: in no set by its name, left out" for f in files if sets[f] is None)
    names = [os.path.relpath(file, root) for file in files]
    words = f"COCO's JSON in {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    return Kind(root, words, there, read, in_json=True)


def set_in_name(file: Path) -> str | None:
    """The set that the name of a file stands for."""
    words = re.split(r"[^a-z]+", file.stem.lower())
    return next((usual(word) for word in words if word in SETS or word == BOTH), None)
