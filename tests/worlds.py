"""Detections and targets, placed by hand or drawn at random, for tests of evaluate and mistakes."""

import numpy as np
import torch
from hypothesis import strategies as st

from ssd_annotated.nms import Detections

CELL = torch.tensor([0.0, 0.0, 0.1, 0.1])


def place(*columns, row=0):
    """Boxes of side 0.1 that never overlap: one per column of a 10 x 10 grid."""
    offset = torch.tensor([[c / 10, row / 10, c / 10, row / 10] for c in columns])
    return CELL + offset.reshape(-1, 4)


def found(boxes, scores, labels=None):
    labels = torch.ones(len(boxes)) if labels is None else torch.tensor(labels)
    return Detections(boxes, torch.tensor(scores, dtype=torch.float32), labels.long())


def truth(boxes, labels=None, difficult=None):
    labels = torch.ones(len(boxes)) if labels is None else torch.tensor(labels)
    target = {"boxes": boxes, "labels": labels.long()}
    if difficult is not None:
        target["difficult"] = torch.tensor(difficult, dtype=torch.bool)
    return target


NOTHING = found(torch.zeros(0, 4), [])
EMPTY = truth(torch.zeros(0, 4))


@st.composite
def worlds(draw, max_images=4, num_classes=3, disjoint=False):
    """Detections near their objects, with duplicates, strays, wrong labels and distinct scores."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random_world(rng, draw(st.integers(1, max_images)), num_classes, disjoint)


def random_world(rng, num_images, num_classes, disjoint=False, difficult=0.2):
    detections, targets = [], []
    for _ in range(num_images):
        cells = rng.permutation(16)[: rng.integers(0, 6)]
        corner = np.stack([cells % 4, cells // 4], axis=1) / 4
        low, high = rng.uniform(0, 0.1, (2, len(cells), 2))
        # Inside its quarter of the grid, an object is disjoint from the others.
        reach = 0 if disjoint else rng.uniform(0, 0.3)
        boxes = np.concatenate([corner + low, corner + 0.25 - high + reach], axis=1)
        labels = rng.integers(1, num_classes, len(cells))
        targets.append(
            truth(torch.tensor(boxes).float(), labels, rng.random(len(cells)) < difficult)
        )
        aim = rng.integers(0, len(cells), rng.integers(0, 8)) if len(cells) else np.zeros(0, int)
        near = boxes[aim] + rng.uniform(-0.03, 0.03, (len(aim), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
        stray = np.sort(rng.random((rng.integers(0, 3), 2, 2)), axis=1).reshape(-1, 4)
        guess = np.where(rng.random(len(aim)) < 0.8, labels[aim], 1)
        guess = np.concatenate([guess, rng.integers(1, num_classes, len(stray))])
        boxes = torch.tensor(np.concatenate([near, stray])).float()
        detections.append(found(boxes, rng.random(len(boxes)), guess))
    return detections, targets
