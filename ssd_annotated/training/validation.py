"""Validation: detect on a whole data set, with several workers and processes, and evaluate."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from ssd_annotated.detection import detect
from ssd_annotated.evaluation.voc import Evaluation, evaluate
from ssd_annotated.model import SSD
from ssd_annotated.nms import Detections
from ssd_annotated.training import distributed
from ssd_annotated.training.batches import start, start_worker, stop


def detect_all(
    model: SSD, dataset: Dataset, batch_size: int = 32, workers: int = 0, progress: bool = False
) -> tuple[list[Detections], list[dict[str, Tensor]]]:
    """Detections and targets of every image of a data set; several processes share the work.

    With `progress` a bar counts the batches, on stderr.

    Returns
    -------
    Both lists in the data set's order, on the CPU, in every process: what `evaluate` takes.
    """
    detections: list[Detections] = []
    targets: list[dict[str, Tensor]] = []
    mine = Subset(dataset, distributed.own_part(len(dataset)))
    loader = DataLoader(
        mine, batch_size, collate_fn=_pack, num_workers=workers, worker_init_fn=start_worker
    )
    silent = not progress or distributed.rank() > 0
    batches = start(loader)
    try:
        for samples in tqdm(batches, total=len(loader), unit="batch", disable=silent):
            images, truth = zip(*samples)
            found = detect(model, list(images), batch_size)
            detections += [Detections(*(field.cpu() for field in image)) for image in found]
            targets += [_convert(target, np.ndarray, torch.from_numpy) for target in truth]
    finally:
        stop(batches)
    whole = len(dataset)
    return distributed.gather(detections, whole), distributed.gather(targets, whole)


def _pack(samples: list[tuple[np.ndarray, dict]]) -> list[tuple[np.ndarray, dict]]:
    """Send targets as arrays: each tensor from a worker would keep a file open while it lives.

    For the test set of VOC 2007 there would be 20,000.
    """
    return [(image, _convert(target, Tensor, Tensor.numpy)) for image, target in samples]


def _convert(target: dict[str, object], kind: type, change: Callable) -> dict[str, object]:
    """Change what is of a kind. (torch's `default_convert` would use torch's default device.)"""
    return {name: change(x) if isinstance(x, kind) else x for name, x in target.items()}


def validate(model: SSD, dataset: Dataset, batch_size: int = 32, workers: int = 0) -> Evaluation:
    """Detect on a whole data set and evaluate: mAP@0.5, by area."""
    detections, targets = detect_all(model, dataset, batch_size, workers)
    return evaluate(detections, targets, model.spec.num_classes)
