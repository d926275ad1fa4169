"""Matching: which prior learns which object.

A ground-truth box has no row in the network's output. Matching gives it some: first one prior for
every object, then every other prior that overlaps an object well enough.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from numpy import ndarray
from torch import Tensor

from ssd_annotated.boxes import check_boxes
from ssd_annotated.support.candidates import Candidates, Ranking, by_falling_iou, find_candidates
from ssd_annotated.support.checks import check_choice, check_iou

#: An object that overlaps no free prior by more than this stays unmatched (as in Caffe).
SMALLEST_OVERLAP = 1e-6

#: How every object gets its first prior; `match_priors` says what each does.
Method = Literal["bipartite", "forced", "argmax", "first"]


def match_priors(
    priors: Float[Tensor, "P 4"],
    boxes: Float[Tensor, "G 4"],
    threshold: float = 0.5,
    method: Method = "bipartite",
) -> Int64[Tensor, " P"]:
    """Give every prior the index of the object it shall learn, or −1 for background.

    Parameters
    ----------
    priors
        ``cxcywh`` fractions.
    boxes
        The image's ground truth, ``xyxy`` fractions; G may be 0.
    threshold
        A prior that is still free learns its best object if their IoU is at least this.
    method
        ``"bipartite"``: each object first gets a prior of its own, see `bipartite_match`.
        ``"forced"``: the same, but an object that overlaps nothing gets a free prior too.
        ``"argmax"``: each object takes its best prior, wherever it stands. If two objects share a
        best prior the later one has it, and the other may be left with none.
        ``"first"``: as ``"argmax"``, but the earlier one has it.

    Returns
    -------
    Index of the object for each prior. With ``"bipartite"`` an object is absent if it overlaps no
    free prior when its turn comes, as must happen when there are more objects than priors.

    Raises
    ------
    ValueError
        If a box is not a box, the threshold is outside (0, 1] or the method is unknown.

    Notes
    -----
    Section 2.2 of the paper, "Matching strategy". ``"bipartite"`` is the authors' Caffe code,
    ``"argmax"`` what torchvision and most other implementations do, ``"forced"`` d2l's code.
    """
    rows, objects = find_positives(priors, [boxes], threshold, method)
    matches = np.full(len(priors), -1)
    matches[rows] = objects
    return torch.from_numpy(matches).to(priors.device)


def find_positives(
    priors: Float[Tensor, "P 4"],
    boxes: list[Float[Tensor, "_ 4"]],
    threshold: float = 0.5,
    method: Method = "bipartite",
) -> tuple[Int[ndarray, " N"], Int[ndarray, " N"]]:
    """Match every image of a batch on its own: the priors that learn an object, and which object.

    Returns
    -------
    Rows of the network's output, image · P + prior, in rising order, and for each the number of its
    object, counted through the whole batch.
    """
    check_choice("method", method, get_args(Method))
    check_iou("threshold", threshold)
    if not boxes:
        raise ValueError("a batch needs at least one image, not 0")
    check_all_boxes(boxes)
    matches = np.full(len(boxes) * len(priors), -1)
    if len(priors) and any(map(len, boxes)):
        candidates = find_candidates(priors, boxes, threshold)
        _match_by_threshold(matches, candidates, threshold)
        _match_first(matches, candidates, method)
    rows = np.flatnonzero(matches >= 0)
    return rows, matches[rows]


def check_all_boxes(boxes: list[Tensor]) -> None:
    """What `check_boxes` does for each image, for all at once while there is nothing to refuse."""
    fine = all(image.shape[1:] == (4,) and image.is_floating_point() for image in boxes)
    if fine:
        rows = torch.cat(boxes)
        fine = bool(rows.isfinite().all() & (rows[:, :2] <= rows[:, 2:]).all())
    for image in [] if fine else boxes:
        check_boxes(image)


def _match_by_threshold(matches: ndarray, candidates: Candidates, threshold: float) -> None:
    """Give each row the object that overlaps it most, of equals the first, if it does so enough."""
    good = candidates.iou >= threshold
    rows, objects, iou = candidates.rows[good], candidates.objects[good], candidates.iou[good]
    best = np.zeros(len(matches), iou.dtype)
    np.maximum.at(best, rows, iou)
    won = np.flatnonzero(iou == best[rows])[::-1]  # where a row is written twice, the last stays
    matches[rows[won]] = objects[won]


def _match_first(matches: ndarray, candidates: Candidates, method: str) -> None:
    """Give each object its first prior, whatever the threshold has said."""
    iou, rows = candidates.best()
    objects = np.arange(len(rows))
    if method in ("bipartite", "forced"):
        least = SMALLEST_OVERLAP if method == "bipartite" else -1.0
        rows = np.array(match_greedily(iou.tolist(), rows.tolist(), candidates.ranking, least))
        rows, objects = rows[rows >= 0], objects[rows >= 0]
    elif method == "first":
        rows, objects = rows[::-1], objects[::-1]
    matches[rows] = objects


def bipartite_match(
    iou: Float[Tensor, "G P"], smallest_overlap: float | None = SMALLEST_OVERLAP
) -> Int64[Tensor, " G"]:
    """Give every object a prior of its own, best pair of all first.

    Again and again the largest IoU between an object without a prior and a prior without an object
    makes a pair. So no object loses its prior to another that overlaps it less.

    Parameters
    ----------
    smallest_overlap
        A pair's IoU must be larger than this. With None any free prior will do, even one that
        does not overlap the object at all.

    Returns
    -------
    The prior of each object, or −1 where none was left for it. Of equal pairs the first (lowest
    object, then lowest prior) wins.
    """
    if iou.numel() == 0:
        return torch.full((len(iou),), -1, device=iou.device)
    best, prior = iou.max(dim=1)
    table, priors = iou.detach().cpu().numpy(), np.arange(iou.shape[1])
    least = -1.0 if smallest_overlap is None else float(table.dtype.type(smallest_overlap))
    ranking = lambda index: iter(by_falling_iou(table[index], priors, len(table)))  # noqa: E731
    match = match_greedily(best.tolist(), prior.tolist(), ranking, least)
    return torch.tensor(match, device=iou.device)


def match_greedily(
    best: list[float],
    favourite: list[int],
    ranking: Callable[[int], Ranking],
    smallest_overlap: float,
) -> list[int]:
    """Give every object a prior of its own, best pair of all first; −1 where none was left.

    Every object bids for its favourite. The best bid wins; a bid that comes too late is replaced by
    the object's best one for a prior that is still free, and only then its others are looked at.

    Parameters
    ----------
    best, favourite
        The largest IoU of each object, and the (first) prior that has it.
    ranking
        Gives an object's pairs (IoU, prior), best first.
    """
    match, taken = [-1] * len(best), set()
    rankings: dict[int, Ranking] = {}
    bids = [(-iou, index, prior) for index, (iou, prior) in enumerate(zip(best, favourite))]
    heapify(bids)  # its smallest is the largest IoU; of equals the lowest object, then prior
    while bids:
        iou, index, prior = heappop(bids)
        if -iou <= smallest_overlap:
            break
        if prior not in taken:
            match[index] = prior
            taken.add(prior)
            continue
        others = rankings.setdefault(index, ranking(index))
        bid = next(((-iou, index, prior) for iou, prior in others if prior not in taken), None)
        if bid is not None:
            heappush(bids, bid)
    return match
