"""Whole figures, as the command line writes them to files; `drawing.plot` draws their panels."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import Dataset

from ssd_annotated.data.survey import Survey
from ssd_annotated.drawing import plot
from ssd_annotated.evaluation.mistakes import Mistake, find_mistakes
from ssd_annotated.evaluation.voc import Evaluation
from ssd_annotated.nms import Detections
from ssd_annotated.support.files import whole

Panel = Callable[[Axes], None]


def draw_survey(found: Survey, priors: Float[Tensor, "P 4"], file: str) -> None:
    """Draw the shapes of objects and priors, and the objects that no prior overlaps by half."""
    panels = [lambda ax: plot.plot_shapes(ax, found.shapes, priors)]
    if found.uncovered:
        panels.append(lambda ax: plot.plot_uncovered(ax, found.uncovered))
    save_panels(panels, file, columns=2, side=5)


def draw_curves(found: Evaluation, class_names: Sequence[str], file: str) -> None:
    """Draw precision against recall, with a panel for each class that has objects."""
    labels = [f"{name}, AP {ap:.2f}" for name, ap in zip(class_names, found.ap.tolist())]
    panels = [
        partial(plot.plot_precision_recall, curve=curve, label=labels[label])
        for label, curve in found.curves.items()
    ]
    save_panels(panels, file)


def draw_gallery(mistakes: Sequence[Mistake], dataset: Dataset, file: str, most: int = 8) -> None:
    """Draw the `most` surest false positives, and as many of the largest missed objects.

    `mistakes` come from `find_mistakes` on `dataset`, whose `class_names` label them.
    """
    wrong = [mistake for mistake in mistakes if mistake.kind != "miss"]
    missed = [mistake for mistake in mistakes if mistake.kind == "miss"]

    def draw(ax: Axes, mistake: Mistake) -> None:
        plot.draw_mistake(ax, dataset[mistake.image][0], mistake, dataset.class_names)

    save_panels([partial(draw, mistake=m) for m in wrong[:most] + missed[:most]], file)


def draw_worst(
    detections: Sequence[Detections],
    targets: Sequence[dict[str, Tensor]],
    dataset: Dataset,
    file: str,
) -> None:
    """Draw the ten images with most mistakes, with their objects and what was found."""
    names = dataset.class_names
    mistakes = find_mistakes(list(detections), list(targets), len(names))
    counts = Counter(mistake.image for mistake in mistakes)

    def draw(ax: Axes, image: int) -> None:
        plot.show_image(ax, dataset[image][0])
        plot.draw_targets(ax, targets[image], names)
        plot.draw_detections(ax, detections[image], names)
        ax.set_title(f"{counts[image]} mistakes")

    panels = [partial(draw, image=image) for image, _ in counts.most_common(10)]
    save_panels(panels, file, columns=5)


def save_panels(panels: Sequence[Panel], file: str, columns: int = 4, side: float = 3.5) -> None:
    """Let every panel draw into axes of its own, `side` inches square; write them as one figure.

    Without panels the figure says that there is nothing to show.
    """
    plot.use_style()
    columns = min(columns, len(panels)) or 1
    rows = max(-(-len(panels) // columns), 1)
    figure = Figure(figsize=(columns * side, rows * side), layout="constrained")
    for number, draw in enumerate(panels, start=1):
        draw(figure.add_subplot(rows, columns, number))
    if not panels:
        figure.suptitle("nothing to show")
    with whole(file) as partial:
        figure.savefig(partial)
