"""The plain way: what the package once did, image by image, as an oracle for what it does now."""

import torch
from torchvision.ops import batched_nms

from ssd_annotated.coding import decode
from ssd_annotated.nms import Detections

# ---------------------------------------------------------------- post-processing


def postprocess(
    predictions,
    priors,
    score_threshold=0.01,
    top_k=400,
    nms_threshold=0.45,
    max_detections=200,
    variances=(0.1, 0.2),
    max_log_size=None,
    clip=False,
    class_agnostic=False,
):
    """Decode everything, softmax of everything, and torchvision's suppression for each image."""
    offsets, logits = predictions
    boxes = decode(offsets, priors, variances, max_log_size)
    if clip:
        boxes = boxes.clamp(0, 1)
    scores = logits.softmax(dim=2)[..., 1:]
    if class_agnostic:
        best = scores.argmax(dim=2, keepdim=True)
        scores = torch.zeros_like(scores).scatter(2, best, scores.gather(2, best))
    found = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        candidates = _candidates(image_boxes, image_scores, score_threshold, top_k)
        found.append(_suppress(candidates, nms_threshold, class_agnostic, max_detections))
    return found


def _candidates(boxes, scores, score_threshold, top_k):
    """The best of each class above the threshold, prior by prior, if they meet the image."""
    rank = scores.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    prior, column = ((scores > score_threshold) & (rank < (top_k or len(scores)))).nonzero(
        as_tuple=True
    )
    meets = ((boxes[prior, :2] < 1) & (boxes[prior, 2:] > 0)).all(dim=1)
    prior, column = prior[meets], column[meets]
    return Detections(boxes[prior], scores[prior, column], column + 1)


def _suppress(candidates, threshold, class_agnostic, max_detections):
    boxes, scores, labels = candidates
    groups = torch.zeros_like(labels) if class_agnostic else labels
    near = boxes.double().clamp(-4, 5) + 4
    keep = batched_nms(near, scores.double(), groups, threshold)
    keep = keep.sort().values  # back to the order of the priors, so that ties keep it
    keep = keep[scores[keep].argsort(descending=True, stable=True)][:max_detections]
    return Detections(*(values[keep] for values in candidates))
