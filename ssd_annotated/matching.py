"""Matching: which prior learns which object.

A ground-truth box has no row in the network's output. Matching gives it some: first one prior for
every object, then every other prior that overlaps an object well enough.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ssd_annotated.boxes import check_boxes, cxcywh_to_xyxy, pairwise_iou

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
    check_boxes(boxes)
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be an IoU in (0, 1], not {threshold}")
    check_method(method)
    if len(boxes) == 0:
        return torch.full((len(priors),), -1, device=priors.device)
    iou = pairwise_iou(boxes, cxcywh_to_xyxy(priors))
    best_iou, best_object = iou.max(dim=0)
    matches = torch.where(best_iou >= threshold, best_object, -1)
    # One by one: assigning all at once leaves open which of two objects wins a shared prior.
    for index, prior in _first_priors(iou, method):
        if prior >= 0:
            matches[prior] = index
    return matches


def check_method(method: str) -> None:
    """Raise a ValueError unless `method` is one that `match_priors` knows."""
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, not {method!r}")


def _first_priors(iou: Float[Tensor, "G P"], method: str) -> list[tuple[int, int]]:
    """Pairs (object, its first prior); where two objects share one, the later pair shall win."""
    if method in ("bipartite", "forced"):
        first = bipartite_match(iou, SMALLEST_OVERLAP if method == "bipartite" else None)
    else:
        first = iou.argmax(dim=1)
    pairs = list(enumerate(first.tolist()))
    return pairs[::-1] if method == "first" else pairs


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
    num_objects, num_priors = iou.shape
    free = iou.clone()
    match = torch.full((num_objects,), -1, device=iou.device)
    for _ in range(min(num_objects, num_priors)):
        best = free.argmax()
        if smallest_overlap is not None and free.flatten()[best] <= smallest_overlap:
            break
        index, prior = best // num_priors, best % num_priors
        match[index] = prior
        free[index, :] = free[:, prior] = -1
    return match


def match_batch(
    priors: Float[Tensor, "P 4"],
    boxes: list[Float[Tensor, "_ 4"]],
    threshold: float = 0.5,
    method: Method = "bipartite",
) -> Int64[Tensor, "B P"]:
    """Match every image of a batch on its own; see `match_priors`."""
    if not boxes:
        raise ValueError("a batch needs at least one image, not 0")
    return torch.stack([match_priors(priors, image, threshold, method) for image in boxes])
