"""From raw predictions to detections: drop the unsure, decode, keep the best of each heap."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from ssd_annotated.boxes import paired_iou
from ssd_annotated.coding import VARIANCES, check_predictions, decode
from ssd_annotated.support.checks import check_limits

#: So many candidates of a heap take their turns at a time.
_PIECE = 32
#: Scores that are held at once: 1.6 MB. A batch with more is cut into parts.
_MOST_SCORES = 400_000


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
    400. Of equal scores that of the earlier prior comes first, then that of the lower class. A box
    that does not meet the image is no detection and suppresses none. The others come back as they
    were decoded, beyond the image too; in suppression they count up to four image sides beyond it.
    """
    check_limits(score_threshold, nms_threshold, top_k, max_detections)
    offsets, logits = predictions
    _check_predictions(offsets, logits, len(priors))
    rows = _likely(logits, score_threshold)
    parts = min(len(logits), 1 + len(rows[0]) * logits.shape[2] // _MOST_SCORES)
    if parts > 1:
        limits = (score_threshold, top_k, nms_threshold, max_detections)
        rest = (priors, *limits, variances, max_log_size, clip, class_agnostic)
        batches = zip(offsets.chunk(parts), logits.chunk(parts), strict=True)
        return [found for batch in batches for found in postprocess(batch, *rest)]
    # Column 0 is background, which is never a detection.
    scores = logits[rows].softmax(dim=1)[:, 1:]
    if class_agnostic:
        scores = scores * one_hot(scores.argmax(dim=1), scores.shape[1])
    # An image's best few priors most often fill `max_detections`; where they do not, take all.
    for count in (3 * (max_detections or len(priors)) // 2, len(priors)):
        floor = _floor(scores, rows, logits.shape[:2], count).clamp(min=score_threshold)
        image, prior, label, score = _candidates(scores, rows, floor, top_k)
        boxes = decode(offsets[image, prior], priors[prior], variances, max_log_size)
        boxes = boxes.clamp(0, 1) if clip else boxes
        heaps = image if class_agnostic else image * logits.shape[2] + label
        kept = _suppress(boxes, heaps, nms_threshold)
        kept = kept[image[kept].argsort(stable=True)]
        counts = image[kept].bincount(minlength=len(logits))
        if ((floor <= score_threshold) | (counts >= (max_detections or 0))).all():
            break
    columns = [column[kept].split(counts.tolist()) for column in (boxes, score, label)]
    return [Detections(*(column[:max_detections] for column in found)) for found in zip(*columns)]


def _check_predictions(offsets: Tensor, logits: Tensor, num_priors: int) -> None:
    check_predictions(offsets, logits, num_priors)
    for name, tensor in {"offsets": offsets, "logits": logits}.items():
        # NaN and infinity come through both: one pass, where isfinite() takes three.
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise ValueError(f"the predictions contain NaN or infinity, in their {name}")


def _likely(logits: Float[Tensor, "B P C"], threshold: float) -> tuple[Tensor, ...]:
    """Image and prior of each row that may hold a score above t.

    A class and background share at most 1, so p > t needs logit − logit₀ > ln(t / (1 − t)).
    """
    best = logits[..., 1:]
    while (width := best.shape[2]) > 1:  # a tournament: three times as fast as amax along 20
        best = torch.maximum(best[..., : -(width // 2)], best[..., width // 2 :])
    wide = torch.promote_types(logits.dtype, torch.float32)
    margin = best[..., 0].to(wide) - logits[..., 0].to(wide)
    # A hundredth less, since scores are rounded, in half precision to three digits.
    least = torch.logit(torch.tensor(threshold, device="cpu")).item() - 0.01
    return (margin > least).nonzero(as_tuple=True)


def _floor(
    scores: Float[Tensor, "R K"], rows: tuple[Tensor, ...], shape: tuple[int, int], count: int
) -> Float[Tensor, " B"]:
    """What the best `count` priors of each image score more than; 0 where no image has more."""
    best = scores.new_zeros(shape)
    if len(scores) == 0 or rows[0].bincount().max() <= count:
        return best.new_zeros(shape[0])
    best[rows] = scores.t().contiguous().amax(dim=0)
    return best.topk(count + 1, dim=1).values[:, -1]


def _candidates(
    scores: Float[Tensor, "R K"], rows: tuple[Tensor, ...], floor: Tensor, top_k: int | None
) -> tuple[Tensor, ...]:
    """The best `top_k` of each class above the floor, best first: image, prior, label, score."""
    image, prior = rows
    above = scores > floor[image, None]
    if top_k is not None and above.sum() > 2 * top_k * len(floor) * scores.shape[1]:
        # Too many to be sorted: leave out what is worse than number `top_k` of its class.
        table = scores.new_zeros(len(floor), int(prior.max()) + 1, scores.shape[1])
        table[rows] = scores
        above &= scores >= table.topk(top_k, dim=1).values[image, -1]
    row, column = above.nonzero(as_tuple=True)
    order = scores[row, column].argsort(descending=True, stable=True)
    row, column = row[order], column[order]
    heaps, order = (image[row] * scores.shape[1] + column).sort(stable=True)
    order = order[_turn(heaps) < (top_k or len(scores))].sort().values
    row, column = row[order], column[order]
    return image[row], prior[row], column + 1, scores[row, column]


def _turn(heaps: Int64[Tensor, " N"]) -> Int64[Tensor, " N"]:
    """How many entries before each belong to the same heap, where `heaps` never falls."""
    return torch.arange(len(heaps), device=heaps.device) - torch.searchsorted(heaps, heaps)


def _suppress(
    boxes: Float[Tensor, "N 4"], heaps: Int64[Tensor, " N"], threshold: float
) -> Int64[Tensor, " D"]:
    """Which boxes meet the image and overlap no better one of their heap that stays.

    They come best first. A piece of each heap takes its turn: later boxes change nothing before.
    """
    heaps, order = heaps.sort(stable=True)
    turn = _turn(heaps)
    boxes = boxes[order].clamp(-4, 5)  # of boxes without end there is no IoU
    boxes = boxes if boxes.device.type == "mps" else boxes.double()  # MPS has no double precision
    waiting = ((boxes[:, :2] < 1) & (boxes[:, 2:] > 0)).all(dim=1)
    kept = torch.zeros_like(waiting)
    for start in range(0, len(turn) and int(turn.max()) + 1, _PIECE):
        new = waiting & (turn >= start) & (turn < start + _PIECE)
        rivals = (kept | new).nonzero().flatten()
        better, worse = _pairs(heaps[rivals], new[rivals])
        corners = boxes[rivals]
        iou = paired_iou(corners.index_select(0, better), corners.index_select(0, worse))
        better, worse = better[iou > threshold], worse[iou > threshold]
        stays, before = torch.ones_like(rivals, dtype=torch.bool), None
        # Who is struck out strikes nobody; so ask again until no answer changes.
        while before is None or not torch.equal(stays, before):
            before, stays = stays, torch.ones_like(stays)
            stays[worse[before[better]]] = False
        kept[rivals] = stays
    return order[kept].sort().values


def _pairs(heaps: Int64[Tensor, " N"], new: Bool[Tensor, " N"]) -> tuple[Tensor, Tensor]:
    """Pair each new entry, as the second, with all before it in its heap: two lists of places."""
    before = _turn(heaps) * new
    place = torch.arange(len(heaps), device=heaps.device)
    second = place.repeat_interleave(before)
    count = torch.arange(len(second), device=heaps.device)
    return (place - before.cumsum(dim=0))[second] + count, second
