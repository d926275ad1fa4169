"""Batches: which images each step sees, and the workers that prepare them."""

import copy
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from multiprocessing import get_start_method, parent_process, resource_tracker

import cv2
import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssd_annotated.data.augment import Augmented
from ssd_annotated.loss import MultiBoxLoss, Positives
from ssd_annotated.model import SSD, Recipe
from ssd_annotated.training import distributed
from ssd_annotated.training.settings import Settings
from ssd_annotated.transforms import collate


def order(length: int, seed: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """(index, epoch) of the images from number `start` on, in a stream of epochs without end.

    Each epoch holds every index once, in an order that depends on the seed and the epoch alone.
    """
    first, skipped = divmod(start, length)
    for epoch in count(first):
        shuffled = np.random.default_rng((seed, epoch)).permutation(length).tolist()
        for index in shuffled[skipped:]:
            yield index, epoch
        skipped = 0


def batch_keys(length: int, settings: Settings, first_step: int) -> Iterator[list[tuple[int, int]]]:
    """The (index, epoch) of this process's images, batch by batch, from a step to the last."""
    stream = order(length, settings.seed, first_step * settings.batch_size)
    own = settings.batch_size // distributed.world_size()
    mine = slice(distributed.rank() * own, (distributed.rank() + 1) * own)
    for _ in range(first_step, settings.steps):
        yield list(islice(stream, settings.batch_size))[mine]


class _Keyed(Dataset):
    """A data set asked by (index, epoch), whether it knows of epochs or not."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, dict[str, Tensor]]:
        return self.dataset[key if isinstance(self.dataset, Augmented) else key[0]]


def make_loader(
    dataset: Dataset, model: SSD, loss: MultiBoxLoss, settings: Settings, first_step: int
) -> DataLoader:
    """All batches from a step to the last: one loader, so that workers never wait for an epoch.

    A batch is its images, its targets as arrays, and the `Positives` that the loss makes of them.
    """
    on_cpu = copy.deepcopy(loss).cpu()
    find = partial(on_cpu.find_positives, num_classes=model.spec.num_classes)
    return DataLoader(
        _Keyed(dataset),
        batch_sampler=batch_keys(len(dataset), settings, first_step),
        num_workers=settings.workers,
        collate_fn=partial(_collate, recipe=model.recipe, find_positives=find),
        pin_memory=model.priors.device.type == "cuda",
        worker_init_fn=start_worker,
    )


def start(loader: DataLoader) -> Iterator[list]:
    """The loader's batches, from workers that no Ctrl-C reaches while they are starting.

    A signal that is blocked here is blocked in them, too; this process hears it a moment later.
    """
    if not loader.num_workers or not hasattr(signal, "pthread_sigmask"):
        return iter(loader)
    resource_tracker.ensure_running()  # when it starts, it lets SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop(batches: Iterator | None) -> None:
    """End the workers behind these batches, if there are any, even those still starting.

    Left to Python's exit, PyTorch would take the end of a starting worker for a failure.
    """
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()


def _collate(
    samples: list[tuple[np.ndarray, dict[str, Tensor]]],
    recipe: Recipe,
    find_positives: Callable[[list[dict[str, Tensor]]], Positives],
) -> tuple[Float[Tensor, "B 3 H W"], list[dict[str, np.ndarray]], Positives]:
    """A batch, matched where it is made. If its loss breaks, its targets are stored with it.

    They are arrays: each tensor that a worker sends is an open file, and 1024 may be all there are.
    """
    images, targets = collate(samples, recipe)
    arrays = [{name: t[name].numpy() for name in ("boxes", "labels")} for t in targets]
    return images, arrays, find_positives(targets)


def start_worker(_number: int) -> None:
    """A worker is one thread, OpenCV's included, and stops when the trainer stops, not before.

    A signal that stops a program often reaches its workers too: they obey the trainer alone.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS and Windows do not tell who sent a signal
        # Before any thread starts: one that does not block it, too, would let it end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_obey_the_trainer, daemon=True).start()
    threading.Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_with_the_trainer() -> None:
    """End this process when its parent is dead, even if that died while this one was starting.

    PyTorch looks for a change of parents, and would see none.
    """
    trainer = parent_process()
    if get_start_method() == "fork":  # then Python 3.11 waits for this process itself
        while os.getppid() == trainer.pid:
            time.sleep(1)
    else:
        trainer.join()
    os._exit(1)


def _obey_the_trainer() -> None:
    """End this process at once when its parent says so, as Python does when it exits."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent_process().pid:
        pass
    os._exit(0)
