"""The settings of a training, and what follows from them: the learning rate and the optimizer."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args, get_origin, get_type_hints

import torch
from torch import nn

from ssd_annotated.support.checks import (
    check_at_least,
    check_choice,
    check_non_negative,
    check_seed,
    check_within,
)
from ssd_annotated.support.storage import plain


@dataclass(frozen=True)
class Settings:
    """The settings of a training; the defaults are the paper's, for PASCAL VOC on one GPU.

    Parameters
    ----------
    steps, batch_size
        How many batches, and how many images in each. Several processes share a batch.
    optimizer, lr, weight_decay
        ``"sgd"`` has a momentum of 0.9. `lr` is the peak of the schedule.
    schedule
        ``"steps"`` divides the rate by ten at each of the `milestones`, which are fractions of the
        steps: at 80k and 100k of 120k. ``"onecycle"`` rises for a tenth of the steps and falls for
        the rest, both along half a cosine.
    warmup
        Steps in which the rate rises from a third to its full value; at most a tenth of all steps.
        (The paper has no warm-up. It tames the first, wildest steps of a run with large batches.)
    bias_lr_factor, bias_weight_decay
        In the authors' Caffe code biases learn twice as fast, and do not decay.
    clip_norm
        Largest norm of the whole gradient; None for no limit.
    precision
        Precision of the network; weights and loss stay in single precision. ``"float16"`` scales
        the loss so that small gradients do not vanish; ``"bfloat16"`` does not need that.
    freeze_batch_norm
        Use the stored statistics of batch normalisation, and do not update them.
    freeze
        ``"trunk"`` leaves the trunk as it is, statistics included: only the rest learns.
    compile
        Compile the network with `torch.compile`: it starts more slowly and trains faster.
    workers
        Processes that prepare images; with 0 the main process prepares them.
    seed
        Seed of the images' order. (To fix the model's weights, seed torch before building it.)

    Raises
    ------
    ValueError
        If a number is outside its limits, or a choice is unknown.
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
    freeze: Literal["none", "trunk"] = "none"
    compile: bool = False
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):  # a safe load would refuse a checkpoint with NumPy's numbers
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        milestones = tuple(float(milestone) for milestone in self.milestones)
        object.__setattr__(self, "milestones", milestones)
        self._check()

    def _check(self) -> None:
        for name, kind in get_type_hints(Settings).items():
            if get_origin(kind) is Literal:
                check_choice(name, getattr(self, name), get_args(kind))
        for name, least in {"steps": 1, "batch_size": 1, "warmup": 0, "workers": 0}.items():
            check_at_least(name, getattr(self, name), least)
        check_seed(self.seed)
        for name in ("lr", "weight_decay", "bias_lr_factor", "bias_weight_decay"):
            check_non_negative(name, getattr(self, name))
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, or None, not {self.clip_norm}")
        for milestone in self.milestones:
            check_within("milestones (fractions of the steps)", milestone, 0, 1)


#: Settings of the chapters' short runs, which train a network with batch normalisation in minutes.
QUICK = Settings(
    steps=1000,
    optimizer="adamw",
    lr=4e-3,
    schedule="onecycle",
    warmup=0,
    bias_lr_factor=1.0,
    bias_weight_decay=5e-4,
)

#: The same, twice as long, in smaller batches, for small objects. On the command line they come
#: with the augmentation ``gentle`` and with fitted priors, and these matter more.
SMALL = replace(QUICK, steps=2000, batch_size=16)


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
        start, end, way = 1 / 25, 1, step / top
    else:
        start, end, way = 1, 4e-6, (step - top) / max(steps - 1 - top, 1)
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """An optimizer with two groups: biases, which have settings of their own, and the rest."""
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
        return torch.optim.AdamW(groups, settings.lr, fused=True)
    optimizer = torch.optim.SGD(groups, settings.lr, momentum=0.9, fused=True)
    for parameter in model.parameters():
        # Else a first step that is skipped leaves whatever the memory held (torch 2.15).
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
