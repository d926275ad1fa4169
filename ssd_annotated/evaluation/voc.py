"""Evaluation: the average precision of PASCAL VOC, and what stands behind it.

Detections are ranked by their scores, judged one after another, and summarised by the area under
precision against recall. Only the ranking counts: no score threshold enters. What the number does
not say, the table by class and the list of :mod:`~ssd_annotated.evaluation.mistakes` do.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ssd_annotated.boxes import check_boxes, paired_iou
from ssd_annotated.nms import Detections
from ssd_annotated.support.checks import check_choice, check_iou
from ssd_annotated.support.tables import text_table

MISS, HIT, IGNORED = 0, 1, 2


class PrecisionRecall(NamedTuple):
    """One class's ranking, best score first; entry k describes its first k + 1 detections.

    Detections of difficult objects are left out: they are neither right nor wrong.
    """

    recall: Float[Tensor, "D"]
    precision: Float[Tensor, "D"]
    scores: Float[Tensor, "D"]
    true_positive: Bool[Tensor, "D"]


class Evaluation(NamedTuple):
    """What :func:`evaluate` returns.

    `ap` has one entry per class (0 is background), nan where there was no object to find;
    `mean_ap` is the mean of the others; `curves` maps their labels to their rankings; `objects`
    counts what there was to find, without the difficult ones.
    """

    mean_ap: float
    ap: Float[Tensor, "C"]
    curves: dict[int, PrecisionRecall]
    objects: Int64[Tensor, "C"]


class OperatingPoint(NamedTuple):
    """What happens if only detections that reach `score` are shown."""

    score: float
    precision: float
    recall: float
    f1: float


def average_precision(
    recall: Float[Tensor, " _"], precision: Float[Tensor, " _"], method: str = "area"
) -> float:
    """Mean over recall of the best precision at that recall or beyond, p̂(r) = max p(r′ ≥ r).

    Parameters
    ----------
    recall, precision
        After each detection, best score first, so that recall never falls.
    method
        ``"area"``: the exact area under p̂, the rule of VOC 2010 and later.
        ``"11point"``: the mean of p̂ at recall 0, 0.1, ..., 1, the rule of VOC 2007,
        in which the paper reports its results.

    Raises
    ------
    ValueError
        If `method` is unknown, or the two curves differ in length.
    """
    _check_method(method)
    if recall.shape != precision.shape:
        raise ValueError(f"{len(recall)} recalls but {len(precision)} precisions")
    if len(recall) == 0:
        return 0.0
    # The running maximum from the right: a later, better precision lifts everything before it.
    envelope = precision.flip(0).cummax(dim=0).values.flip(0)
    if method == "area":
        steps = torch.diff(recall, prepend=recall.new_zeros(1))
        return float((steps * envelope).sum())
    # Divided, not added up: in floating point 0.1 + 0.1 + 0.1 is more than a recall of 3/10.
    levels = torch.arange(11, dtype=recall.dtype, device=recall.device) / 10
    reached = torch.searchsorted(recall.contiguous(), levels)
    return float(torch.cat([envelope, envelope.new_zeros(1)])[reached].mean())


def evaluate(
    detections: list[Detections],
    targets: list[dict[str, Tensor]],
    num_classes: int,
    iou_threshold: float = 0.5,
    method: str = "area",
) -> Evaluation:
    """Mean over classes of the average precision, as PASCAL VOC defines it.

    The detections of one class, of all images, take their turns by descending score. Each points at
    the object of its class and image that it overlaps most. If that IoU reaches `iou_threshold`
    and nobody pointed there before, it is a true positive; a second claim, or too small
    an IoU, is a false positive. Pointing at a difficult object counts as neither, and difficult
    objects are not missed by anyone.

    Parameters
    ----------
    detections
        One per image; boxes and targets in one common frame, usually fractions of the image.
        Equal scores keep their order: by image, then as listed.
    targets
        One dict per image, in the same order: `boxes` (G, 4), `labels` (G,) and, if some objects
        are to be ignored, `difficult` (G,).
    num_classes
        With the background, C.
    iou_threshold
        In (0, 1]; reaching it suffices (the devkit's MATLAB and Caffe use ≥).
    method
        See :func:`average_precision`.

    Returns
    -------
    Its tensors are on the CPU and, but for the scores, in double precision.

    Raises
    ------
    ValueError
        If the lists differ in length, a label is outside 1..C−1, a score outside [0, 1], or a
        threshold or method is not one of those above.
    """
    _check_method(method)
    world = _joined(detections, targets, num_classes, iou_threshold)
    objects = world.labels[~world.difficult].bincount(minlength=num_classes)
    verdict = _judge_all(world, num_classes, iou_threshold)
    order = world.found.labels.argsort(stable=True)
    members = order.split(world.found.labels.bincount(minlength=num_classes).tolist())
    ap = objects.new_full((num_classes,), torch.nan, dtype=torch.float64)
    curves = {}
    for label in objects.nonzero().flatten().tolist():
        judged, scores = verdict[members[label]], world.found.scores[members[label]]
        counted = judged != IGNORED
        scores, order = scores[counted].sort(descending=True, stable=True)
        hits = judged[counted][order] == HIT
        curves[label] = _precision_recall(scores, hits, int(objects[label]))
        ap[label] = average_precision(curves[label].recall, curves[label].precision, method)
    return Evaluation(float(ap.nanmean()), ap, curves, objects)


def class_agnostic(
    detections: list[Detections], targets: list[dict[str, Tensor]]
) -> tuple[list[Detections], list[dict[str, Tensor]]]:
    """The same boxes and scores with every label set to 1: *where* without *what*.

    ``evaluate(*class_agnostic(detections, targets), num_classes=2)`` asks only whether the
    objects were found. Two classes that claim one object then count as a duplicate.
    """
    return (
        [d._replace(labels=torch.ones_like(d.labels)) for d in detections],
        [{**t, "labels": torch.ones_like(t["labels"])} for t in targets],
    )


def best_f1(curve: PrecisionRecall) -> OperatingPoint:
    """The score threshold at which F1 = 2 · precision · recall / (precision + recall) is largest.

    A threshold cannot part equal scores, so only the last of them is a candidate. A curve without
    detections gives zeros, and nan for the score and the precision.
    """
    if len(curve.scores) == 0:
        return OperatingPoint(float("nan"), float("nan"), 0.0, 0.0)
    total = (curve.precision + curve.recall).clamp(min=1e-12)
    f1 = 2 * curve.precision * curve.recall / total
    parted = torch.ones_like(curve.true_positive)
    parted[:-1] = curve.scores[:-1] > curve.scores[1:]
    k = int(torch.where(parted, f1, -1).argmax())
    return OperatingPoint(*(float(v[k]) for v in (curve.scores, curve.precision, curve.recall, f1)))


def evaluation_table(evaluation: Evaluation, class_names: Sequence[str]) -> str:
    """One line of text for each class: what there was, what was found, and the best threshold.

    Precision and recall are those at the score of :func:`best_f1`. `class_names` starts with the
    background.

    Raises
    ------
    ValueError
        If there are more or fewer names than classes.
    """
    if len(class_names) != len(evaluation.ap):
        raise ValueError(f"{len(class_names)} class_names for {len(evaluation.ap)} classes")
    header = ("class", "objects", "detections", "AP", "F1", "at score", "precision", "recall")
    rows = []
    for label in range(1, len(class_names)):
        row = [class_names[label], str(int(evaluation.objects[label]))]
        if label in evaluation.curves:
            curve = evaluation.curves[label]
            best = best_f1(curve)
            numbers = evaluation.ap[label], best.f1, best.score, best.precision, best.recall
            row += [str(len(curve.scores)), *(f"{number:.3f}" for number in numbers)]
        rows.append(row)
    found = sum(len(curve.scores) for curve in evaluation.curves.values())
    total = str(int(evaluation.objects.sum()))
    return text_table(header, [*rows, ["mean AP", total, str(found), f"{evaluation.mean_ap:.3f}"]])


class Claims(NamedTuple):
    """Which object of its class each detection of an image points at, how well, and the verdict."""

    verdict: Int64[Tensor, "D"]
    iou: Float[Tensor, "D"]
    object: Int64[Tensor, "D"]


def judge(found: Detections, target: dict[str, Tensor], iou_threshold: float) -> Claims:
    """HIT, MISS or IGNORED for each detection of one image, which come best score first."""
    iou, best = _best_object(found, target)
    verdict = torch.full_like(found.labels, MISS)
    claimants = (iou >= iou_threshold).nonzero().flatten()
    claimed = best[claimants]
    # The first claim of an object wins.
    winner = torch.full_like(target["labels"], len(verdict))
    winner = winner.scatter_reduce(0, claimed, claimants, "amin")
    verdict[claimants[winner[claimed] == claimants]] = HIT
    verdict[claimants[is_difficult(target)[claimed]]] = IGNORED
    return Claims(verdict, iou, best)


def _best_object(
    found: Detections, target: dict[str, Tensor]
) -> tuple[Float[Tensor, "D"], Int64[Tensor, "D"]]:
    """The largest IoU of each detection with an object of its class, and which: 0 at 0 if none.

    Detections are compared with the first object of their class, then with the second, and so on.
    """
    labels, order = target["labels"].sort(stable=True)
    boxes = target["boxes"][order]
    highest = max((int(x.max()) for x in (labels, found.labels) if len(x)), default=0)
    counts = labels.bincount(minlength=highest + 1)
    end = counts.cumsum(dim=0)[found.labels]
    k = end - counts[found.labels]
    dtype = torch.promote_types(found.boxes.dtype, boxes.dtype)
    largest = torch.zeros_like(found.labels, dtype=dtype)
    best = torch.zeros_like(found.labels)
    waiting = (k < end).nonzero().flatten()
    while len(waiting):
        iou = paired_iou(found.boxes[waiting], boxes[k[waiting]])
        more = iou > largest[waiting]
        largest[waiting[more]], best[waiting[more]] = iou[more], order[k[waiting[more]]]
        k[waiting] += 1
        waiting = waiting[k[waiting] < end[waiting]]
    return largest, best


def best_first(found: Detections) -> Detections:
    """The same, by descending score; equal scores keep their order."""
    order = found.scores.argsort(descending=True, stable=True)
    return Detections(*(field[order] for field in found))


class _World(NamedTuple):
    """All images' detections and objects in one, and which image each comes from."""

    found: Detections
    found_image: Int64[Tensor, "D"]
    boxes: Float[Tensor, "G 4"]
    labels: Int64[Tensor, "G"]
    difficult: Bool[Tensor, "G"]
    image: Int64[Tensor, "G"]


def _judge_all(world: _World, num_classes: int, iou_threshold: float) -> Int64[Tensor, "D"]:
    """The verdict on each detection of all images.

    To be judged at once, every class of every image becomes a class of its own. Most detections
    share theirs with no object, and are misses.
    """
    own = world.found_image * num_classes + world.found.labels
    objects = {
        "boxes": world.boxes,
        "labels": world.image * num_classes + world.labels,
        "difficult": world.difficult,
    }
    there = objects["labels"].bincount(minlength=int(own.max()) + 1 if len(own) else 0)
    chance = there[own].nonzero().flatten()
    chance = chance[world.found.scores[chance].argsort(descending=True, stable=True)]
    found = Detections(world.found.boxes[chance], world.found.scores[chance], own[chance])
    verdict = torch.full_like(own, MISS)
    verdict[chance] = judge(found, objects, iou_threshold).verdict
    return verdict


def _precision_recall(
    scores: Float[Tensor, "D"], true_positive: Bool[Tensor, "D"], objects: int
) -> PrecisionRecall:
    """Recall = hits / objects and precision = hits / detections, after each detection."""
    hits = true_positive.double().cumsum(dim=0)
    precision = hits / torch.arange(1, len(hits) + 1, device=hits.device)
    return PrecisionRecall(hits / objects, precision, scores, true_positive)


def is_difficult(target: dict[str, Tensor]) -> Bool[Tensor, "G"]:
    """Which objects are difficult: none, where the target does not say."""
    return target.get("difficult", torch.zeros_like(target["labels"])).bool()


def _check_method(method: str) -> None:
    check_choice("method", method, ("area", "11point"))


def check_evaluated(
    detections: list[Detections],
    targets: list[dict[str, Tensor]],
    num_classes: int,
    iou_threshold: float,
) -> tuple[list[Detections], list[dict[str, Tensor]]]:
    """Check what :func:`evaluate` is given, and bring it to the CPU, with all objects' flags."""
    _joined(detections, targets, num_classes, iou_threshold)
    known = [{**t, "difficult": is_difficult(t)} for t in targets]
    return (
        [Detections(*(field.cpu() for field in d)) for d in detections],
        [{name: t[name].cpu() for name in ("boxes", "labels", "difficult")} for t in known],
    )


def _joined(
    detections: list[Detections],
    targets: list[dict[str, Tensor]],
    num_classes: int,
    iou_threshold: float,
) -> _World:
    """Check what :func:`evaluate` is given, and join it on the CPU."""
    if len(detections) != len(targets):
        raise ValueError(f"{len(detections)} images of detections but {len(targets)} targets")
    if num_classes < 2:
        raise ValueError(f"num_classes counts the background, so at least 2, not {num_classes}")
    check_iou("iou_threshold", iou_threshold)
    for image, (found, target) in enumerate(zip(detections, targets)):
        _check_shapes(found, target, image)
    world = _join(detections, targets)
    _check_values(world, num_classes)
    return world


def _check_shapes(found: Detections, target: dict[str, Tensor], image: int) -> None:
    """Raise a ValueError unless every field of an image has as many rows as it has boxes."""
    parts = {"detections": found._asdict(), "targets": target}
    for name, part in parts.items():
        boxes = part["boxes"]
        if boxes.shape[1:] != (4,) or not boxes.is_floating_point():
            check_boxes(boxes, f"{name}[{image}] boxes")
        for field in ("labels", "scores", "difficult"):
            shape = part[field].shape if field in part else boxes.shape[:1]
            if shape != boxes.shape[:1]:
                raise ValueError(f"{name}[{image}]: {len(boxes)} boxes, {field} {tuple(shape)}")


def _check_values(world: _World, num_classes: int) -> None:
    """Raise a ValueError that names an image, its value and what was expected."""
    found = world.found
    for name, boxes, labels, images in (
        ("detections", found.boxes, found.labels, world.found_image),
        ("targets", world.boxes, world.labels, world.image),
    ):
        try:
            check_boxes(boxes)
        except ValueError:  # once more, to name the image
            for image, own in enumerate(boxes.split(images.bincount().tolist())):
                check_boxes(own, f"{name}[{image}] boxes")
        for row in _first((labels < 1) | (labels >= num_classes)):
            wrong = f"label {int(labels[row])} is outside 1..{num_classes - 1}"
            raise ValueError(f"{name}[{int(images[row])}]: {wrong}")
    # Written so that nan, which fails every comparison, is caught too.
    for row in _first(~((found.scores >= 0) & (found.scores <= 1))):
        wrong = f"score {float(found.scores[row])} is outside [0, 1]"
        raise ValueError(f"detections[{int(world.found_image[row])}]: {wrong}")


def _first(flags: Bool[Tensor, " N"]) -> list[int]:
    """The number of the first flag that is set, in a list; an empty list if none is."""
    return flags.nonzero().flatten()[:1].tolist()


def _join(detections: list[Detections], targets: list[dict[str, Tensor]]) -> _World:
    nothing = torch.zeros(0, device="cpu")
    empty = Detections(nothing.reshape(0, 4), nothing, nothing.long())
    boxes, scores, labels = (
        torch.cat([none, *(d[field].cpu() for d in detections)]) for field, none in enumerate(empty)
    )
    return _World(
        found=Detections(boxes, scores, labels),
        found_image=_image_numbers([len(d.labels) for d in detections]),
        boxes=torch.cat([empty.boxes, *(t["boxes"].cpu() for t in targets)]),
        labels=torch.cat([empty.labels, *(t["labels"].cpu() for t in targets)]),
        difficult=torch.cat([nothing.bool(), *(is_difficult(t).cpu() for t in targets)]),
        image=_image_numbers([len(t["labels"]) for t in targets]),
    )


def _image_numbers(counts: list[int]) -> Int64[Tensor, " N"]:
    """0 as often as the first count says, then 1 as often as the second, and so on."""
    each = torch.tensor(counts, device="cpu", dtype=torch.int64)
    return torch.arange(len(counts), device="cpu").repeat_interleave(each)
