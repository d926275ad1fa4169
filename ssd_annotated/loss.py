"""The loss: how wrong are the boxes that should be there, and how sure the ones that should not.

L(x, c, l, g) = (L_conf(x, c) + α L_loc(x, l, g)) / N, the paper's equation (1), where N counts the
priors of the batch that were matched to an object.
"""

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_annotated.coding import VARIANCES, check_predictions, encode
from ssd_annotated.matching import Method, check_all_boxes, find_positives
from ssd_annotated.support.checks import check_choice, check_iou, check_non_negative, check_positive


class Positives(NamedTuple):
    """The few priors of a batch that learn an object; all others are background.

    A prior is named by its row in the flattened output of the network, image · P + prior. `counts`
    says how many each image has: numbers, and no tensor, for which a step would have to wait.
    """

    counts: list[int]
    rows: Int64[Tensor, " N"]
    labels: Int64[Tensor, " N"]
    offsets: Float[Tensor, "N 4"]


class LossParts(NamedTuple):
    """The loss and the two parts it is made of (total = confidence + α · localization), over N."""

    total: Float[Tensor, ""]
    localization: Float[Tensor, ""]
    confidence: Float[Tensor, ""]
    num_positives: Int64[Tensor, ""]


class MultiBoxLoss(nn.Module):
    """Localization loss of the positives plus confidence loss with hard negatives, over N.

    Parameters
    ----------
    priors
        ``cxcywh`` fractions, in the order of the network's output.
    threshold, method, variances
        How objects become targets: see `match_priors` and `encode`.
    negatives_per_positive
        Hard negatives for each positive, image by image. The paper takes 3.
    alpha
        Weight of the localization loss.
    localization
        ``"smooth_l1"`` with its `beta`, or plain ``"l1"``.
    confidence
        ``"cross_entropy"`` of positives and mined negatives, or ``"focal"`` of all priors with its
        `gamma`, which needs no mining.
    normalize
        What the sums are divided by. ``"positives"``: N of the whole batch, as in the paper.
        ``"images"``: each image's sums by its own N, then by B. ``"priors"``: B · P.

    Raises
    ------
    ValueError
        If an option is unknown, a target is malformed (see `check_targets`) or the predictions are
        not made for these priors.

    Notes
    -----
    Equations (1) to (3) of the paper and "Hard negative mining" in its section 2.2. Without a
    positive in the whole batch the loss is 0 and so is its gradient; only the focal loss, which
    needs no positive to count a negative, then is its sum over all priors. What other
    implementations do is collected in `ssd_annotated.published.conventions`.
    """

    def __init__(
        self,
        priors: Float[Tensor, "P 4"],
        threshold: float = 0.5,
        negatives_per_positive: float = 3.0,
        alpha: float = 1.0,
        localization: Literal["smooth_l1", "l1"] = "smooth_l1",
        beta: float = 1.0,
        confidence: Literal["cross_entropy", "focal"] = "cross_entropy",
        gamma: float = 2.0,
        variances: tuple[float, float] = VARIANCES,
        method: Method = "bipartite",
        normalize: Literal["positives", "images", "priors"] = "positives",
    ) -> None:
        super().__init__()
        check_choice("method", method, get_args(Method))
        check_choice("localization", localization, ("smooth_l1", "l1"))
        check_choice("confidence", confidence, ("cross_entropy", "focal"))
        check_choice("normalize", normalize, ("positives", "images", "priors"))
        check_iou("threshold", threshold)
        check_non_negative("alpha", alpha)
        check_non_negative("gamma", gamma)
        check_non_negative("negatives_per_positive", negatives_per_positive)
        check_positive("variances", *variances)
        check_positive("beta", beta)  # without the bend it is "l1"
        self.register_buffer("priors", priors, persistent=False)
        self.threshold, self.method, self.variances = threshold, method, variances
        self.negatives_per_positive = negatives_per_positive
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.localization, self.confidence, self.normalize = localization, confidence, normalize

    def forward(
        self,
        predictions: tuple[Float[Tensor, "B P 4"], Float[Tensor, "B P C"]],
        targets: list[dict[str, Tensor]] | Positives,
    ) -> LossParts:
        """Loss of a batch: `predictions` are (offsets, logits), `targets` one dict per image.

        Or give the `Positives` of the targets; then no step waits until they are found.
        """
        offsets, logits = predictions
        check_predictions(offsets, logits, len(self.priors))
        if not isinstance(targets, Positives):
            targets = self.find_positives(targets, num_classes=logits.shape[2])
        if len(offsets) != len(targets.counts):
            raise ValueError(
                f"predictions for {len(offsets)} images, but {len(targets.counts)} targets"
            )
        divisor = self._divisor(targets)
        error = offsets.flatten(0, 1)[targets.rows] - targets.offsets
        loss = error.abs() if self.localization == "l1" else smooth_l1(error, self.beta)
        localization = loss.sum(dim=1) / divisor[targets.rows // len(self.priors)]
        confidence = self._confidence(logits, targets, divisor)
        total = confidence + self.alpha * localization.sum()
        num_positives = torch.full_like(divisor[0], len(targets.rows))
        return LossParts(total, localization.sum(), confidence, num_positives)

    def find_positives(self, targets: list[dict[str, Tensor]], num_classes: int) -> Positives:
        """What the loss wants to know of targets, which are checked; works in another process."""
        check_targets(targets, num_classes)
        return assign_positives(self.priors, targets, self.threshold, self.method, self.variances)

    def _divisor(self, targets: Positives) -> Int64[Tensor, " B"]:
        """What each image's sums are divided by, never 0: sums over nothing stay 0."""
        counts = targets.rows.new_zeros(len(targets.counts))
        if self.normalize == "positives":
            return counts + max(len(targets.rows), 1)
        if self.normalize == "priors":
            return counts + len(counts) * len(self.priors)
        images = targets.rows // len(self.priors)
        return counts.index_add(0, images, torch.ones_like(images)).clamp(min=1) * len(counts)

    def _confidence(
        self, logits: Float[Tensor, "B P C"], targets: Positives, divisor: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """The loss of the rows that count: all, or the positives and the hardest negatives."""
        images, num_priors, _ = logits.shape
        wide = torch.promote_types(logits.dtype, torch.float32)  # the sum may exceed half precision
        if self.confidence == "focal":
            labels = targets.rows.new_zeros(images * num_priors)
            labels = labels.index_copy(0, targets.rows, targets.labels).view(images, num_priors)
            return (focal_loss(logits, labels, self.gamma) / divisor[:, None]).sum(dtype=wide)
        # Which rows are hard is decided without a graph; only those that count get a gradient.
        hardness = (-logits.detach().log_softmax(dim=2)[..., 0]).contiguous()
        hardness.view(-1)[targets.rows] = -torch.inf
        negatives = hardest_negatives(hardness, targets.counts, self.negatives_per_positive)
        rows = torch.cat([targets.rows, negatives])
        labels = torch.cat([targets.labels, torch.zeros_like(negatives)])
        loss = cross_entropy(logits.flatten(0, 1)[rows], labels, reduction="none")
        return (loss / divisor[rows // num_priors]).sum(dtype=wide)


def check_targets(targets: list[dict[str, Tensor]], num_classes: int) -> None:
    """Raise a ValueError unless boxes are fractions, and labels fit them and lie in 1 ... C − 1.

    Boxes and labels are counted through all targets: all numbers are looked at together.
    """
    for target in targets:
        missing = {"boxes", "labels"} - set(target)
        if missing:
            raise ValueError(f"a target needs boxes and labels: {sorted(missing)} missing")
        if target["labels"].is_floating_point():
            raise ValueError(f"labels must be integers, not {target['labels'].dtype}")
        count, shape = len(target["boxes"]), tuple(target["labels"].shape)
        if shape != (count,):
            raise ValueError(f"{count} boxes need as many labels, not {shape}")
    if not targets:
        return
    check_all_boxes([target["boxes"] for target in targets])
    boxes, labels = (torch.cat([t[name] for t in targets]) for name in ("boxes", "labels"))
    # A box may stick out of its image, but not by an image's size: that is a box in pixels.
    if (boxes.abs() > 2).any():
        raise ValueError(
            f"boxes must be fractions of the image, found {boxes.abs().max().item():g}: divide "
            "pixels by the image's width and height"
        )
    bad = (labels < 1) | (labels >= num_classes)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"labels[{row}] = {int(labels[row])}: an object's label lies in 1..{num_classes - 1} "
            "(0 is background)"
        )


def assign_positives(
    priors: Float[Tensor, "P 4"],
    targets: list[dict[str, Tensor]],
    threshold: float = 0.5,
    method: Method = "bipartite",
    variances: tuple[float, float] = VARIANCES,
) -> Positives:
    """Turn each image's objects into the true offsets and labels of the priors that learn them."""
    boxes = [target["boxes"] for target in targets]
    rows, objects = find_positives(priors, boxes, threshold, method)
    counts = np.bincount(rows // len(priors), minlength=len(targets)).tolist()
    rows, objects = (torch.from_numpy(x).to(priors.device) for x in (rows, objects))
    labels = torch.cat([target["labels"] for target in targets]).long()
    offsets = encode(torch.cat(boxes)[objects], priors[rows % len(priors)], variances)
    return Positives(counts, rows, labels[objects], offsets)


def assign_targets(
    priors: Float[Tensor, "P 4"],
    targets: list[dict[str, Tensor]],
    threshold: float = 0.5,
    method: Method = "bipartite",
    variances: tuple[float, float] = VARIANCES,
) -> tuple[Float[Tensor, "B P 4"], Int64[Tensor, "B P"]]:
    """Turn each image's objects into one target for each prior: its offsets and its label.

    Returns
    -------
    Offsets, zero where there is no object, and labels, 0 for background.
    """
    counts, rows, *found = assign_positives(priors, targets, threshold, method, variances)
    shape = (len(counts) * len(priors),)
    labels, offsets = (x.new_zeros(shape + x.shape[1:]).index_copy(0, rows, x) for x in found)
    return offsets.view(len(counts), -1, 4), labels.view(len(counts), -1)


def hardest_negatives(
    hardness: Float[Tensor, "B P"], counts: list[int], ratio: float = 3.0
) -> Int64[Tensor, " M"]:
    """Rows image · P + prior of each image's hardest priors, `ratio` for each of its positives.

    The positives, `counts` of each image, have a hardness of −∞.
    """
    num_priors = hardness.shape[1]
    wanted = [min(math.ceil(ratio * count), num_priors - count) for count in counts]
    hardest = hardness.topk(max(wanted), dim=1).indices
    first = range(0, hardness.numel(), num_priors)
    return torch.cat([row[:n] + start for row, n, start in zip(hardest, wanted, first)])


def mine_hard_negatives(
    loss: Float[Tensor, "B P"], positive: Bool[Tensor, "B P"], ratio: float = 3.0
) -> Bool[Tensor, "B P"]:
    """Pick each image's negatives of highest confidence loss, `ratio` for each of its positives.

    An image without positives gets none; one with too few negatives gives all it has.
    """
    hardness, counts = loss.masked_fill(positive, -torch.inf), positive.sum(dim=1).tolist()
    mined = torch.zeros_like(positive, memory_format=torch.contiguous_format)
    mined.view(-1)[hardest_negatives(hardness, counts, ratio)] = True
    return mined


def smooth_l1(error: Float[Tensor, "*n"], beta: float = 1.0) -> Float[Tensor, "*n"]:
    """½ error² / β where |error| < β, |error| − ½ β elsewhere (Girshick 2015, eq. 3, with β = 1).

    The form with σ is the same one with β = 1 / σ².
    """
    size = error.abs()
    return torch.where(size < beta, 0.5 * error**2 / beta, size - 0.5 * beta)


def focal_loss(
    logits: Float[Tensor, "B P C"], labels: Int64[Tensor, "B P"], gamma: float = 2.0
) -> Float[Tensor, "B P"]:
    """−(1 − p)^γ ln p, with p the softmax score of the true label (Lin et al. 2017, eq. 4)."""
    log_score = logits.log_softmax(dim=2).gather(2, labels[..., None])[..., 0]
    return -((1 - log_score.exp()) ** gamma) * log_score
