"""Parity: whether two detectors found the same in three photographs."""

import torch
from skimage import data

PHOTOGRAPHS = [data.astronaut(), data.chelsea(), data.coffee()]  # 512², 300 × 451, 400 × 600


def assert_same_detections(found, expected, width: int, height: int):
    """Same labels, scores within 1e-5, boxes within 0.01 pixels; in any order where scores tie."""
    assert len(found.scores) == len(expected["scores"]) > 0
    boxes = found.boxes * torch.tensor([width, height, width, height])
    left = list(range(len(boxes)))
    for k in range(len(boxes)):
        twins = [
            j
            for j in left
            if found.labels[k] == expected["labels"][j]
            and abs(found.scores[k] - expected["scores"][j]) <= 1e-5
            and (boxes[k] - expected["boxes"][j]).abs().max() <= 0.01
        ]
        assert twins, f"detection {k} has no counterpart"
        assert abs(twins[0] - k) <= 2 or abs(found.scores[k] - found.scores[twins[0]]) <= 2e-5
        left.remove(twins[0])


def in_the_image(found, most=200):
    """Without those of which clipping leaves nothing: torchvision reports, and counts, them too."""
    meets = (found["boxes"][:, :2] < found["boxes"][:, 2:]).all(dim=1)
    return {name: values[meets][:most] for name, values in found.items()}
