"""Images and the XML files of their names, wherever tools put them."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img")
ANNOTATION_FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels", "label", "ann")


class Item(NamedTuple):
    """An annotation in XML: its name, its file, the images of its name, and where these belong."""

    name: str
    annotation: Path
    images: tuple[Path, ...]
    place: Path


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


def pair(root: Path, images: Sequence[Path], texts: Sequence[Path]) -> list[Item]:
    """Every XML file with the images of its name; of those without, both are left alone.

    A name is the path without ending and without folders for images or annotations: so
    ``images/train/a.jpg`` and ``annotations/train/a.xml`` are both ``train/a``.
    """
    if not texts:
        beside = root.resolve().parent.iterdir()
        folders = [folder for folder in beside if folder.name.lower() in ANNOTATION_FOLDERS]
        texts = [f for folder in folders for f in walk(folder) if f.suffix.lower() == ".xml"]
    pictures: dict[str, list[Path]] = {}
    for image in images:
        pictures.setdefault(common_name(image, root, image.stem), []).append(image)
    paired = {
        text: next((pictures[name] for name in names_of(text, root) if name in pictures), [])
        for text in texts
    }
    paired |= pair_by_stem(images, paired)
    return sorted(make_item(root, text, found) for text, found in paired.items())


def pair_by_stem(images: Sequence[Path], paired: dict[Path, list[Path]]) -> dict[Path, list[Path]]:
    """Of what is left over, the XML files and images whose stems occur once on either side."""
    taken = {image for found in paired.values() for image in found}
    left = [image for image in images if image not in taken]
    texts = [text for text, found in paired.items() if not found]
    count = Counter(image.stem for image in left), Counter(text.stem for text in texts)
    one = {image.stem: image for image in left if count[0][image.stem] == 1}
    return {
        text: [one[text.stem]] for text in texts if count[1][text.stem] == 1 and text.stem in one
    }


def make_item(root: Path, text: Path, images: Sequence[Path]) -> Item:
    """An XML file with its images; of several, those beside it."""
    beside = [image for image in images if image.parent == text.parent] or list(images)
    file = beside[0] if beside else text
    name = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
    return Item(name.with_suffix("").as_posix(), text, tuple(beside), text.with_suffix(""))


def names_of(text: Path, root: Path) -> list[str]:
    """The names that an XML file's image may have, the likelier first."""
    return [common_name(text, root, stem) for stem in stems(text)]


def common_name(file: Path, root: Path, stem: str) -> str:
    """What an image and its annotation have in common, if the last part of it is `stem`."""
    outside = Path(file.parent.name, file.name)
    below = file.relative_to(root) if file.is_relative_to(root) else outside
    kinds = *IMAGE_FOLDERS, *ANNOTATION_FOLDERS
    folders = [folder for folder in below.parts[:-1] if folder.lower() not in kinds]
    return "/".join([*folders, stem])


def stems(text: Path) -> list[str]:
    """The names of images that an XML file may belong to: ``a.png.xml`` to ``a.png`` or ``a``."""
    inner = Path(text.stem)
    return [text.stem, inner.stem] if inner.suffix.lower() in SUFFIXES else [text.stem]
