"""The smallest data set that a network can learn, and the smallest network, for training tests."""

import numpy as np
import torch
from torch.utils.data import Dataset

from ssd_annotated.model import tiny_ssd

COLOURS = {1: (220, 40, 40), 2: (40, 60, 220)}


class Squares(Dataset):
    """Images of 64 × 64 grey pixels, each with one coloured square; records which were asked for.

    With `objects` false there is none, or it holds the numbers of the images that have one.
    """

    def __init__(self, count=2, objects=True):
        self.count, self.objects, self.asked = count, objects, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.asked.append(index)
        image = np.full((64, 64, 3), 120, dtype=np.uint8)
        label, left, top = 1 + index % 2, 8 + 20 * (index % 2), 10 + 3 * (index % 8)
        image[top : top + 24, left : left + 24] = COLOURS[label]
        box = torch.tensor([[left, top, left + 24, top + 24]]) / 64
        there = index in self.objects if isinstance(self.objects, tuple) else self.objects
        keep = slice(0, int(there))
        return image, {"boxes": box[keep], "labels": torch.tensor([label])[keep]}


class Trap(Squares):
    """Squares that call a function before they return item number `at`, counted from 0."""

    def __init__(self, count, at, action):
        super().__init__(count)
        self.at, self.action = at, action

    def __getitem__(self, index):
        if len(self.asked) == self.at:
            self.action()
        return super().__getitem__(index)


def small(seed=0, widths=(8,) * 6):
    torch.manual_seed(seed)
    return tiny_ssd(num_classes=3, image_size=64, widths=widths)
