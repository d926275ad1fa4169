"""The loss: how wrong are the boxes that should be there, and how sure the ones that should not.

L(x, c, l, g) = (L_conf(x, c) + α L_loc(x, l, g)) / N, the paper's equation (1), where N counts the
priors of the batch that were matched to an object.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssd_annotated.coding import VARIANCES, check_predictions, encode
from ssd_annotated.matching import Method, check_method, match_batch


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
        If an option is unknown, a target is malformed (see `check_target`) or the predictions are
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
        check_method(method)
        if localization not in ("smooth_l1", "l1"):
            raise ValueError(f"localization must be 'smooth_l1' or 'l1', not {localization!r}")
        if confidence not in ("cross_entropy", "focal"):
            raise ValueError(f"confidence must be 'cross_entropy' or 'focal', not {confidence!r}")
        if normalize not in ("positives", "images", "priors"):
            raise ValueError(
                f"normalize must be 'positives', 'images' or 'priors', not {normalize!r}"
            )
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be an IoU in (0, 1], not {threshold}")
        numbers = {"alpha": alpha, "gamma": gamma, "negatives_per_positive": negatives_per_positive}
        for name, number in numbers.items():
            if not number >= 0:
                raise ValueError(f"{name} must not be negative, but is {number}")
        if not min(variances) > 0:
            raise ValueError(f"variances must be positive, not {variances}")
        if not beta > 0:
            raise ValueError(f"beta must be positive, not {beta} (without the bend it is 'l1')")
        self.register_buffer("priors", priors, persistent=False)
        self.threshold, self.method, self.variances = threshold, method, variances
        self.negatives_per_positive = negatives_per_positive
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.localization, self.confidence = localization, confidence
        self.normalize = normalize

    def forward(
        self,
        predictions: tuple[Float[Tensor, "B P 4"], Float[Tensor, "B P C"]],
        targets: list[dict[str, Tensor]],
    ) -> LossParts:
        """Loss of a batch: `predictions` are (offsets, logits), `targets` one dict per image."""
        offsets, logits = predictions
        self._check_shapes(offsets, logits, targets)
        for target in targets:
            check_target(target, num_classes=logits.shape[2])
        true_offsets, labels = assign_targets(
            self.priors, targets, self.threshold, self.method, self.variances
        )
        positive = labels > 0
        divisor = self._divisor(positive)
        errors = offsets[positive] - true_offsets[positive]
        localization = self._localization(errors) / divisor.expand_as(positive)[positive]
        confidence = self._confidence(logits, labels) / divisor
        total = confidence.sum() + self.alpha * localization.sum()
        return LossParts(total, localization.sum(), confidence.sum(), positive.sum())

    def _divisor(self, positive: Bool[Tensor, "B P"]) -> Int64[Tensor, "B 1"]:
        """What each image's sums are divided by, never 0: sums over nothing stay 0."""
        counts = positive.sum(dim=1, keepdim=True)
        if self.normalize == "images":
            return counts.clamp(min=1) * len(counts)
        everything = counts.sum().clamp(min=1)
        if self.normalize == "priors":
            everything = torch.full_like(everything, positive.numel())
        return everything.expand_as(counts)

    def _check_shapes(self, offsets: Tensor, logits: Tensor, targets: list) -> None:
        check_predictions(offsets, logits, len(self.priors))
        if len(offsets) != len(targets):
            raise ValueError(f"predictions for {len(offsets)} images, but {len(targets)} targets")

    def _localization(self, error: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
        loss = error.abs() if self.localization == "l1" else smooth_l1(error, self.beta)
        return loss.sum(dim=1)

    def _confidence(
        self, logits: Float[Tensor, "B P C"], labels: Int64[Tensor, "B P"]
    ) -> Float[Tensor, "B P"]:
        """The loss of each prior that counts, and 0 for the others."""
        if self.confidence == "focal":
            return focal_loss(logits, labels, self.gamma)
        loss = cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        positive = labels > 0
        mined = mine_hard_negatives(loss.detach(), positive, self.negatives_per_positive)
        return torch.where(positive | mined, loss, 0)


def check_target(target: dict[str, Tensor], num_classes: int) -> None:
    """Raise a ValueError unless boxes are fractions, and labels fit them and lie in 1 ... C − 1."""
    missing = {"boxes", "labels"} - set(target)
    if missing:
        raise ValueError(f"a target needs boxes and labels: {sorted(missing)} missing")
    boxes, labels = target["boxes"], target["labels"]
    if labels.is_floating_point():
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    # A box may stick out of its image, but not by an image's size: that is a box in pixels.
    if (boxes.abs() > 2).any():
        raise ValueError(
            f"boxes must be fractions of the image, found {boxes.abs().max().item():g}: divide "
            "pixels by the image's width and height"
        )
    if labels.shape != boxes.shape[:1]:
        raise ValueError(f"{len(boxes)} boxes need as many labels, not {tuple(labels.shape)}")
    bad = (labels < 1) | (labels >= num_classes)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"labels[{row}] = {int(labels[row])}: an object's label lies in 1..{num_classes - 1} "
            "(0 is background)"
        )


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
    matches = match_batch(priors, [target["boxes"] for target in targets], threshold, method)
    # One more row stands for "no object", and index −1 finds it at the end.
    boxes = [torch.cat([t["boxes"], t["boxes"].new_tensor([[0, 0, 1, 1]])]) for t in targets]
    labels = [torch.cat([t["labels"].long(), t["labels"].new_zeros(1).long()]) for t in targets]
    matched_boxes = torch.stack([rows[match] for rows, match in zip(boxes, matches)])
    matched_labels = torch.stack([rows[match] for rows, match in zip(labels, matches)])
    offsets = encode(matched_boxes, priors, variances)
    return offsets.masked_fill(matches[..., None] < 0, 0), matched_labels


def mine_hard_negatives(
    loss: Float[Tensor, "B P"], positive: Bool[Tensor, "B P"], ratio: float = 3.0
) -> Bool[Tensor, "B P"]:
    """Pick each image's negatives of highest confidence loss, `ratio` for each of its positives.

    An image without positives gets none; one with too few negatives gives all it has.
    """
    hardness = loss.masked_fill(positive, -torch.inf)
    # The rank of a prior is its place in the order of falling loss: an argsort of an argsort.
    rank = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < ratio * positive.sum(dim=1, keepdim=True)) & ~positive


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
