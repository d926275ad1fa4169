"""From raw predictions to detections: decode, drop the unsure, keep the best of each heap."""

from typing import NamedTuple

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
    top_k: int = 400,
    nms_threshold: float = 0.45,
    max_detections: int = 200,
    variances: tuple[float, float] = VARIANCES,
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
        Candidates of each class that enter its suppression.
    nms_threshold
        A box goes if it overlaps a better one of its class by more than this.
    max_detections
        What is left of the whole image, all classes together.

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
    boxes = decode(offsets, priors, variances)
    # Column 0 is background, which is never a detection.
    scores = logits.softmax(dim=2)[..., 1:]
    return [
        _select(image_boxes, image_scores, score_threshold, top_k, nms_threshold, max_detections)
        for image_boxes, image_scores in zip(boxes, scores)
    ]


def _check_settings(
    score_threshold: float, top_k: int, nms_threshold: float, max_detections: int
) -> None:
    fractions = {"score_threshold": score_threshold, "nms_threshold": nms_threshold}
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], not {value}")
    for name, value in {"top_k": top_k, "max_detections": max_detections}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def _check_predictions(offsets: Tensor, logits: Tensor, num_priors: int) -> None:
    check_predictions(offsets, logits, num_priors)
    for name, tensor in {"offsets": offsets, "logits": logits}.items():
        if not tensor.isfinite().all():
            raise ValueError(f"the predictions contain NaN or infinity, in their {name}")


def _select(
    boxes: Float[Tensor, "P 4"],
    scores: Float[Tensor, "P K"],
    score_threshold: float,
    top_k: int,
    nms_threshold: float,
    max_detections: int,
) -> Detections:
    """Threshold, top-k and suppression class by class, then the image's cap: in one go."""
    top_scores, top_priors = scores.topk(min(top_k, len(scores)), dim=0)  # (k, K)
    rank, column = (top_scores > score_threshold).nonzero(as_tuple=True)
    candidates = boxes[top_priors[rank, column]]
    candidate_scores = top_scores[rank, column]
    labels = column + 1
    # batched_nms keeps labels apart by moving each by (largest coordinate + 1): where a coordinate
    # is negative two labels can meet, where one is huge the others lose their digits.
    near = candidates.clamp(-4, 5) + 4
    # It returns what it keeps best first.
    keep = batched_nms(near, candidate_scores, labels, nms_threshold)[:max_detections]
    return Detections(candidates[keep], candidate_scores[keep], labels[keep])
