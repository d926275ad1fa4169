"""Images and the XML files that belong to them, by their names or in lists of names.

In ``ImageSets/Main`` of PASCAL VOC a list holds one name a line. There is a list of each class
besides, ``cat_train.txt``, with a number behind each name: 1 if there is a cat, 0 if it is a
difficult one, −1 if not. VoTT writes such lists alone.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath

from ssd_annotated.data.annotation import DataError, Found, Item, Written
from ssd_annotated.data.xml import decode_text, read_annotation

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "data")
ANNOTATION_FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels", "label", "ann")
CLASS_LINE = re.compile(r"(.*\S)\s+(-1|0|1)")


def xml_item(name: str, text: Path, images: Sequence[Path], place: Path, listing: Path) -> Item:
    """An XML file, the images of its name, and where these belong."""
    key = os.path.realpath(text.parent), text.name
    return Item(name, text, "", listing, key, partial(read_annotation, text, images, place))


def walk(root: Path) -> Iterator[Path]:
    """All files below a folder, in order, but for hidden ones; a loop of links is left."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__MACOSX"))
            and os.path.realpath(os.path.join(folder, name)) not in seen
        )
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def ending(files: Iterable[Path], suffixes: Collection[str]) -> list[Path]:
    """The files whose names end so, in any case."""
    return [file for file in files if file.suffix.lower() in suffixes]


def composed(name: str) -> str:
    """A name with every accent in its letter: two systems may write the same name in two ways."""
    return unicodedata.normalize("NFC", name)


def grouped(things: Iterable, key: Callable) -> dict[Hashable, list]:
    """Things by a key."""
    found = defaultdict(list)
    for thing in things:
        found[key(thing)].append(thing)
    return dict(found)


# --- By their names -------------------------------------------------------------------------------


def pair(root: Path, images: Sequence[Path], texts: Sequence[Path]) -> dict[Path, list[Path]]:
    """Every XML file with the images of its name.

    A name is the path without ending and without folders for images or annotations: so
    ``images/train/a.jpg`` and ``annotations/train/a.xml`` are both ``train/a``. Of what is left
    over, files whose stem occurs once on either side belong together, too.
    """
    if not texts:
        beside = root.resolve().parent.iterdir()
        folders = [folder for folder in beside if folder.name.lower() in ANNOTATION_FOLDERS]
        texts = [text for folder in folders for text in ending(walk(folder), (".xml",))]
    pictures = grouped(images, lambda image: common_name(image, root, image.stem))
    paired = {}
    for text in texts:
        names = [common_name(text, root, stem) for stem in stems(text)]
        found = next((pictures[name] for name in names if name in pictures), [])
        exact = [image for image in found if composed(image.name) == composed(text.stem)]
        paired[text] = exact or found
    taken = {image for found in paired.values() for image in found}
    left = once(image for image in images if image not in taken)
    alone = once(text for text, found in paired.items() if not found)
    return paired | {text: [left[stem]] for stem, text in alone.items() if stem in left}


def once(files: Iterable[Path]) -> dict[str, Path]:
    """By their stems, the files whose stem no other has."""
    same = grouped(files, lambda file: composed(file.stem))
    return {stem: found[0] for stem, found in same.items() if len(found) == 1}


def paired_items(root: Path, pairs: Mapping[Path, Sequence[Path]]) -> list[Item]:
    """Every XML file with its images; of several, those beside it. Two of one image are bad."""
    own = {t: [i for i in found if i.parent == t.parent] or found for t, found in pairs.items()}
    texts = defaultdict(list)
    for text, images in own.items():
        for image in images:
            texts[image].append(text)
    items = []
    for text, images in own.items():
        file = images[0] if images else text
        name = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
        item = xml_item(name.with_suffix("").as_posix(), text, images, text.with_suffix(""), root)
        if len(texts[file]) > 1:
            item = item._replace(read=partial(refuse, file, texts[file]))
        items.append(item)
    return sorted(items)


def refuse(image: Path, texts: Sequence[Path]) -> Written:
    """Say that an image has several annotations: nobody knows which is right."""
    raise DataError(f"several annotations: {image.name} has {', '.join(map(str, texts))}")


def common_name(file: Path, root: Path, stem: str) -> str:
    """What an image and its annotation have in common, if the last part of it is `stem`."""
    outside = Path(file.parent.name, file.name)
    below = file.relative_to(root) if file.is_relative_to(root) else outside
    kinds = *IMAGE_FOLDERS, *ANNOTATION_FOLDERS
    folders = [folder for folder in below.parts[:-1] if folder.lower() not in kinds]
    return composed("/".join([*folders, stem]))


def stems(text: Path) -> list[str]:
    """The names of images that an XML file may belong to: ``a.png.xml`` to ``a.png`` or ``a``."""
    inner = Path(text.stem)
    return [text.stem, inner.stem] if inner.suffix.lower() in SUFFIXES else [text.stem]


# --- In lists of names ----------------------------------------------------------------------------


def read_voc(root: Path, lists: Path, set_name: str) -> Found:
    """The images of one list."""
    photographs = named_folder(root, IMAGE_FOLDERS, "JPEGImages")
    if not photographs.is_dir():
        raise FileNotFoundError(f"{photographs}: no such folder")
    annotations = named_folder(root, ANNOTATION_FOLDERS, "Annotations")
    texts, pictures = by_name(annotations, (".xml",)), by_name(photographs, SUFFIXES)
    listing, names, notes = read_list(lists, set_name, texts.keys(), (*SUFFIXES, ".xml"))
    items = []
    for name in names:
        text = texts.get(name, [annotations / f"{name}.xml"])[0]
        items.append(xml_item(name, text, pictures.get(name, []), photographs / name, listing))
    return Found(tuple(items), tuple(notes))


def named_folder(root: Path, names: Sequence[str], usual: str) -> Path:
    """The first folder in a root that has one of these names, in any case; or the usual one."""
    if (root / usual).is_dir():
        return root / usual
    there = {folder.name.lower(): folder for folder in root.iterdir() if folder.is_dir()}
    return next((there[name] for name in names if name in there), root / usual)


def by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """The files below a folder by name: listing a folder is faster than asking for each file."""
    files = ending(walk(folder), suffixes)

    def name(file: Path) -> str:
        return composed(file.relative_to(folder).with_suffix("").as_posix())

    return grouped(files, name)


def read_list(
    lists: Path, name: str, annotated: Collection[str], suffixes: Sequence[str]
) -> tuple[Path, list[str], list[str]]:
    """The names that a list holds; with its file, and what is worth saying of it.

    Parameters
    ----------
    name
        The list, or what several lists of classes have in common: the names in any of them.
    annotated
        The names that have an annotation.
    suffixes
        Endings that names do not have: ``a.jpg`` in a list means ``a``, as does
        ``C:\\photos\\a.jpg``.

    Raises
    ------
    ValueError
        If the list holds no name, or a line that cannot be one, such as ``..``.
    """
    file = lists / f"{name}.txt"
    if file.is_file():
        names, notes = read_names(file, annotated, suffixes)
    else:
        parts = sorted(lists.glob(f"*_{name}.txt"))
        found = [read_names(part, annotated, suffixes)[0] for part in parts]
        names = list(dict.fromkeys(name for part in found for name in part))
        said = f"taken: the {len(names)} images with 1 or 0 in any of {len(parts)} lists"
        notes = [f"{lists / '*_'}{name}.txt: lists of classes; {said}"]
    if not names:
        raise ValueError(f"{file}: the image set is empty")
    return file, names, notes


def read_names(
    file: Path, annotated: Collection[str], suffixes: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The names in a list: all of them, or of a class's list those with 1 or 0, not −1."""
    # PowerShell writes UTF-16. What cannot be decoded is a name without annotation: it is reported.
    every = enumerate(composed(decode_text(file.read_bytes())).splitlines(), start=1)
    lines = [(f"{file}: line {number}", text.strip()) for number, text in every if text.strip()]
    matches = [CLASS_LINE.fullmatch(text) for _, text in lines]
    notes = []
    if lines and all(matches) and lines[0][1] not in annotated:
        taken = [(line[0], m[1]) for line, m in zip(lines, matches) if m[2] != "-1"]
        said = f"taken: {len(taken)} of {len(lines)} lines, those with 1 or 0"
        lines, notes = taken, [f"{file}: the list of a class; {said}"]
    return [name_of(text, where, annotated, suffixes) for where, text in lines], notes


def name_of(line: str, where: str, annotated: Collection[str], suffixes: Sequence[str]) -> str:
    """The name that a line means: itself, or that without its ending, or without folders."""
    path = PureWindowsPath(line)  # parts at both slashes
    # Python 3.13 refuses to take the ending from "..jpg" by with_suffix.
    whole = path.as_posix().removesuffix(path.suffix) if path.suffix.lower() in suffixes else line
    stem = PureWindowsPath(whole).name
    name = next((name for name in (line, whole, stem) if name in annotated), stem)
    if name in ("", ".", ".."):
        raise ValueError(f"{where} names no image: {line!r:.60}")
    return name
