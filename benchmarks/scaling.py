"""How times grow: with objects, classes, detections, the photograph's size, and workers."""

import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import cv2
import numpy as np
import torch
from core import match, scenes, targets_and_loss
from PIL import Image
from post import (
    CORNERS,
    RECIPE,
    augmentation,
    average_precision,
    photograph,
    postprocessing,
    torchvisions_augmentation,
)
from timing import Ways, take_turns
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from ssd_annotated.data.augment import AUGMENTATIONS, Augmented
from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.model import ssd300_vgg16
from ssd_annotated.training.batches import make_loader, start_worker
from ssd_annotated.training.settings import Settings


class Curve(NamedTuple):
    """What grows along x, and the milliseconds of each way at each x."""

    grows: str
    at: tuple[int, ...]
    ways: object
    seconds: float = 0.7
    rounds: int = 3
    of: object = min
    wall: bool = False

    def times(self) -> list[dict[str, float]]:
        clock = time.perf_counter if self.wall else time.process_time
        return [
            take_turns(self.ways(x), self.seconds, self.rounds, clock, self.of) for x in self.at
        ]


def postprocess_classes(classes: int) -> Ways:
    """Untrained scores of one image: all classes are alike."""
    draw = torch.Generator().manual_seed(0)
    offsets, logits = (0.1 * torch.randn(1, len(CORNERS), n, generator=draw) for n in (4, classes))
    return postprocessing((offsets, logits))


# --- Workers ----------------------------------------------------------------------------------


class Photographs(Dataset):
    """JPEG files as both packages read them: by OpenCV into arrays, by Pillow into pictures."""

    def __init__(self, folder: Path, count: int) -> None:
        self.files = [folder / f"{number}.jpg" for number in range(count)]
        for file in self.files:
            cv2.imwrite(str(file), photograph()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        self.targets = scenes(3, count)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict]:
        image = cv2.imdecode(np.fromfile(self.files[index], np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self.targets[index]


class AsTorchvision(Dataset):
    """The same files with torchvision's transforms."""

    def __init__(self, photographs: Photographs) -> None:
        self.photographs = photographs
        self.transform = torchvisions_augmentation(Image.Image)

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: int) -> tuple:
        target = self.photographs.targets[index]
        corners = target["boxes"] * torch.tensor([500, 375, 500, 375])
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(375, 500))
        image = Image.open(self.photographs.files[index]).convert("RGB")
        return self.transform(image, {"boxes": boxes, "labels": target["labels"]})


def as_lists(samples: list) -> tuple:
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), targets


FOLDER = tempfile.TemporaryDirectory()
BATCHES = 12


def loading(workers: int, batches: int = BATCHES, batch: int = 16) -> Ways:
    """A stretch of batches: ours matched as well, so that a step need not; torchvision's not."""
    photographs = Photographs(Path(FOLDER.name), 64)
    model = ssd300_vgg16(21)
    loss = MultiBoxLoss(model.priors)
    settings = Settings(steps=batches, batch_size=batch, workers=workers)
    augmented = Augmented(photographs, AUGMENTATIONS["caffe"], RECIPE.image_size)
    order = torch.arange(batches * batch) % len(photographs)

    def ours():
        for _ in make_loader(augmented, model, loss, settings, 0):
            pass

    def theirs():
        loader = DataLoader(
            AsTorchvision(photographs),
            batch,
            sampler=order.tolist(),
            num_workers=workers,
            collate_fn=as_lists,
            worker_init_fn=start_worker,
        )
        for _ in loader:
            pass

    return {"ours": ours, "torchvision v2, PIL": theirs}


CURVES = {
    "matching": Curve("objects in an image", (1, 3, 10, 30, 100, 300, 1000), match),
    "targets and loss": Curve(
        "classes",
        (2, 6, 21, 81, 301, 1001),
        lambda classes: targets_and_loss(images=1, classes=classes),
    ),
    "post-processing, untrained": Curve(
        "classes", (2, 6, 21, 81, 301, 1001), postprocess_classes, rounds=2
    ),
    "average precision, 100 images": Curve(
        "detections in an image",
        (20, 60, 200, 600, 2000),
        lambda count: average_precision(100, count),
        rounds=2,
    ),
    "augmentation": Curve(
        "width of the photograph", (250, 500, 1000, 2000), augmentation, 3, 30, fmean
    ),
    "loading": Curve("workers", (0, 1, 2), loading, 1, 2, fmean, wall=True),
}
