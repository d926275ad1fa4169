"""Mistakes: every false positive and every missed object, sorted by kind.

Average precision says how much goes wrong, but not what. This module judges detections as
:mod:`~ssd_annotated.evaluation.voc` does and names each mistake, with its boxes, so that mistakes
can be counted and looked at.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ssd_annotated.boxes import area, pairwise_iou
from ssd_annotated.evaluation.voc import HIT, MISS, Claims, best_first, check_evaluated, judge
from ssd_annotated.nms import Detections
from ssd_annotated.support.checks import check_within
from ssd_annotated.support.tables import text_table

NEAR = 0.1  # the least IoU of a box that is near an object (Hoiem et al. 2012)
KINDS = ("duplicate", "localization", "confusion", "background", "miss")


class Mistake(NamedTuple):
    """A false positive or a missed object, in plain numbers; boxes are ``xyxy``.

    `kind` is one of `KINDS`. A ``"background"`` error has no object, and a ``"miss"`` has no
    detection if none is near; such fields are None. `iou` is that of the two boxes.
    """

    kind: str
    image: int
    iou: float = 0.0
    box: tuple[float, ...] | None = None
    label: int | None = None
    score: float | None = None
    object_box: tuple[float, ...] | None = None
    object_label: int | None = None


def find_mistakes(
    detections: list[Detections],
    targets: list[dict[str, Tensor]],
    num_classes: int,
    iou_threshold: float = 0.5,
    minimum_score: float = 0.3,
) -> list[Mistake]:
    """Every false positive of at least `minimum_score`, surest first, then every missed object.

    The kinds of false positives:

    - ``"duplicate"``: a detection with a better score has already found the object;
    - ``"localization"``: the object it overlaps most is of its class, but the IoU is too small;
    - ``"confusion"``: the object it overlaps most is of another class;
    - ``"background"``: no object is near, which needs an IoU of 0.1.

    A ``"miss"`` is an object, not a difficult one, that no detection of at least `minimum_score`
    found. It comes with the best-scoring detection near it, of any class and score, if there is
    one. The largest objects come first.

    Parameters
    ----------
    detections, targets, num_classes, iou_threshold
        As in :func:`~ssd_annotated.evaluation.voc.evaluate`, which judges in the same way, and
        raises the same errors.
    minimum_score
        In [0, 1].

    Notes
    -----
    The kinds are those of Hoiem, Chodpathumwan and Dai 2012, *Diagnosing Error in Object
    Detectors*, who count duplicates among the localization errors, and call it localization
    whenever an object of the class comes near, even if one of another class fits better.
    """
    check_within("minimum_score", minimum_score, 0, 1)
    detections, targets = check_evaluated(detections, targets, num_classes, iou_threshold)
    mistakes = []
    for image, (found, target) in enumerate(zip(detections, targets, strict=True)):
        found = best_first(found)  # so that those shown have the same numbers
        shown = Detections(*(field[found.scores >= minimum_score] for field in found))
        claims = judge(shown, target, iou_threshold)
        wrong = _false_positives(shown, target, claims, iou_threshold)
        missed = _misses(found, target, claims)
        mistakes += [_mistake(image, found, target, *each) for each in chain(wrong, missed)]
    return sorted(mistakes, key=_rank)


def _rank(mistake: Mistake) -> tuple[bool, float]:
    """False positives, surest first, then misses, the largest object first."""
    if mistake.kind == "miss":
        return True, -float(area(torch.tensor(mistake.object_box, device="cpu")))
    return False, -mistake.score


def mistakes_table(mistakes: Sequence[Mistake], class_names: Sequence[str]) -> str:
    """A line of text for each kind: the count, the highest score and the most frequent classes."""
    rows = []
    for kind in KINDS:
        members = [m for m in mistakes if m.kind == kind]
        row = [kind, str(len(members))]
        if members:
            scores = [m.score for m in members if m.score is not None and kind != "miss"]
            named = Counter(_names(m, class_names) for m in members)
            most = ", ".join(f"{names} ({count})" for names, count in named.most_common(3))
            row += [f"{max(scores):.2f}" if scores else "", most]
        rows.append(row)
    return text_table(("kind", "count", "highest score", "most often"), rows, left=(0, 3))


def _names(mistake: Mistake, class_names: Sequence[str]) -> str:
    """The class of the mistake; for a confusion, both classes."""
    if mistake.kind == "miss":
        return class_names[mistake.object_label]
    if mistake.kind == "confusion":
        return f"{class_names[mistake.object_label]} called {class_names[mistake.label]}"
    return class_names[mistake.label]


def _false_positives(
    found: Detections, target: dict[str, Tensor], claims: Claims, iou_threshold: float
) -> Iterator[tuple[str, int, Tensor | None]]:
    """Of each false positive of one image: its kind, the detection and the object, if any."""
    other_class = found.labels[:, None] != target["labels"][None, :]
    # One more column, of zeros, for there may be no object.
    other_iou, other = pad(pairwise_iou(found.boxes, target["boxes"]) * other_class, (0, 1)).max(1)
    for d in (claims.verdict == MISS).nonzero().flatten().tolist():
        if claims.iou[d] >= iou_threshold:
            yield "duplicate", d, claims.object[d]
        elif max(claims.iou[d], other_iou[d]) < NEAR:
            yield "background", d, None
        elif claims.iou[d] >= other_iou[d]:
            yield "localization", d, claims.object[d]
        else:
            yield "confusion", d, other[d]


def _misses(
    found: Detections, target: dict[str, Tensor], claims: Claims
) -> Iterator[tuple[str, int | None, int]]:
    """Of each object that no claim hit: "miss", the best detection near it, if any, and itself."""
    missed = ~target["difficult"]
    missed[claims.object[claims.verdict == HIT]] = False
    near = pairwise_iou(found.boxes, target["boxes"]) >= NEAR
    for g in missed.nonzero().flatten().tolist():
        ranks = near[:, g].nonzero().flatten().tolist()
        yield "miss", ranks[0] if ranks else None, g


def _mistake(
    image: int,
    found: Detections,
    target: dict[str, Tensor],
    kind: str,
    d: int | None,
    g: int | Tensor | None,
) -> Mistake:
    """Detection `d` and object `g` of an image, one of which may be None, as plain numbers."""
    fields = {}
    if d is not None:
        fields["box"] = tuple(found.boxes[d].tolist())
        fields["label"], fields["score"] = int(found.labels[d]), float(found.scores[d])
    if g is not None:
        fields["object_box"] = tuple(target["boxes"][g].tolist())
        fields["object_label"] = int(target["labels"][g])
    if d is not None and g is not None:
        fields["iou"] = float(pairwise_iou(found.boxes[d][None], target["boxes"][g][None]))
    return Mistake(kind, image, **fields)
