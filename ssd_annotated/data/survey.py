"""What a data set holds: counts, sizes, shapes against the priors, and everything wrong with it."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.data import Dataset

from ssd_annotated.boxes import cxcywh_to_xyxy, pairwise_iou
from ssd_annotated.data.annotation import Problem
from ssd_annotated.data.folder import list_problems
from ssd_annotated.support.tables import text_table

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
WIDTH = 99  # columns of a table


@dataclass(frozen=True, eq=False)
class Survey:
    """What a data set holds, as plain numbers.

    Parameters
    ----------
    images, empty, undecided
        How many there are, how many without an object, and how many whose orientation is unclear.
    difficult, truncated
        How many objects are flagged so.
    per_image
        `QUANTILES` over images of the number of objects.
    shapes
        Width and height of each class's objects in fractions of the image, as a network sees them
        that was made square.
    uncovered
        Share of each class's objects whose best prior has an IoU below ½; None without priors.
    problems
        What was left out because something is wrong with it.
    notes
        What is not wrong but worth knowing, a line each.
    """

    images: int
    empty: int
    undecided: int
    difficult: int
    truncated: int
    per_image: tuple[float, ...]
    shapes: dict[str, Float[Tensor, "N 2"]]
    uncovered: dict[str, float] | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def objects(self) -> dict[str, int]:
        """Number of objects of each class."""
        return {name: len(shape) for name, shape in self.shapes.items()}

    @property
    def sizes(self) -> tuple[float, ...]:
        """`QUANTILES` over objects of √(width · height); empty if there is no object."""
        return quantiles(torch.cat([*self.shapes.values()]).prod(dim=1).sqrt())

    @property
    def ratios(self) -> tuple[float, ...]:
        """`QUANTILES` over objects of width / height; empty if there is no object."""
        width, height = torch.cat([*self.shapes.values()]).T
        return quantiles(width / height)


def survey(dataset: Dataset, priors: Float[Tensor, "P 4"] | None = None) -> Survey:
    """Count and measure what a data set holds.

    Parameters
    ----------
    dataset
        Anything with `class_names` and items (image, target). If it has a method ``target``, as
        folders have, no image is decoded.
    priors
        ``cxcywh`` fractions, to see how many objects overlap none of them by half. Each of these is
        taught to a single prior (see `match_priors`).
    """
    targets = read_targets(dataset)
    counts = [len(target["boxes"]) for target in targets]
    nothing = torch.empty(0, 4, device="cpu")
    boxes = torch.cat([nothing, *(target["boxes"] for target in targets)])
    labels = torch.cat([nothing[:, 0].long(), *(target["labels"] for target in targets)])
    shapes = boxes[:, 2:] - boxes[:, :2]
    names = dict(enumerate(dataset.class_names[1:], start=1))
    missed = None if priors is None else uncovered_objects(targets, priors)
    return Survey(
        images=len(targets),
        empty=counts.count(0),
        undecided=getattr(dataset, "undecided", 0),
        difficult=count_flags(targets, "difficult"),
        truncated=count_flags(targets, "truncated"),
        per_image=quantiles(counts),
        shapes={name: shapes[labels == label] for label, name in names.items()},
        uncovered=None if missed is None else share_by_class(missed, labels, names),
        problems=tuple(getattr(dataset, "problems", ())),
        notes=tuple(getattr(dataset, "notes", ())),
    )


def read_targets(dataset: Dataset) -> list[dict[str, Tensor]]:
    """The target of every item, without the images where the data set knows how."""
    if hasattr(dataset, "target"):
        return [dataset.target(index) for index in range(len(dataset))]
    return [dataset[index][1] for index in range(len(dataset))]


def count_flags(targets: list[dict[str, Tensor]], flag: str) -> int:
    """How many objects carry a flag; a data set need not know of it."""
    return sum(int(target[flag].sum()) for target in targets if flag in target)


def uncovered_objects(
    targets: list[dict[str, Tensor]], priors: Float[Tensor, "P 4"]
) -> Bool[Tensor, "N"]:
    """Which of all objects have an IoU below ½ with their best prior."""
    corners = cxcywh_to_xyxy(priors)
    best = [pairwise_iou(target["boxes"].to(corners), corners).amax(dim=1) for target in targets]
    return torch.cat([*best, corners.new_empty(0)]).cpu() < 0.5


def share_by_class(
    flags: Bool[Tensor, "N"], labels: Int64[Tensor, "N"], names: dict[int, str]
) -> dict[str, float]:
    """Of how many of each class's objects something is true; classes without objects are absent."""
    present = {name: flags[labels == label] for label, name in names.items()}
    return {name: float(flag.double().mean()) for name, flag in present.items() if len(flag)}


def quantiles(values: Sequence[float] | Float[Tensor, "N"]) -> tuple[float, ...]:
    """The `QUANTILES` of some numbers, none of no numbers."""
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else ()


# --- As a table -----------------------------------------------------------------------------------


def survey_table(found: Survey, most: int = 20) -> str:
    """Lay a survey out as text: counts, notes, quantiles, a line for each class, what is wrong.

    Parameters
    ----------
    most
        How many problems to list one by one; all are counted.

    Returns
    -------
    Lines of at most 99 columns, unless a name or a path alone is longer.
    """
    numbers = [quantile_lines(found), class_lines(found)]
    problems = list_problems(found.problems, most)
    parts = [count_lines(found), wrap(found.notes), *numbers, wrap(problems)]
    return "\n\n".join(filter(None, parts))


def count_lines(found: Survey) -> str:
    """How many images, objects and problems there are."""
    flagged = f"{found.difficult} difficult, {found.truncated} truncated"
    unclear = f"{found.undecided} of unclear orientation"
    rows = [
        ("images", found.images, f"{found.empty} without objects, {unclear}"),
        ("objects", sum(found.objects.values()), flagged),
        ("problems", len(found.problems), "left out" if found.problems else ""),
    ]
    return "\n".join(f"{name:8} {count:8}   {more}".rstrip() for name, count, more in rows)


def quantile_lines(found: Survey) -> str:
    """How objects an image, sizes and ratios are spread."""
    inner = [f"{quantile:.0%}" for quantile in QUANTILES[1:-1]]
    rows = [
        ["", "least", *inner, "most"],
        ["objects an image", *(f"{count:.0f}" for count in found.per_image)],
        ["size √(w·h)", *(f"{size:.3f}" for size in found.sizes)],
        ["ratio w / h", *(f"{value:.2f}" for value in found.ratios)],
    ]
    return text_table(rows[0], [row for row in rows[1:] if len(row) > 1])


def class_lines(found: Survey) -> str:
    """A line for each class: its objects, their middle size and ratio, and what the priors miss."""
    total = max(sum(found.objects.values()), 1)
    header = ["class", "objects", "share", "median size", "median w / h"]
    header += [] if found.uncovered is None else ["no prior's IoU ≥ ½"]
    rows = []
    for name, shapes in found.shapes.items():
        rows.append([name, f"{len(shapes)}", f"{len(shapes) / total:.1%}"])
        if len(shapes):
            width, height = shapes.T
            size, ratio = np.median((width * height).sqrt()), np.median(width / height)
            rows[-1] += [f"{size:.3f}", f"{ratio:.2f}"]
            rows[-1] += [] if found.uncovered is None else [f"{found.uncovered[name]:.1%}"]
    return text_table(header, rows)


def wrap(lines: Sequence[str]) -> str:
    """Break lines at spaces; a path stays whole, so that it can be copied."""
    whole = {"break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ", **whole) for line in lines)
