"""Training: show the network a batch, measure the loss, step downhill, again."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import count, islice
from multiprocessing import parent_process
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ssd_annotated import distributed
from ssd_annotated.augment import Augmented
from ssd_annotated.loss import LossParts, MultiBoxLoss
from ssd_annotated.model import SSD, Recipe
from ssd_annotated.transforms import collate

Record = dict[str, int | float]


@dataclass(frozen=True)
class Settings:
    """The numbers of a training; the defaults are the paper's, for PASCAL VOC on one GPU.

    Parameters
    ----------
    steps, batch_size
        How many batches, of how many images. Several processes share a batch.
    optimizer, lr, weight_decay
        ``"sgd"`` has a momentum of 0.9. `lr` is the peak of the schedule.
    schedule
        ``"steps"`` divides the rate by ten at each of the `milestones`, which are fractions of the
        steps: at 80k and 100k of 120k. ``"onecycle"`` rises for a tenth of the steps and falls for
        the rest, both along half a cosine.
    warmup
        Over so many steps, but a tenth of all at most, the rate rises from a third to its value.
        (The paper has none; it spares a run with large batches its first, wildest steps.)
    bias_lr_factor, bias_weight_decay
        Biases learn twice as fast in the authors' Caffe code, and do not decay.
    clip_norm
        The largest norm of the whole gradient; None for any.
    precision
        Of the network; weights and loss stay in single precision. ``"float16"`` scales the loss
        so that small gradients do not vanish, ``"bfloat16"`` need not.
    freeze_batch_norm
        Use the statistics that batch normalisation has, and leave them as they are.
    compile
        Compile the network with `torch.compile`: a slower start, faster steps.
    workers
        Processes that prepare images; 0 leaves that to this one.
    seed
        Of the order of the images. (Seed torch before building the model to fix its weights.)

    Raises
    ------
    ValueError
        If a number is outside its limits, or a choice unknown.
    """

    steps: int = 120_000
    batch_size: int = 32
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 1e-3
    weight_decay: float = 5e-4
    schedule: Literal["steps", "onecycle"] = "steps"
    milestones: tuple[float, ...] = (2 / 3, 5 / 6)
    warmup: int = 500
    bias_lr_factor: float = 2.0
    bias_weight_decay: float = 0.0
    clip_norm: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    freeze_batch_norm: bool = False
    compile: bool = False
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            # NumPy's numbers would make a checkpoint that no safe load reads.
            value = getattr(self, field.name)
            if isinstance(value, np.generic):
                object.__setattr__(self, field.name, value.item())
        milestones = tuple(float(milestone) for milestone in self.milestones)
        object.__setattr__(self, "milestones", milestones)
        self._check()

    def _check(self) -> None:
        choices = {
            "optimizer": ("sgd", "adamw"),
            "schedule": ("steps", "onecycle"),
            "precision": ("float32", "bfloat16", "float16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}")
        least = {"steps": 1, "batch_size": 1, "warmup": 0, "workers": 0, "seed": 0}
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, not {getattr(self, name)}")
        for name in ("lr", "weight_decay", "bias_lr_factor", "bias_weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, or None, not {self.clip_norm}")
        for milestone in self.milestones:
            if not 0 <= milestone <= 1:
                raise ValueError(f"milestones must be fractions of the steps, not {milestone}")


#: What trains a network with batch normalisation in minutes: the chapters' short runs.
QUICK = Settings(
    steps=1000,
    optimizer="adamw",
    lr=4e-3,
    schedule="onecycle",
    warmup=0,
    bias_lr_factor=1.0,
    bias_weight_decay=5e-4,
)


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite; carries the `images` and `targets` of the batch that did it."""

    def __init__(self, message: str, images: Tensor, targets: list[dict[str, Tensor]]) -> None:
        super().__init__(message)
        self.images, self.targets = images, targets


def train(
    model: SSD,
    dataset: Dataset,
    settings: Settings = QUICK,
    *,
    loss: MultiBoxLoss | None = None,
    progress: bool = True,
    on_step: Callable[[int, SSD], None] | None = None,
    **changes: object,
) -> list[Record]:
    """Minimise the multibox loss of `model` on `dataset`, in memory, from first step to last.

    Parameters
    ----------
    dataset, settings, loss
        See `Trainer`.
    progress
        Whether to show a bar.
    on_step
        Called as ``on_step(step, model)`` after each step, to look at the model as it learns.
    changes
        Settings to change: ``train(model, scenes, steps=100, batch_size=10)``.

    Returns
    -------
    One record a step, as `Trainer.step` gives it. (`run` keeps records and weights in a folder.)
    """
    trainer = Trainer(model, dataset, replace(settings, **changes), loss)
    history = []
    bar = tqdm(range(trainer.settings.steps), disable=not progress, unit="step")
    for step in bar:
        history.append(trainer.step())
        bar.set_postfix_str(summary(history[-1]), refresh=False)
        if on_step is not None:
            on_step(step, model)
    return history


def summary(record: Record) -> str:
    """What a progress bar says beside the step and the time left."""
    return (
        f"localization {record['localization']:.2f}, confidence {record['confidence']:.2f}, "
        f"lr {record['lr']:.1e}, {record['images_per_second']:.0f} images/s"
    )


class Trainer:
    """A model, its data and its optimizer, between two steps.

    Parameters
    ----------
    model
        Trained on the device where it is, in place.
    dataset
        Items are (uint8 RGB image, target), as `GraffitiDigits` and `VOCFolder` give them. Wrap it
        in `Augmented`, outermost, to see every epoch anew.
    settings
        The paper's, if not given.
    loss
        By default the paper's, for the model's priors and variances.

    Attributes
    ----------
    next_step
        The number of the next step, from 0.

    Raises
    ------
    ValueError
        If the data set is empty, or the processes cannot share a batch evenly.

    Notes
    -----
    What step s sees depends on the settings, the data and s alone, not on what was before: a run
    that goes on from a saved state is the run that was never interrupted.
    """

    def __init__(
        self,
        model: SSD,
        dataset: Dataset,
        settings: Settings | None = None,
        loss: MultiBoxLoss | None = None,
    ) -> None:
        self.model, self.dataset, self.settings = model, dataset, settings or Settings()
        if len(dataset) < 1:
            raise ValueError(f"len(dataset) must be at least 1, not {len(dataset)}")
        if self.settings.batch_size % distributed.world_size():
            raise ValueError(
                f"{distributed.world_size()} processes cannot share a batch_size of "
                f"{self.settings.batch_size} evenly"
            )
        loss = loss or MultiBoxLoss(model.priors, variances=model.recipe.variances)
        self.loss = loss.to(model.priors.device)
        # Channels-last lays a pixel's channels side by side: the same numbers, faster convolutions.
        model.to(memory_format=torch.channels_last)
        self.network = distributed.wrap(model)
        if self.settings.compile:
            self.network = torch.compile(self.network)
        self.optimizer = make_optimizer(model, self.settings)
        half = self.settings.precision == "float16"
        self.scaler = torch.amp.GradScaler(model.priors.device.type, enabled=half)
        self.next_step = 0
        self._batches: Iterator | None = None

    def step(self) -> Record:
        """Take one step down the gradient of one batch's loss.

        Returns
        -------
        step, localization, confidence, lr, images_per_second; losses before the step.

        Raises
        ------
        NonFiniteLossError
            If the loss is NaN or infinite, naming the step and both parts. The weights are as they
            were before the step.
        """
        started = time.perf_counter()
        images, targets = self._next_batch()
        lr = learning_rate(self.next_step, self.settings)
        self._set_mode(lr)
        with self._autocast():
            offsets, logits = self.network(images)
        priors = self.loss.priors  # of the precision that the loss is measured in
        parts = self.loss((offsets.to(priors), logits.to(priors)), targets)
        share = distributed.global_share(parts, self.loss.normalize)
        losses = self._finite_losses(parts, share, images, targets)
        self._descend(parts.total * share)
        seconds = time.perf_counter() - started
        record = {
            "step": self.next_step,
            **losses,
            "lr": lr,
            "images_per_second": self.settings.batch_size / seconds,
        }
        self.next_step += 1
        return record

    def state(self) -> dict[str, object]:
        """What must be kept, beside the weights, to go on as if nothing had happened."""
        return {
            "next_step": self.next_step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, object]) -> None:
        """Go on where `state` was taken; the model must have the weights of that moment."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.next_step, self._batches = state["next_step"], None

    def _next_batch(self) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """The batch of the next step, where the model is."""
        if self._batches is None:
            self._batches = iter(
                make_loader(self.dataset, self.model, self.settings, self.next_step)
            )
        images, targets = next(self._batches)
        priors = self.model.priors
        images = images.to(priors, non_blocking=True).to(memory_format=torch.channels_last)
        on_device = [
            {name: torch.from_numpy(array).to(priors.device) for name, array in target.items()}
            for target in targets
        ]
        return images, on_device

    def _set_mode(self, lr: float) -> None:
        """Train mode, whatever somebody who looked at the model left it in; and the rates."""
        self.model.train()
        if self.settings.freeze_batch_norm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]

    def _autocast(self) -> torch.autocast:
        precision = self.settings.precision
        kind = self.model.priors.device.type
        dtype = torch.float16 if precision == "float16" else torch.bfloat16
        return torch.autocast(kind, dtype, enabled=precision != "float32")

    def _finite_losses(
        self, parts: LossParts, share: Tensor, images: Tensor, targets: list[dict[str, Tensor]]
    ) -> dict[str, float]:
        """The whole batch's losses; if they are no numbers, all processes find out at once."""
        own = torch.stack([parts.localization, parts.confidence]) * share
        # One copy from the device for both numbers: it makes the host wait for the device.
        localization, confidence = (distributed.total(own) / distributed.world_size()).tolist()
        if not math.isfinite(localization + confidence):
            raise NonFiniteLossError(
                f"the loss is no longer finite at step {self.next_step}: localization "
                f"{localization}, confidence {confidence}",
                images,
                targets,
            )
        return {"localization": localization, "confidence": confidence}

    def _descend(self, loss: Float[Tensor, ""]) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()


# --- The schedule and the optimizer ---------------------------------------------------------------


def learning_rate(step: int, settings: Settings) -> float:
    """η(step): the schedule times the warm-up."""
    warmup = min(settings.warmup, settings.steps // 10)
    ramp = 1 / 3 + 2 / 3 * step / warmup if step < warmup else 1
    if settings.schedule == "onecycle":
        return settings.lr * ramp * _one_cycle(step, settings.steps)
    passed = sum(step >= round(m * settings.steps) for m in settings.milestones)
    return settings.lr * ramp * 0.1**passed


def _one_cycle(step: int, steps: int) -> float:
    """Up half a cosine from 1/25 to 1 in a tenth of the steps, down another one to 1/250,000."""
    top = max(0.1 * steps - 1, 1)
    if step <= top:
        return _half_cosine(1 / 25, 1, step / top)
    return _half_cosine(1, 4e-6, (step - top) / max(steps - 1 - top, 1))


def _half_cosine(start: float, end: float, way: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Two groups of parameters: biases, which may learn and decay otherwise, and all others."""
    biases, others = [], []
    for name, parameter in model.named_parameters():
        (biases if name.endswith("bias") else others).append(parameter)
    groups = [
        {"params": others, "lr_factor": 1.0, "weight_decay": settings.weight_decay},
        {
            "params": biases,
            "lr_factor": settings.bias_lr_factor,
            "weight_decay": settings.bias_weight_decay,
        },
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, settings.lr)
    return torch.optim.SGD(groups, settings.lr, momentum=0.9)


# --- The batches ----------------------------------------------------------------------------------


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


def make_loader(dataset: Dataset, model: SSD, settings: Settings, first_step: int) -> DataLoader:
    """All batches from a step to the last: one loader, so that workers never wait for an epoch."""
    return DataLoader(
        _Keyed(dataset),
        batch_sampler=batch_keys(len(dataset), settings, first_step),
        num_workers=settings.workers,
        collate_fn=partial(_collate, recipe=model.recipe),
        pin_memory=model.priors.device.type == "cuda",
        worker_init_fn=start_worker,
    )


def _collate(
    samples: list[tuple[np.ndarray, dict[str, Tensor]]], recipe: Recipe
) -> tuple[Float[Tensor, "B 3 H W"], list[dict[str, np.ndarray]]]:
    """A batch, with what the loss wants of the targets as arrays.

    Each tensor that a worker sends is an open file, and 1024 of those are often all there may be.
    """
    images, targets = collate(samples, recipe)
    return images, [{name: t[name].numpy() for name in ("boxes", "labels")} for t in targets]


def start_worker(_number: int) -> None:
    """A worker is one thread, OpenCV's included, and stops when the trainer stops, not before.

    Whoever stops a program may well signal its workers too: these obey the trainer alone.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS and Windows do not tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_obey_the_trainer, daemon=True).start()


def _obey_the_trainer() -> None:
    """End this process at once when its parent says so, as Python does when it exits."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent_process().pid:
        pass
    os._exit(0)
