"""The plain way: what the package once did, image by image, as an oracle for what it does now."""

import torch
from torchvision.ops import batched_nms

from ssd_annotated.boxes import pairwise_iou
from ssd_annotated.coding import decode
from ssd_annotated.evaluation.voc import (
    HIT,
    IGNORED,
    MISS,
    Claims,
    Evaluation,
    PrecisionRecall,
    average_precision,
    best_first,
    is_difficult,
)
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


# ---------------------------------------------------------------- average precision


def evaluate(detections, targets, num_classes, iou_threshold=0.5, method="area"):
    """Image by image, with a table of all detections and all objects; then class by class."""
    scores, labels, verdicts = _rank(detections, targets, iou_threshold)
    found = torch.cat([t["labels"][~is_difficult(t)] for t in targets])
    objects = found.bincount(minlength=num_classes)
    ap = objects.new_full((num_classes,), torch.nan, dtype=torch.float64)
    curves = {}
    for label in objects.nonzero().flatten().tolist():
        mine = (labels == label) & (verdicts != IGNORED)
        hits = (verdicts[mine] == HIT).double().cumsum(dim=0)
        recall = hits / int(objects[label])
        precision = hits / torch.arange(1, len(hits) + 1)
        curves[label] = PrecisionRecall(recall, precision, scores[mine], verdicts[mine] == HIT)
        ap[label] = average_precision(recall, precision, method)
    return Evaluation(float(ap.nanmean()), ap, curves, objects)


def _rank(detections, targets, iou_threshold):
    scores, labels, verdicts = [], [], []
    for found, target in zip(detections, targets, strict=True):
        found = best_first(found)
        scores.append(found.scores)
        labels.append(found.labels)
        verdicts.append(judge(found, target, iou_threshold).verdict)
    order = torch.cat(scores).argsort(descending=True, stable=True)
    return tuple(torch.cat(values)[order] for values in (scores, labels, verdicts))


def judge(found, target, iou_threshold):
    """HIT, MISS or IGNORED for each detection of one image, which come best score first."""
    boxes, labels = target["boxes"], target["labels"]
    verdict = torch.full((len(found.scores),), MISS)
    same_class = found.labels[:, None] == labels[None, :]
    if len(boxes) == 0:
        return Claims(verdict, torch.zeros(len(verdict)), torch.zeros_like(verdict))
    best_iou, best = (pairwise_iou(found.boxes, boxes) * same_class).max(dim=1)
    claims = torch.nn.functional.one_hot(best, len(boxes)) * (best_iou >= iou_threshold)[:, None]
    # Claim number 1 of an object wins; the running count down the ranking tells later ones apart.
    turn = (claims.cumsum(dim=0) * claims).sum(dim=1)
    verdict[turn == 1] = HIT
    verdict[(turn > 0) & is_difficult(target)[best]] = IGNORED
    return Claims(verdict, best_iou, best)
