"""Coding: a box as seen from a prior, and back again.

The network never predicts coordinates. It predicts *offsets*: how far the box's centre lies from
the prior's, in prior sizes, and how much larger the box is, as a logarithm.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ssd_annotated.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

#: Caffe's "variances": the divisors of the offsets, one for centres and one for sizes.
VARIANCES = (0.1, 0.2)


def check_predictions(offsets: Tensor, logits: Tensor, num_priors: int) -> None:
    """Raise a ValueError unless offsets are (B, P, 4) and logits (B, P, C), for P priors."""
    if offsets.ndim != 3 or offsets.shape[1:] != (num_priors, 4):
        raise ValueError(
            f"offsets have shape {tuple(offsets.shape)}, expected (B, {num_priors}, 4): "
            f"one row for each of {num_priors} priors"
        )
    if logits.ndim != 3 or logits.shape[:2] != offsets.shape[:2]:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}, expected ({len(offsets)}, {num_priors}, C) "
            f"to match the offsets"
        )


def encode(
    boxes: Float[Tensor, "*batch P 4"],
    priors: Float[Tensor, "P 4"],
    variances: tuple[float, float] = VARIANCES,
) -> Float[Tensor, "*batch P 4"]:
    """Offsets of boxes from priors: (Δcentre / prior size) / v₀ and ln(size / prior size) / v₁.

    Parameters
    ----------
    boxes
        ``xyxy`` fractions, one for each prior, of positive width and height.
    priors
        ``cxcywh`` fractions.
    variances
        Divisors for centres and for sizes. The paper has none; its code divides by 0.1 and 0.2.

    Notes
    -----
    Equation (2) of the paper, with the variances of the authors' Caffe code.
    """
    centres_sizes = xyxy_to_cxcywh(boxes)
    shift = (centres_sizes[..., :2] - priors[:, :2]) / priors[:, 2:]
    stretch = torch.log(centres_sizes[..., 2:] / priors[:, 2:])
    return torch.cat([shift / variances[0], stretch / variances[1]], dim=-1)


def decode(
    offsets: Float[Tensor, "*batch P 4"],
    priors: Float[Tensor, "P 4"],
    variances: tuple[float, float] = VARIANCES,
    max_log_size: float | None = None,
) -> Float[Tensor, "*batch P 4"]:
    """Boxes that lie `offsets` away from `priors`: the inverse of `encode`.

    Parameters
    ----------
    max_log_size
        Largest ln(size / prior size); torchvision's is ln 62.5. By default there is no limit.

    Returns
    -------
    ``xyxy`` fractions, not clipped to the image, as in the paper's code.
    """
    centres = priors[:, :2] + offsets[..., :2] * variances[0] * priors[:, 2:]
    log_sizes = offsets[..., 2:] * variances[1]
    if max_log_size is not None:
        log_sizes = log_sizes.clamp(max=max_log_size)
    sizes = priors[:, 2:] * torch.exp(log_sizes)
    return cxcywh_to_xyxy(torch.cat([centres, sizes], dim=-1))
