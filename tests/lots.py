"""Images of noise, targets and plans drawn for them, for the tests of augment and of warp."""

import numpy as np
import torch

from ssd_annotated.data.augment import AUGMENTATIONS, sample

CAFFE = AUGMENTATIONS["caffe"]
STILL = AUGMENTATIONS["none"]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def objects(rng, count, dtype=torch.float64):
    """A target of random boxes; `number` identifies the objects."""
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
    return {
        "boxes": torch.from_numpy(corners).to(dtype),
        "labels": torch.from_numpy(rng.integers(1, 21, count)),
        "difficult": torch.from_numpy(rng.random(count) < 0.3),
        "number": torch.arange(count),
    }


def many_cases(count, augmentation=CAFFE, dtype=torch.float64):
    """Images of noise, targets and plans."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        height, width = rng.integers(20, 90, 2).tolist()
        target = objects(rng, rng.integers(0, 6), dtype)
        side = int(rng.integers(16, 80))
        plan = sample(rng, augmentation, (width, height), target["boxes"], side)
        yield noise(height, width, seed), target, plan
