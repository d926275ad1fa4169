"""The plain versions: what the fast code must equal, said as directly as tensors allow.

They search whole tables again and again, and so nobody doubts them. The chapters' own by-hand
versions and the literal loops of the tests are slower still.
"""

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from ssd_annotated.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from ssd_annotated.priors import PriorSpec


def make_priors(spec: PriorSpec) -> Tensor:
    """Every shape at every centre, one after the other, in double precision."""
    steps = spec.steps if spec.centres == "steps" else [1 / side for side in spec.feature_maps]
    priors = []
    for side, step, (size, extra), pairs in zip(
        spec.feature_maps, steps, spec.square_sizes, spec.aspect_pairs, strict=True
    ):
        squares = [(size, size), (extra, extra)]
        if spec.order == "sgrvinod":
            aspects = [wide for wide, _ in pairs] + [tall for _, tall in pairs]
        else:
            aspects = [aspect for pair in pairs for aspect in pair]
        shapes = squares[::-1] if spec.order == "tf2" else squares
        shapes = shapes + [(size * math.sqrt(a), size / math.sqrt(a)) for a in aspects]
        for row, column in product(range(side), repeat=2):
            if spec.order == "tf2":
                row, column = column, row
            centre = ((column + 0.5) * step, (row + 0.5) * step)
            priors += [(*centre, *shape) for shape in shapes]
    return _clip(torch.tensor(priors, dtype=torch.float64), spec.clip)


def _clip(priors: Tensor, clip: str) -> Tensor:
    if clip == "wh":
        return torch.cat([priors[:, :2], priors[:, 2:].clamp(0, 1)], dim=1)
    if clip == "cxcywh":
        return priors.clamp(0, 1)
    if clip == "corners":
        return xyxy_to_cxcywh(cxcywh_to_xyxy(priors).clamp(0, 1))
    return priors


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    area_a, area_b = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (a, b))
    union = area_a[:, None] + area_b[None, :] - intersection
    return intersection / torch.where(union > 0, union, torch.ones_like(union))


def bipartite_match(iou: Tensor, smallest_overlap: float | None = 1e-6) -> Tensor:
    """The largest number of the whole table, its row and column blanked, the next largest ..."""
    num_objects, num_priors = iou.shape
    free = iou.clone()
    match = torch.full((num_objects,), -1)
    for _ in range(min(num_objects, num_priors)):
        best = free.argmax()
        if smallest_overlap is not None and free.flatten()[best] <= smallest_overlap:
            break
        index, prior = best // num_priors, best % num_priors
        match[index] = prior
        free[index, :] = free[:, prior] = -1
    return match


def match_priors(
    priors: Tensor, boxes: Tensor, threshold: float = 0.5, method: str = "bipartite"
) -> Tensor:
    if len(boxes) == 0:
        return torch.full((len(priors),), -1)
    iou = pairwise_iou(boxes, cxcywh_to_xyxy(priors))
    best_iou, best_object = iou.max(dim=0)
    matches = torch.where(best_iou >= threshold, best_object, -1)
    if method in ("bipartite", "forced"):
        first = bipartite_match(iou, 1e-6 if method == "bipartite" else None)
    else:
        first = iou.argmax(dim=1)
    pairs = list(enumerate(first.tolist()))
    for index, prior in pairs[::-1] if method == "first" else pairs:
        if prior >= 0:
            matches[prior] = index
    return matches


def assign_targets(
    priors: Tensor, targets: list[dict[str, Tensor]], threshold: float, method: str, variances
) -> tuple[Tensor, Tensor]:
    """Offsets and labels of every prior of every image."""
    all_offsets, all_labels = [], []
    for target in targets:
        matches = match_priors(priors, target["boxes"], threshold, method)
        boxes = torch.cat([target["boxes"], target["boxes"].new_tensor([[0, 0, 1, 1]])])
        centres_sizes = xyxy_to_cxcywh(boxes[matches])
        shift = (centres_sizes[:, :2] - priors[:, :2]) / priors[:, 2:]
        stretch = torch.log(centres_sizes[:, 2:] / priors[:, 2:])
        offsets = torch.cat([shift / variances[0], stretch / variances[1]], dim=-1)
        all_offsets.append(offsets.masked_fill(matches[:, None] < 0, 0))
        labels = torch.cat([target["labels"].long(), target["labels"].new_zeros(1).long()])
        all_labels.append(labels[matches])
    return torch.stack(all_offsets), torch.stack(all_labels)


def mine_hard_negatives(loss: Tensor, positive: Tensor, ratio: float) -> Tensor:
    hardness = loss.masked_fill(positive, -torch.inf)
    rank = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < ratio * positive.sum(dim=1, keepdim=True)) & ~positive


def multibox_loss(
    offsets: Tensor,
    logits: Tensor,
    true_offsets: Tensor,
    labels: Tensor,
    ratio: float = 3.0,
    alpha: float = 1.0,
    localization: str = "smooth_l1",
    beta: float = 1.0,
    confidence: str = "cross_entropy",
    gamma: float = 2.0,
    normalize: str = "positives",
) -> tuple[Tensor, Tensor, Tensor]:
    """Total, localization and confidence loss, each row of the batch with a loss of its own."""
    positive = labels > 0
    counts = positive.sum(dim=1, keepdim=True)
    divisor = {
        "positives": counts.sum().clamp(min=1).expand_as(counts),
        "images": counts.clamp(min=1) * len(counts),
        "priors": torch.full_like(counts, labels.numel()),
    }[normalize]
    errors = torch.where(positive[..., None], offsets - true_offsets, 0)
    if localization == "l1":
        errors = errors.abs()
    else:
        errors = smooth_l1_loss(errors, torch.zeros_like(errors), reduction="none", beta=beta)
    located = (errors.sum(dim=2) / divisor).sum()
    loss = cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    if confidence == "focal":
        loss = (1 - (-loss).exp()) ** gamma * loss
    else:
        mined = mine_hard_negatives(loss.detach(), positive, ratio)
        loss = torch.where(positive | mined, loss, 0)
    confident = (loss / divisor).sum()
    return confident + alpha * located, located, confident
