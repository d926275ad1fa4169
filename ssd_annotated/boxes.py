"""Boxes: two ways to write one, its area, and the overlap of two.

A box is four numbers. Unless a name says otherwise it is ``xyxy`` (left, top, right, bottom) in
fractions of the image, so that (0, 0, 1, 1) is the whole image at any resolution.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def xyxy_to_cxcywh(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Centre and size of boxes given by their corners: c = (min + max) / 2, w = max − min."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def cxcywh_to_xyxy(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Corners of boxes given by centre and size: min = c − w / 2, max = c + w / 2."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def area(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """Width times height of ``xyxy`` boxes, in squared units of the coordinates."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(
    a: Float[Tensor, "*batch N 4"], b: Float[Tensor, "*batch M 4"]
) -> Float[Tensor, "*batch N M"]:
    """Intersection over union, |A ∩ B| / |A ∪ B|, of every box of `a` with every box of `b`.

    Parameters
    ----------
    a, b
        ``xyxy`` boxes in one common frame, fractions or pixels.

    Returns
    -------
    Values in [0, 1]. Two boxes of zero area have an IoU of 0, not 0/0.

    Notes
    -----
    The paper calls this *jaccard overlap* (section 2.2).
    """
    return paired_iou(a[..., :, None, :], b[..., None, :, :])


def paired_iou(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*_"]:
    """Intersection over union of each box of `a` with the box of `b` in the same place."""
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    intersection = width.clamp_(min=0) * height.clamp_(min=0)
    union = area(a) + area(b) - intersection
    # An empty union has an empty intersection: 0 divided by any positive number is the answer.
    return intersection / torch.where(union > 0, union, 1)


def check_boxes(boxes: Tensor, name: str = "boxes") -> None:
    """Raise a ValueError unless `boxes` is a finite (N, 4) tensor of floats with min ≤ max.

    The message names the first offending row and its values.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} must have shape (N, 4), not {tuple(boxes.shape)}")
    if not boxes.is_floating_point():
        raise ValueError(f"{name} must be floats (xyxy fractions), not {boxes.dtype}")
    bad = ~boxes.isfinite().all(dim=1) | (boxes[:, :2] > boxes[:, 2:]).any(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{name}[{row}] = {boxes[row].tolist()} must be finite xyxy, "
            "with xmin <= xmax and ymin <= ymax"
        )
