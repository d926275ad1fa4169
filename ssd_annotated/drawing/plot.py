"""Figure helpers: each draws on an `ax` it is given and returns nothing.

Boxes are fractions of the image, and so are the axes that :func:`show_image` sets up: a box is
drawn at its own coordinates, at any resolution of the photograph.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from ssd_annotated.boxes import check_boxes, cxcywh_to_xyxy
from ssd_annotated.evaluation.mistakes import Mistake
from ssd_annotated.evaluation.voc import PrecisionRecall
from ssd_annotated.nms import Detections

# The meaning of a colour never changes. Each stands out from white (contrast 3 : 1) and from the
# others under protanopia, deuteranopia and tritanopia; the lines differ in style as well.
# "Ignored" is a negative that was not mined.
COLOURS = {
    "ground_truth": "#0FA968",
    "positive": "#1769C6",
    "ignored": "#909090",
    "negative": "#E8590C",
    "detection": "#A01A7D",
}
LINES = {
    "ground_truth": {"linestyle": "-", "linewidth": 2.4},
    "positive": {"linestyle": "-", "linewidth": 1.4},
    "ignored": {"linestyle": (0, (1, 1.6)), "linewidth": 1.2},
    "negative": {"linestyle": (0, (4, 1.8)), "linewidth": 1.4},
    "detection": {"linestyle": "-", "linewidth": 1.9},
}
INK = "#26324a"
WIDTH = 7.0  # inches: the site's column

_STYLE = Path(__file__).with_name("annotated.mplstyle")


def use_style() -> None:
    """Make ``annotated.mplstyle`` the style of all figures drawn from now on."""
    plt.style.use(["default", _STYLE])


# ------------------------------------------------------------------------------ the image


def show_image(
    ax: Axes, image: np.ndarray, fade: float = 0.0, margin: float = 0.0, resolution: int = 320
) -> None:
    """Show a photograph on axes that run from (0, 0), top left, to (1, 1), with square pixels.

    Parameters
    ----------
    image
        uint8, (H, W, 3) RGB or (H, W) grey.
    fade
        How far to go towards white, from 0 (as it is) to 1, so that many boxes stay legible on it.
    margin
        Width of the white margin, as a fraction of the image, for boxes that stick out.
    resolution
        A larger image is first reduced to this many pixels on its longer side: photographs take
        most of the space in a figure's PNG file.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"image must be uint8 of shape (H, W, 3) or (H, W), not {image.dtype} {image.shape}"
        )
    shrink = min(1.0, resolution / max(image.shape[:2]))
    size = [max(1, round(side * shrink)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if shrink < 1 else image
    faded = np.uint8(np.round(small + (255.0 - small) * fade))
    ax.imshow(faded, extent=(0, 1, 1, 0), cmap="gray", vmin=0, vmax=255, zorder=0)
    _frame(ax, image.shape[0] / image.shape[1], ticks=False, margin=margin)


def show_canvas(
    ax: Axes, height: float = 1.0, width: float = 1.0, ticks: bool = True, margin: float = 0.0
) -> None:
    """Set up axes like those of :func:`show_image`, with an empty sheet instead of an image."""
    ax.add_patch(Rectangle((0, 0), 1, 1, facecolor="#f5f6f8", edgecolor="#9aa2b1", zorder=0))
    _frame(ax, height / width, ticks, margin)


def _frame(ax: Axes, aspect: float, ticks: bool, margin: float) -> None:
    ax.set(xlim=(-margin, 1 + margin), ylim=(1 + margin, -margin), aspect=aspect)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    positions = [0, 0.25, 0.5, 0.75, 1] if ticks else []
    ax.set(xticks=positions, yticks=positions)


# ------------------------------------------------------------------------------ boxes on it


def draw_boxes(
    ax: Axes,
    boxes: Float[Tensor, "N 4"],
    kind: str,
    labels: Int[Tensor, " N"] | Sequence[str | int] | None = None,
    scores: Float[Tensor, " N"] | None = None,
    class_names: Sequence[str] | None = None,
    **line: object,
) -> None:
    """Outline `xyxy` boxes in the colour and line of their `kind`, with a tag for each.

    The tag shows the label (a string, or a number that `class_names` translates), then the score:
    below the box for ground truth, above it for all others, so that a pair of them stays legible.
    `line` (``linewidth``, ``alpha``, ...) overrides the line of the kind.
    """
    look = _look(kind) | line
    check_boxes(boxes)
    tags = _tags(len(boxes), labels, scores, class_names)
    for box, tag in zip(boxes.tolist(), tags, strict=True):
        left, top, right, bottom = box
        outline = Rectangle((left, top), right - left, bottom - top, fill=False, **look)
        outline.set_path_effects([_halo(look)])
        ax.add_patch(outline)
        if tag:
            _draw_tag(ax, tag, box, kind == "ground_truth", look)


def draw_targets(
    ax: Axes, target: Mapping[str, Tensor], class_names: Sequence[str] | None = None
) -> None:
    """Draw the objects of one image, with their labels, as ground truth."""
    draw_boxes(ax, target["boxes"], "ground_truth", target["labels"], class_names=class_names)


def draw_detections(
    ax: Axes,
    detections: Detections,
    class_names: Sequence[str] | None = None,
    minimum_score: float = 0.3,
) -> None:
    """Draw the detections of one image that reach `minimum_score`, best on top."""
    sure = (detections.scores >= minimum_score).nonzero().flatten().flip(0)
    boxes, scores, labels = (field[sure] for field in detections)
    draw_boxes(ax, boxes, "detection", labels, scores, class_names)


def draw_priors(ax: Axes, priors: Float[Tensor, "P 4"], kind: str, **line: object) -> None:
    """Outline any number of `cxcywh` priors in the line of their `kind`; `line` overrides it."""
    # Dashes of hundreds of boxes would blend into a texture: a crowd gets hairlines instead.
    crowd = {"linestyle": "-", "linewidth": 0.6} if len(priors) > 50 else {}
    look = _look(kind) | crowd | line
    boxes = cxcywh_to_xyxy(priors)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).numpy(force=True)
    outlines = PolyCollection(corners, facecolor="none", **look)
    if not crowd:
        outlines.set_path_effects([_halo(look)])
    ax.add_collection(outlines, autolim=False)


def draw_grid(
    ax: Axes, cells: int | tuple[int, int], highlight: Sequence[tuple[int, int]] = ()
) -> None:
    """Divide the image into the cells of a feature map; tint the (row, column) pairs given."""
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    line = {"color": INK, "linewidth": 0.7, "alpha": 0.55, "zorder": 2}
    ax.vlines([c / columns for c in range(columns + 1)], 0, 1, **line)
    ax.hlines([r / rows for r in range(rows + 1)], 0, 1, **line)
    for row, column in highlight:
        corner = (column / columns, row / rows)
        tint = {"facecolor": COLOURS["positive"], "alpha": 0.35, "edgecolor": "none", "zorder": 2}
        ax.add_patch(Rectangle(corner, 1 / columns, 1 / rows, **tint))


def legend_of_kinds(
    ax: Axes, kinds: Sequence[str], counts: Mapping[str, int] | None = None
) -> None:
    """Say what the colours mean, and how many there are of each, once below the whole figure."""
    handles = [_legend_line(kind, (counts or {}).get(kind)) for kind in kinds]
    ax.figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _look(kind: str) -> dict[str, object]:
    """The line of a kind, as keywords of a patch."""
    if kind not in COLOURS:
        raise ValueError(f"kind must be one of {', '.join(COLOURS)}, not {kind!r}")
    return {"edgecolor": COLOURS[kind], "zorder": 3, "joinstyle": "miter"} | LINES[kind]


def _halo(look: Mapping[str, object]) -> withStroke:
    """A white rim that keeps a line apart from a photograph of its own colour."""
    return withStroke(linewidth=look["linewidth"] + 1.4, foreground="white", alpha=0.75)


def _tags(
    count: int,
    labels: Int[Tensor, " N"] | Sequence[str | int] | None,
    scores: Float[Tensor, " N"] | None,
    class_names: Sequence[str] | None,
) -> list[str]:
    names = [""] * count if labels is None else [_name(label, class_names) for label in labels]
    values = [""] * count if scores is None else [f"{score:.2f}" for score in scores.tolist()]
    if not len(names) == len(values) == count:
        raise ValueError(f"{count} boxes, but {len(names)} labels and {len(values)} scores")
    return [f"{name} {value}".strip() for name, value in zip(names, values, strict=True)]


def _name(label: Tensor | str | int, class_names: Sequence[str] | None) -> str:
    if isinstance(label, str):
        return label
    return str(int(label)) if class_names is None else class_names[int(label)]


def _draw_tag(
    ax: Axes, tag: str, box: Sequence[float], below: bool, look: Mapping[str, object]
) -> None:
    """Put a tag outside the box, at its left end; without room, inside or at its right end."""
    left, top, right, bottom = box
    x, dx, flush = (min(right, 1.0), -1, "right") if left > 0.8 else (max(left, 0.0), 1, "left")
    y, inside = (min(bottom, 1.0), bottom > 0.92) if below else (max(top, 0.0), top < 0.08)
    dy, stands_on = (2, "bottom") if below == inside else (-2, "top")
    ax.annotate(
        tag,
        (x, y),
        xytext=(dx, dy),
        textcoords="offset points",
        ha=flush,
        va=stands_on,
        color="white",
        fontsize=8.5,
        fontweight="bold",
        bbox={"facecolor": look["edgecolor"], "edgecolor": "none", "pad": 1.6},
        zorder=5,
    )


def _legend_line(kind: str, count: int | None) -> Line2D:
    name = kind.replace("_", " ") + ("" if count is None else f" ({count})")
    return Line2D([], [], color=_look(kind)["edgecolor"], label=name, **LINES[kind])


# ------------------------------------------------------------------------------ diagrams


def plot_heatmap(
    ax: Axes,
    matrix: Float[Tensor, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    highlight: Sequence[tuple[int, int]] = (),
    limits: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Draw a matrix (of IoUs, say) with its numbers, and a frame for each pair in `highlight`."""
    sns.heatmap(
        matrix.numpy(force=True),
        ax=ax,
        annot=True,
        fmt=".2f",
        vmin=limits[0],
        vmax=limits[1],
        cmap=sns.light_palette("#8b9cbd", as_cmap=True),  # light enough for dark numbers
        cbar=False,
        square=True,
        linewidths=1.5,
        xticklabels=columns,
        yticklabels=rows,
        annot_kws={"fontsize": 9, "color": INK},
    )
    ax.tick_params(length=0)
    ax.tick_params(axis="y", rotation=0)
    frame = _look("positive") | {"linewidth": 2.6}
    for row, column in highlight:
        ax.add_patch(Rectangle((column, row), 1, 1, fill=False, clip_on=False, **frame))


def plot_curves(
    ax: Axes,
    history: Sequence[Mapping[str, float | int]],
    keys: Sequence[str] = ("localization", "confidence"),
    smooth: int = 1,
) -> None:
    """Draw the values of `history` under each key, by step, averaged over `smooth` neighbours.

    The raw values stay visible behind the smooth line.
    """
    window = np.ones(min(smooth, len(history)))
    for key in keys:
        if any(key not in row for row in history):
            raise ValueError(f"history has no {key!r}, only {', '.join(history[0])}")
        steps = [row["step"] for row in history]
        values = np.array([row[key] for row in history], dtype=float)
        # Divided by how much of the window lies within the history, so the ends do not sag.
        count = np.convolve(np.ones_like(values), window, mode="same")
        average = np.convolve(values, window, mode="same") / count
        (line,) = ax.plot(steps, average, label=key)
        if smooth > 1:
            ax.plot(steps, values, "-", color=line.get_color(), alpha=0.2, lw=0.8, zorder=1)
    ax.set(xlabel="step", ylim=(0, None))
    ax.legend()


def plot_precision_recall(ax: Axes, curve: PrecisionRecall, label: str | None = None) -> None:
    """Draw precision against recall, a dot per detection, and the area of average precision.

    A filled dot is a true positive, a hollow one a false positive; past 60 detections the dots
    would only be a smear and are left out.
    """
    colour = COLOURS["detection"]
    recall, precision = curve.recall.numpy(force=True), curve.precision.numpy(force=True)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # From a recall of 0 on, where it is as high as at the first detection.
    ax.fill_between([0, *recall], [*envelope[:1], *envelope], step="pre", color=colour, alpha=0.12)
    ax.plot(recall, precision, "-", color=colour, lw=1.5, label=label)
    if len(recall) <= 60:
        faces = [colour if right else "white" for right in curve.true_positive.tolist()]
        ax.scatter(
            recall, precision, s=26, c=faces, edgecolor=colour, lw=1.3, zorder=3, clip_on=False
        )
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05))
    if label is not None:
        ax.legend()


def plot_bars(
    ax: Axes,
    names: Sequence[str],
    values: Sequence[float],
    kind: str | None = None,
    digits: int = 2,
) -> None:
    """Draw a bar with its number for each name; nan leaves a gap."""
    colour = INK if kind is None else _look(kind)["edgecolor"]
    bars = ax.bar(names, values, color=colour, alpha=0.85, width=0.7)
    ax.bar_label(bars, fmt=f"{{:.{digits}f}}", padding=2, fontsize=9)
    ax.grid(axis="x", visible=False)
    ax.margins(y=0.12)


def plot_landscape(
    ax: Axes,
    widths: Float[Tensor, " columns"],
    heights: Float[Tensor, " rows"],
    values: Float[Tensor, "rows columns"],
    label: str,
) -> None:
    """Draw a value for every width and height of an object, as colour, on logarithmic axes."""
    mesh = ax.pcolormesh(*(t.numpy(force=True) for t in (widths, heights, values)))
    _log_axes(ax)
    ax.grid(False)
    bar = ax.figure.colorbar(mesh, cax=ax.inset_axes((1.04, 0, 0.05, 1)), label=label)
    bar.outline.set_visible(False)


def _log_axes(ax: Axes) -> None:
    """Width and height of objects on logarithmic axes, with few and plain ticks."""
    ax.set(xscale="log", yscale="log", xlabel="width", ylabel="height", aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


# ------------------------------------------------------------------------------ a data set


def plot_shapes(
    ax: Axes,
    shapes: Mapping[str, Float[Tensor, "_ 2"]],
    priors: Float[Tensor, "P 4"] | None = None,
) -> None:
    """Draw width and height of each class's objects, and over them the shapes of `cxcywh` priors.

    The five classes with most objects get a colour and a mark each; the rest is grey. If a class
    has more than 2000 objects, only every second, third, … object is drawn.
    """
    names = sorted((name for name in shapes if len(shapes[name])), key=lambda n: -len(shapes[n]))
    rest = [shapes[name] for name in names[5:]]
    if rest:
        _scatter(ax, torch.cat(rest), f"{len(rest)} other classes", color="#b5bac4", marker=".")
    # Marks as well as colours: five colours cannot be told apart on a heap of dots.
    colours = plt.get_cmap("cividis")(np.linspace(0.1, 0.8, len(names[:5])))
    for name, colour, mark in zip(names[:5], colours, "o^sDv"):
        _scatter(ax, shapes[name], name, color=colour, marker=mark)
    if priors is not None:
        shape = (priors[:, 2:] * 1000).round().unique(dim=0) / 1000
        cross = {"marker": "+", "s": 70, "color": INK, "linewidth": 1.6, "zorder": 4}
        halo = withStroke(linewidth=4, foreground="white")
        ax.scatter(*shape.T.numpy(force=True), **cross, label="priors", path_effects=[halo])
    _log_axes(ax)
    ax.legend(loc="upper left")


def _scatter(ax: Axes, shapes: Float[Tensor, "N 2"], label: str, **look: object) -> None:
    some = shapes[:: max(1, len(shapes) // 2000)].numpy(force=True)
    ax.scatter(*some.T, s=12, alpha=0.5, linewidth=0, label=label, **look)


def plot_uncovered(ax: Axes, uncovered: Mapping[str, float], most: int = 20) -> None:
    """Draw the share of each class's objects that no prior overlaps by half, worst on top.

    `most` is the number of classes shown.
    """
    worst = sorted(uncovered, key=lambda name: -uncovered[name])[:most][::-1]
    bars = ax.barh(worst, [uncovered[name] for name in worst], color=INK, alpha=0.85, height=0.7)
    ax.bar_label(bars, fmt="{:.0%}", padding=3, fontsize=9)
    ax.set(
        xlabel="share without a prior of IoU ≥ ½", xlim=(0, 1.12), xticks=[0, 0.25, 0.5, 0.75, 1]
    )
    ax.grid(axis="y", visible=False)


# ------------------------------------------------------------------------------ a mistake


def draw_mistake(
    ax: Axes, image: np.ndarray, mistake: Mistake, class_names: Sequence[str] | None = None
) -> None:
    """Draw the image around a mistake, its object and its detection; the title is its kind.

    `image` is the whole image, uint8 RGB; the boxes of the mistake are fractions of it.
    """
    height, width = image.shape[:2]
    pair = [b for b in (mistake.object_box, mistake.box) if b is not None]
    boxes = torch.tensor(pair, device="cpu")
    left, top, right, bottom = _window(boxes, height, width)
    show_image(ax, image[top:bottom, left:right])
    corner = boxes.new_tensor([left, top] * 2)
    side = boxes.new_tensor([right - left, bottom - top] * 2)
    moved = (boxes * boxes.new_tensor([width, height] * 2) - corner) / side
    if mistake.object_box is not None:
        draw_boxes(ax, moved[:1], "ground_truth", [mistake.object_label], None, class_names)
    if mistake.box is not None:
        score = boxes.new_tensor([mistake.score])
        draw_boxes(ax, moved[-1:], "detection", [mistake.label], score, class_names)
    ax.set_title(mistake.kind)


def _window(boxes: Float[Tensor, "N 4"], height: int, width: int) -> tuple[int, int, int, int]:
    """A square around the boxes, half as large again, in pixels; no larger than the image."""
    frame = boxes.new_tensor([width, height])
    low = boxes[:, :2].amin(dim=0).clamp(0, 1) * frame
    high = boxes[:, 2:].amax(dim=0).clamp(0, 1) * frame
    side = max(1.5 * float((high - low).max()), 0.25 * min(height, width))
    size = frame.clamp(max=math.ceil(side))
    corner = ((low + high - size) / 2).round().clamp(min=0).minimum(frame - size)
    return *corner.int().tolist(), *(corner + size).int().tolist()
