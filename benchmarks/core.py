"""Priors, matching, targets and loss, beside torchvision's.

*Floor* is cross entropy and smooth L1 of every row, nothing mined, for targets that are there
already: once as most code writes it (logits transposed), once flattened.
"""

from functools import partial
from types import SimpleNamespace

import torch
from timing import Goal, Row, Ways
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from ssd_annotated.boxes import cxcywh_to_xyxy
from ssd_annotated.loss import MultiBoxLoss, assign_positives, assign_targets
from ssd_annotated.matching import match_priors
from ssd_annotated.priors import PRESETS, make_priors

CLASSES = 21
SPEC = PRESETS["caffe-voc"]
PRIORS = make_priors(SPEC)
CORNERS = cxcywh_to_xyxy(PRIORS)
MATCHER, CODER = SSDMatcher(0.5), BoxCoder((10.0, 10.0, 5.0, 5.0))


def scenes(
    objects: int, images: int, seed: int = 0, classes: int = CLASSES
) -> list[dict[str, Tensor]]:
    """Targets with boxes of 4% to 90% of the image's side, anywhere, cut off at its border."""
    draw = torch.Generator().manual_seed(seed)
    targets = []
    for _ in range(images):
        random = torch.rand(objects, 4, generator=draw)
        size = 0.04 * (0.9 / 0.04) ** random[:, 2:]
        boxes = cxcywh_to_xyxy(torch.cat([random[:, :2], size], dim=1)).clamp(0, 1)
        labels = torch.randint(1, classes, (objects,), generator=draw)
        targets.append({"boxes": boxes, "labels": labels})
    return targets


def priors() -> Ways:
    sizes = [size / 300 for size in (30, 60, 111, 162, 213, 264, 315)]
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    generator = DefaultBoxGenerator(ratios, scales=sizes, steps=[8, 16, 32, 64, 100, 300])
    maps = [torch.zeros(1, 1, side, side) for side in SPEC.feature_maps]
    images = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    return {"ours": lambda: make_priors(SPEC), "torchvision": lambda: generator(images, maps)}


def torchvision_targets(targets: list[dict[str, Tensor]]) -> list[Tensor]:
    """The encoded boxes of the positives."""
    encoded = []
    for target in targets:
        matches = MATCHER(box_iou(target["boxes"], CORNERS))
        positive = matches >= 0
        boxes = target["boxes"][matches[positive]]
        encoded.append(CODER.encode_single(boxes, CORNERS[positive]))
    return encoded


def match_and_encode(objects: int, images: int = 32) -> Ways:
    targets = scenes(objects, images)
    return {
        "ours": lambda: assign_positives(PRIORS, targets),
        "torchvision": lambda: torchvision_targets(targets),
    }


def match(objects: int, order: Tensor | None = None) -> Ways:
    """One image; priors in another order stand on no grid, and every pair is looked at."""
    (target,) = scenes(objects, 1)
    rows = PRIORS if order is None else PRIORS[order]
    corners = cxcywh_to_xyxy(rows)
    return {
        "ours": lambda: match_priors(rows, target["boxes"]),
        "torchvision": lambda: MATCHER(box_iou(target["boxes"], corners)),
    }


def targets_and_loss(objects: int = 5, images: int = 32, classes: int = CLASSES) -> Ways:
    targets = scenes(objects, images, classes=classes)
    draw = torch.Generator().manual_seed(0)
    offsets, logits = (
        torch.randn(images, len(PRIORS), n, generator=draw, requires_grad=True)
        for n in (4, classes)
    )
    multibox = MultiBoxLoss(PRIORS)
    ready = multibox.find_positives(targets, classes)
    true_offsets, labels = assign_targets(PRIORS, targets)
    theirs = SimpleNamespace(box_coder=CODER, neg_to_pos_ratio=3)

    def backward(loss: Tensor) -> None:
        offsets.grad = logits.grad = None
        loss.backward()

    def torchvision() -> None:
        matches = [MATCHER(box_iou(target["boxes"], CORNERS)) for target in targets]
        outputs = {"bbox_regression": offsets, "cls_logits": logits}
        backward(
            sum(SSD.compute_loss(theirs, targets, outputs, [CORNERS] * images, matches).values())
        )

    def floor(transposed: bool) -> None:
        pair = (
            (logits.transpose(1, 2), labels)
            if transposed
            else (logits.flatten(0, 1), labels.flatten())
        )
        located = smooth_l1_loss(offsets, true_offsets, reduction="sum")
        backward(cross_entropy(*pair, reduction="sum") + located)

    return {
        "ours": lambda: backward(multibox((offsets, logits), targets).total),
        "torchvision": torchvision,
        "floor": lambda: floor(transposed=True),
        "floor, flattened": lambda: floor(transposed=False),
        "log softmax alone": lambda: logits.detach().log_softmax(dim=2),
        "ours, targets from a worker": lambda: backward(multibox((offsets, logits), ready).total),
    }


def shuffled() -> Tensor:
    return torch.randperm(len(PRIORS), generator=torch.Generator().manual_seed(0))


LOSS_GOALS = (Goal("torchvision", 4), Goal("floor", 1 / 0.6))
ROWS = {
    "8732 priors": Row(priors, (Goal("torchvision", 3),)),
    "matching and encoding, 32 images of 5 objects": Row(
        partial(match_and_encode, 5), (Goal("torchvision", 8),), images=32
    ),
    "matching and encoding, 32 images of 50 objects": Row(
        partial(match_and_encode, 50), (Goal("torchvision", 8),), images=32
    ),
    "matching, 1000 objects in an image": Row(partial(match, 1000), (Goal("torchvision", 8),)),
    "matching, 50 objects, priors on no grid": Row(lambda: match(50, shuffled())),
    "targets and loss, forward and backward, 32 images": Row(
        targets_and_loss, LOSS_GOALS, seconds=8, images=32
    ),
    "targets and loss, two threads": Row(
        targets_and_loss, LOSS_GOALS, threads=2, seconds=8, images=32
    ),
}
