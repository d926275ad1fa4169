"""From raw predictions to detections: decode, drop the unsure, keep the best of each heap."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms

from ssd_annotated.coding import VARIANCES, check_predictions, decode


class Detections(NamedTuple):
    """What was found in one image, best first: ``xyxy`` boxes, their scores, their labels."""

    boxes: Float[Tensor, "D 4"]
    scores: Float[Tensor, " D"]
    labels: Int64[Tensor, " D"]


def postprocess(
    predictions: tuple[Float[Tensor, "B P 4"], Float[Tensor, "B P C"]],
    priors: Float[Tensor, "P 4"],
    score_threshold: float = 0.01,
    top_k: int | None = 400,
    nms_threshold: float = 0.45,
    max_detections: int | None = 200,
    variances: tuple[float, float] = VARIANCES,
    max_log_size: float | None = None,
    clip: bool = False,
    class_agnostic: bool = False,
) -> list[Detections]:
    """Turn offsets and logits into the detections of each image.

    Parameters
    ----------
    predictions
        (offsets, logits) of a batch.
    priors
        ``cxcywh`` fractions, in the order of the predictions.
    score_threshold
        A class must score more than this (strictly).
    top_k
        Candidates of each class that enter its suppression; None for all.
    nms_threshold
        A box goes if it overlaps a better one of its class by more than this.
    max_detections
        What is left of the whole image, all classes together; None for everything.
    variances, max_log_size
        How offsets become boxes: see `decode`.
    clip
        Cut boxes off at the image's border, before suppression.
    class_agnostic
        Every prior speaks for its best class only, and a box can suppress one of another class.

    Raises
    ------
    ValueError
        If a threshold is outside [0, 1], a count is below 1, the predictions are not made for these
        priors, or one is NaN or infinite.

    Notes
    -----
    Section 3.7 of the paper, "Inference time", for 0.01, 0.45 and 200; the authors' Caffe code for
    400. Boxes come back as they were decoded, beyond the image too; in suppression they count up
    to four image sides beyond its border.
    """
    _check_settings(score_threshold, top_k, nms_threshold, max_detections)
    offsets, logits = predictions
    _check_predictions(offsets, logits, len(priors))
    boxes = decode(offsets, priors, variances, max_log_size)
    if clip:
        boxes = boxes.clamp(0, 1)
    # Column 0 is background, which is never a detection.
    scores = logits.softmax(dim=2)[..., 1:]
    if class_agnostic:
        best = scores.argmax(dim=2, keepdim=True)
        scores = torch.zeros_like(scores).scatter(2, best, scores.gather(2, best))
    candidates = [
        _candidates(image_boxes, image_scores, score_threshold, top_k)
        for image_boxes, image_scores in zip(boxes, scores)
    ]
    return [_suppress(c, nms_threshold, class_agnostic, max_detections) for c in candidates]


def _check_settings(
    score_threshold: float, top_k: int | None, nms_threshold: float, max_detections: int | None
) -> None:
    fractions = {"score_threshold": score_threshold, "nms_threshold": nms_threshold}
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], not {value}")
    for name, value in {"top_k": top_k, "max_detections": max_detections}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def _check_predictions(offsets: Tensor, logits: Tensor, num_priors: int) -> None:
    check_predictions(offsets, logits, num_priors)
    for name, tensor in {"offsets": offsets, "logits": logits}.items():
        if not tensor.isfinite().all():
            raise ValueError(f"the predictions contain NaN or infinity, in their {name}")


def _candidates(
    boxes: Float[Tensor, "P 4"],
    scores: Float[Tensor, "P K"],
    score_threshold: float,
    top_k: int | None,
) -> Detections:
    """The best `top_k` priors of each class that score more than the threshold."""
    count = len(scores) if top_k is None else min(top_k, len(scores))
    top_scores, top_priors = scores.topk(count, dim=0)  # (k, K)
    rank, column = (top_scores > score_threshold).nonzero(as_tuple=True)
    return Detections(boxes[top_priors[rank, column]], top_scores[rank, column], column + 1)


def _suppress(
    candidates: Detections, threshold: float, class_agnostic: bool, max_detections: int | None
) -> Detections:
    """Keep what no better box of its class overlaps, the best of it, best first."""
    boxes, scores, labels = candidates
    groups = torch.zeros_like(labels) if class_agnostic else labels
    # batched_nms keeps groups apart by moving each by (largest coordinate + 1): where a coordinate
    # is negative two groups can meet, where one is huge the others lose their digits.
    near = boxes.clamp(-4, 5) + 4
    # Moved by 90 groups, a small box has few digits left in single precision. (MPS has no other.)
    if near.device.type != "mps":
        near, scores = near.double(), scores.double()
    keep = batched_nms(near, scores, groups, threshold)[:max_detections]
    return Detections(*(values[keep] for values in candidates))
