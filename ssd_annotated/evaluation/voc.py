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

from ssd_annotated.boxes import check_boxes, pairwise_iou
from ssd_annotated.nms import Detections
from ssd_annotated.tables import text_table

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
    detections, targets = check_evaluated(detections, targets, num_classes, iou_threshold)
    scores, labels, verdicts = _rank(detections, targets, iou_threshold)
    objects = _count_objects(targets, num_classes)
    ap = objects.new_full((num_classes,), torch.nan, dtype=torch.float64)
    curves = {}
    for label in objects.nonzero().flatten().tolist():
        mine = (labels == label) & (verdicts != IGNORED)
        curves[label] = _precision_recall(scores[mine], verdicts[mine] == HIT, int(objects[label]))
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
            numbers = (
                float(evaluation.ap[label]),
                best.f1,
                best.score,
                best.precision,
                best.recall,
            )
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
    boxes, labels = target["boxes"], target["labels"]
    verdict = torch.full((len(found.scores),), MISS, device=boxes.device)
    same_class = found.labels[:, None] == labels[None, :]
    best_iou, best = largest(pairwise_iou(found.boxes, boxes) * same_class)
    if len(boxes) == 0 or len(verdict) == 0:
        return Claims(verdict, best_iou, best)
    claims = torch.nn.functional.one_hot(best, len(boxes)) * (best_iou >= iou_threshold)[:, None]
    # Claim number 1 of an object wins; the running count down the ranking tells later ones apart.
    turn = (claims.cumsum(dim=0) * claims).sum(dim=1)
    verdict[turn == 1] = HIT
    verdict[(turn > 0) & is_difficult(target)[best]] = IGNORED
    return Claims(verdict, best_iou, best)


def largest(iou: Float[Tensor, "D G"]) -> tuple[Float[Tensor, "D"], Int64[Tensor, "D"]]:
    """The largest IoU of each row and where it stands: 0 at 0 if there is no object."""
    if iou.shape[1] == 0:
        return iou.new_zeros(len(iou)), iou.new_zeros(len(iou), dtype=torch.int64)
    return iou.max(dim=1)


def best_first(found: Detections) -> Detections:
    """The same, by descending score; equal scores keep their order."""
    order = found.scores.argsort(descending=True, stable=True)
    return Detections(*(field[order] for field in found))


def _rank(
    detections: list[Detections], targets: list[dict[str, Tensor]], iou_threshold: float
) -> tuple[Float[Tensor, "D"], Int64[Tensor, "D"], Int64[Tensor, "D"]]:
    """Scores, labels and verdicts of all images' detections, best score first."""
    nothing = torch.zeros(0, device="cpu")
    scores, labels, verdicts = [nothing], [nothing.long()], [nothing.long()]
    for found, target in zip(detections, targets, strict=True):
        found = best_first(found)
        scores.append(found.scores)
        labels.append(found.labels)
        verdicts.append(judge(found, target, iou_threshold).verdict)
    all_scores = torch.cat(scores)
    order = all_scores.argsort(descending=True, stable=True)
    return all_scores[order], torch.cat(labels)[order], torch.cat(verdicts)[order]


def _precision_recall(
    scores: Float[Tensor, "D"], true_positive: Bool[Tensor, "D"], objects: int
) -> PrecisionRecall:
    """Recall = hits / objects and precision = hits / detections, after each detection."""
    hits = true_positive.double().cumsum(dim=0)
    return PrecisionRecall(
        recall=hits / objects,
        precision=hits / torch.arange(1, len(hits) + 1, device=hits.device),
        scores=scores,
        true_positive=true_positive,
    )


def is_difficult(target: dict[str, Tensor]) -> Bool[Tensor, "G"]:
    """Which objects are difficult: none, where the target does not say."""
    default = torch.zeros_like(target["labels"], dtype=torch.bool)
    return target.get("difficult", default).bool()


def _count_objects(targets: list[dict[str, Tensor]], num_classes: int) -> Int64[Tensor, "C"]:
    """How many objects of each class there are to find."""
    labels = [t["labels"][~is_difficult(t)] for t in targets]
    nothing = torch.zeros(0, dtype=torch.int64, device="cpu")
    return torch.cat([nothing, *labels]).bincount(minlength=num_classes)


def _check_method(method: str) -> None:
    if method not in ("area", "11point"):
        raise ValueError(f'method must be "area" or "11point", not {method!r}')


def check_evaluated(
    detections: list[Detections],
    targets: list[dict[str, Tensor]],
    num_classes: int,
    iou_threshold: float,
) -> tuple[list[Detections], list[dict[str, Tensor]]]:
    """Check what :func:`evaluate` is given, and bring it to the CPU."""
    if len(detections) != len(targets):
        raise ValueError(f"{len(detections)} images of detections but {len(targets)} targets")
    if num_classes < 2:
        raise ValueError(f"num_classes counts the background, so at least 2, not {num_classes}")
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in (0, 1], not {iou_threshold}")
    detections = [Detections(*(field.cpu() for field in d)) for d in detections]
    known = ("boxes", "labels", "difficult")
    targets = [{name: t[name].cpu() for name in known if name in t} for t in targets]
    for image, (found, target) in enumerate(zip(detections, targets, strict=True)):
        _check_image(found, target, num_classes, image)
    return detections, targets


def _check_image(
    found: Detections, target: dict[str, Tensor], num_classes: int, image: int
) -> None:
    """Raise a ValueError that names the image, the field, the value and what was expected."""
    for name, boxes, labels in (
        ("detections", found.boxes, found.labels),
        ("targets", target["boxes"], target["labels"]),
    ):
        check_boxes(boxes, f"{name}[{image}] boxes")
        if labels.shape != boxes.shape[:1]:
            raise ValueError(f"{name}[{image}]: {len(boxes)} boxes, labels {tuple(labels.shape)}")
        wrong = labels[(labels < 1) | (labels >= num_classes)]
        if len(wrong):
            raise ValueError(
                f"{name}[{image}]: label {int(wrong[0])} is outside 1..{num_classes - 1}"
            )
    if found.scores.shape != found.labels.shape:
        raise ValueError(
            f"detections[{image}]: {len(found.labels)} labels, scores {tuple(found.scores.shape)}"
        )
    # Written so that nan, which fails every comparison, is caught too.
    wrong = found.scores[~((found.scores >= 0) & (found.scores <= 1))]
    if len(wrong):
        raise ValueError(f"detections[{image}]: score {float(wrong[0])} is outside [0, 1]")
    if "difficult" in target and target["difficult"].shape != target["labels"].shape:
        raise ValueError(
            f"targets[{image}]: {len(target['labels'])} labels, "
            f"difficult {tuple(target['difficult'].shape)}"
        )
