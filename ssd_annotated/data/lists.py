"""Lists of images, as ``ImageSets/Main`` of PASCAL VOC holds them: one name a line.

VOC has a list of each class besides, ``cat_train.txt``, with a number behind each name: 1 if there
is a cat, 0 if it is a difficult one, −1 if not. VoTT writes such lists alone.
"""

import codecs
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

CLASS_LINE = re.compile(r"(.*\S)\s+(-1|0|1)")
NO_NAMES = ("", ".", "..")  # of files


class Line(NamedTuple):
    """What a line of a list says of an image, and where."""

    file: Path
    number: int
    text: str


def find_lists(root: Path) -> Path | None:
    """The folder of a root that holds lists, if there is one."""
    folders = root / "ImageSets" / "Main", root / "ImageSets"
    return next((folder for folder in folders if any(folder.glob("*.txt"))), None)


def list_sets(lists: Path, known: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the sets: those of the lists, and those that lists of classes make together."""
    there = sorted(file.stem for file in lists.glob("*.txt"))
    parts = {name.rpartition("_")[2] for name in there if "_" in name}
    whole = {known.get(name, name) for name in there}
    made = [part for part in sorted(parts & known.keys()) if known[part] not in whole]
    return (*there, *made)


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
        lines, notes = read_names(file, annotated)
    else:
        found = [read_names(part, annotated) for part in sorted(lists.glob(f"*_{name}.txt"))]
        lines = list({line.text: line for lines, _ in found for line in lines}.values())
        said = f"taken: the {len(lines)} images with 1 or 0 in any of {len(found)} lists"
        notes = [f"{lists / '*_'}{name}.txt: lists of classes; {said}"]
    if not lines:
        raise ValueError(f"{file}: the image set is empty")
    return file, [name_of(line, annotated, suffixes) for line in lines], notes


def read_names(file: Path, annotated: Collection[str]) -> tuple[list[Line], list[str]]:
    """The lines of a list as they are; of a list of a class, the names with 1 or 0."""
    every = enumerate(map(str.strip, read_text(file).splitlines()), start=1)
    lines = [Line(file, number, text) for number, text in every if text]
    matches = [CLASS_LINE.fullmatch(line.text) for line in lines]
    if not lines or not all(matches) or lines[0].text in annotated:
        return lines, []
    with_class = [(line, match) for line, match in zip(lines, matches) if match[2] != "-1"]
    taken = [line._replace(text=match[1]) for line, match in with_class]
    said = f"taken: {len(taken)} of {len(lines)} lines, those with 1 or 0"
    return taken, [f"{file}: the list of a class; {said}"]


def read_text(file: Path) -> str:
    """The text of a list: UTF-8, or UTF-16 with its mark, as PowerShell writes.

    A line that is neither becomes a name without annotation, and is reported as such.
    """
    data = file.read_bytes()
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return data.decode("utf-16" if data.startswith(marks) else "utf-8-sig", errors="replace")


def name_of(line: Line, annotated: Collection[str], suffixes: Sequence[str]) -> str:
    """The name that a line means; a ValueError says where it stands if no file can have it."""
    name = clean_name(line.text, annotated, suffixes)
    if name in NO_NAMES:
        raise ValueError(f"{line.file}: line {line.number} names no image: {line.text!r:.60}")
    return name


def clean_name(line: str, annotated: Collection[str], suffixes: Sequence[str]) -> str:
    """The name that a line means: itself, or that without its ending, or without folders."""
    path = PureWindowsPath(line)  # parts at both slashes
    whole = path.with_suffix("").as_posix() if path.suffix.lower() in suffixes else line
    stem = PureWindowsPath(whole).name
    return next((name for name in (line, whole, stem) if name in annotated), stem)
