"""Any folder of annotated images as a data set: what DATA on the command line stands for."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Literal

from ssd_annotated.data.coco import COCOFolder
from ssd_annotated.data.find import EVERYTHING, find, split_data
from ssd_annotated.data.folder import AnnotatedFolder, check_class_names
from ssd_annotated.data.items import Item
from ssd_annotated.data.kinds import count_of
from ssd_annotated.data.voc import VOCFolder


def open_data(
    *data: str | Path | tuple[str | Path, str | None],
    wanted: str = EVERYTHING,
    class_names: Sequence[str] | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
    crowds: Literal["ignore", "keep"] = "ignore",
) -> AnnotatedFolder:
    """Open folders of annotated images, whatever tool wrote them, as one data set.

    Folders with XML come first. Class names that are not given are those of the first folder, then
    more.

    Parameters
    ----------
    data
        Each a string as on the command line, ``"photographs"``, ``"VOC2007:trainval"``,
        ``"photographs:0.9"`` or ``"val2017:annotations/instances_val2017.json"``; a path; or a pair
        of a root and a set, which may be None.
    wanted
        The set to take where none is named; by default everything (see
        :func:`~ssd_annotated.data.find.find`).
    class_names, on_bad, crowds
        As for :class:`~ssd_annotated.data.voc.VOCFolder` and
        :class:`~ssd_annotated.data.coco.COCOFolder`.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As these two and :func:`~ssd_annotated.data.find.find` do.
    """
    if not data:
        raise ValueError("give at least one folder")
    names = None if class_names is None else check_class_names(class_names)
    found = [find(*as_pair(one), wanted) for one in data]
    texts = [one for one in found if isinstance(one.items[0], Item)]
    folders: list[AnnotatedFolder] = [VOCFolder(texts, names, on_bad)] if texts else []
    understood = []
    for one in found:
        files = [f for f in one.items if not isinstance(f, Item)]
        new = [COCOFolder(f.images, f.file, names, on_bad, crowds, f.share) for f in files]
        understood.append(one.how + images_in(new))
        folders += new
    joined = copy(folders[0])
    joined.records = [record for folder in folders for record in folder.records]
    joined.problems = [problem for folder in folders for problem in folder.problems]
    known = dict.fromkeys(name for folder in folders for name in folder.class_names)
    joined.class_names = names or tuple(known)
    joined.understood, joined.said = understood, [note for one in found for note in one.notes]
    return joined


def as_pair(data: str | Path | tuple[str | Path, str | None]) -> tuple[str | Path, str | None]:
    """A DATA argument as a root and a set."""
    if isinstance(data, str):
        return split_data(data)
    return (data, None) if isinstance(data, Path) else tuple(data)


def images_in(folders: Sequence[COCOFolder]) -> str:
    """How many images there are in COCO's format, and where they were found; empty for none."""
    count = count_of(sum(len(folder) for folder in folders))
    return f" ({count} in {', '.join(str(folder.folder) for folder in folders)})" * bool(folders)
