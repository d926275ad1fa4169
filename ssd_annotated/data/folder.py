"""Folders of annotated images as data sets, no matter in which format.

Annotations and the headers of the images are read once; pixels when they are asked for. Whatever is
wrong is an error that names the file, the object and the value, or is left out, counted and
reported: never silent.
"""

import operator
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ssd_annotated.data.annotation import DataError, Found, Item, Problem
from ssd_annotated.data.find import EVERYTHING, find, join, split_data
from ssd_annotated.data.record import Record, decoding_problem, read_image, read_record
from ssd_annotated.support.checks import check_choice


class AnnotatedFolder(Dataset):
    """Images with boxes: what was found comes in, images and targets go out.

    An item is the image, uint8 RGB (height, width, 3) of its own size, and its target: ``boxes``
    (G, 4) ``xyxy`` fractions, ``labels`` (G,) 1 … C − 1, ``difficult``, ``truncated`` and ``crowd``
    (G,). A crowd, many objects in one box, is difficult as well; only COCO's format knows crowds.

    `understood` says in a line for each folder how it was read.

    Parameters
    ----------
    found
        What was found; images with XML come first.
    class_names
        Class names, ``"background"`` first. By default those that occur in XML, in alphabetical
        order, then those that files in COCO's format list.
    on_bad
        ``"raise"``: the first bad thing is an error. ``"skip"``: a bad object is left out, or a bad
        image with all its objects; `problems` lists them and `report` says how many. Then every
        image is decoded once, now, so that no run meets a corrupt one later; with ``"raise"`` that
        is left to `verify`. An image whose last object is left out stays, as one without objects.
    crowds
        ``"ignore"``, as COCO does: what it calls a crowd is ``crowd`` and ``difficult``, so
        :class:`~ssd_annotated.data.augment.Augmented` leaves it out of training and evaluation
        ignores what is found there. ``"keep"``: a crowd is an object like any other.

    Notes
    -----
    A box that sticks out is cut at the border, and counted (`notes`) if it is by more than
    rounding; it is bad if it lies outside or would lose more than half its area.
    """

    def __init__(
        self,
        found: Sequence[Found],
        class_names: Sequence[str] | None = None,
        on_bad: Literal["raise", "skip"] = "raise",
        crowds: Literal["ignore", "keep"] = "ignore",
    ) -> None:
        check_choice("on_bad", on_bad, ("raise", "skip"))
        check_choice("crowds", crowds, ("ignore", "keep"))
        expected = None if class_names is None else check_class_names(class_names)
        self.on_bad = on_bad
        self.understood = [one.how for one in found]
        self.said = [note for one in found for note in one.notes]
        self.problems: list[Problem] = []
        self.records: list[Record] = []
        everything = join(sorted(found, key=lambda one: len(one.class_names) > 0))
        for problem in everything.problems:
            self._leave_out(problem)
        seen = set()
        for item in everything.items:
            if item.key in seen:
                self._leave_out(Problem(item.listing, item.where, f"listed twice: {item.name}"))
                continue
            seen.add(item.key)
            self._read(item, expected, crowds == "keep")
        if on_bad == "skip":
            self.verify()
        if not self.records:
            raise ValueError(f"no image is left:\n{self.report()}")
        self.class_names = expected or self._discover(everything.class_names)

    def _read(self, item: Item, expected: tuple[str, ...] | None, keep_crowds: bool) -> None:
        """Add the record of an image, or say what is wrong with it."""
        try:
            record, problems = read_record(item, expected, keep_crowds)
        except (DataError, FileNotFoundError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            self._leave_out(Problem(item.file, item.where, str(error)), kind)
            return
        for problem in problems:
            self._leave_out(problem)
        self.records.append(record)

    def _leave_out(self, problem: Problem, error: type[Exception] = ValueError) -> None:
        if self.on_bad == "raise":
            raise error(str(problem)) from None
        self.problems.append(problem)

    def _discover(self, listed: Sequence[str]) -> tuple[str, ...]:
        """``"background"``, the classes that occur in XML, and those that are listed."""
        texts = [r for r in self.records if r.annotation.suffix.lower() == ".xml"]
        found = sorted({name for record in texts for name in record.names})
        if not found and not listed:
            raise ValueError(f"no image has an object: give class_names\n{self.report()}")
        return tuple(dict.fromkeys(("background", *found, *listed)))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], dict[str, Tensor]]:
        return read_image(self.records[operator.index(index)]), self.target(index)

    def target(self, index: int) -> dict[str, Tensor]:
        """The target of an item, without decoding its image."""
        record = self.records[operator.index(index)]
        labels = np.array([self.class_names.index(name) for name in record.names], dtype=np.int64)
        flags = {name: getattr(record, name) for name in ("difficult", "truncated", "crowd")}
        arrays = {"boxes": record.boxes, "labels": labels, **flags}
        # Copied: code that moves a box in place does not move it for ever.
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    @property
    def undecided(self) -> int:
        """How many images have an unclear orientation."""
        return sum(record.undecided for record in self.records)

    @property
    def notes(self) -> list[str]:
        """What is not wrong but worth knowing, a line each; empty if there is nothing to say."""
        return [*self.said, *count_notes(self.records)]

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
        """Say how much there is, the notes, and the problems: by kind, and the first `most`."""
        objects = sum(len(record.names) for record in self.records)
        problems = len(self.problems)
        first = f"images: {len(self.records)}, objects: {objects}, problems: {problems}"
        return "\n".join([first, *self.notes, *list_problems(self.problems, most)])


def count_notes(records: Sequence[Record]) -> list[str]:
    """Say how many boxes were cut, sizes were missing, and objects are crowds."""
    cut = [pixels for record in records for pixels in record.cut]
    measured = sum(record.measured for record in records)
    crowds = sum(int(record.crowd.sum()) for record in records)
    furthest = f"{max(cut, default=0):.3g} px"
    kinds = (
        (len(cut), "box", "boxes", f" cut at the border, the furthest by {furthest}"),
        (measured, "annotation", "annotations", " without a size: the image's own is taken"),
        (crowds, "crowd", "crowds", ": left out of training, ignored in evaluation"),
    )
    return [f"{n} {one if n == 1 else many}{text}" for n, one, many, text in kinds if n]


def list_problems(problems: Sequence[Problem], most: int) -> list[str]:
    """A line for each kind of problem, then for each of the first `most` problems."""
    kinds = Counter(problem.what.partition(":")[0] for problem in problems)
    lines = [f"{count} × {kind}" for kind, count in kinds.most_common()]
    lines += [f"- {problem}" for problem in problems[:most]]
    return lines + [f"- and {len(problems) - most} more"] * (len(problems) > most)


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Raise a ValueError unless the names are different and ``"background"`` stands first."""
    names = tuple(class_names)
    if len(names) < 2 or names[0] != "background" or len(set(names)) < len(names):
        raise ValueError(
            f"class_names must be 'background' and then different names, not {class_names!r}"
        )
    return names


# --- Any folder -----------------------------------------------------------------------------------


def open_data(
    *data: str | Path | tuple[str | Path, str | None],
    wanted: str = EVERYTHING,
    class_names: Sequence[str] | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
    crowds: Literal["ignore", "keep"] = "ignore",
) -> AnnotatedFolder:
    """Open folders of annotated images, whatever tool wrote them, as one data set.

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
        As for :class:`AnnotatedFolder`.

    Raises
    ------
    FileNotFoundError, ValueError
        As :class:`~ssd_annotated.data.voc.VOCFolder`, :class:`~ssd_annotated.data.coco.COCOFolder`
        and :func:`~ssd_annotated.data.find.find` do.
    """
    if not data:
        raise ValueError("give at least one folder")
    found = [find(*as_pair(one), wanted) for one in data]
    return AnnotatedFolder(found, class_names, on_bad, crowds)


def as_pair(data: str | Path | tuple[str | Path, str | None]) -> tuple[str | Path, str | None]:
    """A DATA argument as a root and a set."""
    if isinstance(data, str):
        return split_data(data)
    return (data, None) if isinstance(data, Path) else tuple(data)
