"""Training: show the network a batch, measure the loss, step downhill, again."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ssd_annotated.loss import LossParts, MultiBoxLoss
from ssd_annotated.model import SSD
from ssd_annotated.transforms import collate


def train(
    model: SSD,
    dataset: Dataset,
    steps: int,
    batch_size: int = 32,
    lr: float = 4e-3,
    optimizer: Literal["adamw", "sgd"] = "adamw",
    schedule: Literal["onecycle", "steps"] = "onecycle",
    weight_decay: float = 5e-4,
    loss: MultiBoxLoss | None = None,
    seed: int = 0,
    progress: bool = True,
    on_step: Callable[[int, SSD], None] | None = None,
) -> list[dict[str, int | float]]:
    """Minimise the multibox loss of `model` on `dataset`, on the model's device, in its precision.

    Parameters
    ----------
    dataset
        Items are (uint8 RGB image, target), as `GraffitiDigits` gives them.
    steps, batch_size
        How many batches, of how many images.
    lr, optimizer, weight_decay
        ``"sgd"`` has a momentum of 0.9. `lr` is the schedule's peak.
    schedule
        ``"onecycle"`` rises for a tenth of the steps and falls for the rest; ``"steps"`` divides
        the rate by ten after 2/3 and 5/6 of them, like Caffe's 80k and 100k of 120k.
    loss
        By default the paper's, for the model's priors and variances.
    seed
        Of the order of the images. (Seed torch before building the model to fix its weights.)
    on_step
        Called as ``on_step(step, model)`` after each step, to look at the model as it learns.

    Returns
    -------
    One record a step: step, localization, confidence, lr, images_per_second.

    Raises
    ------
    ValueError
        If the data set is empty, a count is below 1, or a choice is unknown.
    FloatingPointError
        If the loss is no longer finite, naming the step and both parts.
    """
    _check_counts({"len(dataset)": len(dataset), "steps": steps, "batch_size": batch_size})
    # Channels-last lays a pixel's channels side by side: the same numbers, faster convolutions.
    model.train().to(memory_format=torch.channels_last)
    loss = loss or MultiBoxLoss(model.priors, variances=model.recipe.variances)
    descent = _optimizer(model, optimizer, lr, weight_decay)
    scheduler = _scheduler(descent, schedule, lr, steps)
    batches = _batches(dataset, model, batch_size, seed)
    history: list[dict[str, int | float]] = []
    bar = tqdm(range(steps), disable=not progress, unit="step")
    for step in bar:
        started = time.perf_counter()
        images, targets = next(batches)
        parts = loss(model(images), targets)
        _check_finite(step, parts)
        descent.zero_grad()
        parts.total.backward()
        descent.step()
        record = {
            "step": step,
            "localization": parts.localization.item(),
            "confidence": parts.confidence.item(),
            "lr": scheduler.get_last_lr()[0],
            "images_per_second": len(images) / (time.perf_counter() - started),
        }
        history.append(record)
        bar.set_postfix_str(_summary(record), refresh=False)
        scheduler.step()
        if on_step is not None:
            on_step(step, model)
    return history


def _check_counts(counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")


def _summary(record: dict[str, int | float]) -> str:
    return (
        f"localization {record['localization']:.2f}, confidence {record['confidence']:.2f}, "
        f"{record['images_per_second']:.0f} images/s"
    )


def _optimizer(model: SSD, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    raise ValueError(f"optimizer must be 'adamw' or 'sgd', not {name!r}")


def _scheduler(
    optimizer: torch.optim.Optimizer, name: str, lr: float, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if name == "onecycle":
        # The way up takes two steps at least, or its slope would be a division by zero.
        cycle = max(steps, 3)
        rise = max(0.1, 2 / cycle)
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=cycle, pct_start=rise)
    if name == "steps":
        milestones = [steps * 2 // 3, steps * 5 // 6]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    raise ValueError(f"schedule must be 'onecycle' or 'steps', not {name!r}")


def _batches(
    dataset: Dataset, model: SSD, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
    """Batches without end, where the model is: all images once, then again in a new order."""
    loader = DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=len(dataset) >= batch_size,
        collate_fn=partial(collate, recipe=model.recipe),
        generator=torch.Generator().manual_seed(seed),
    )
    while True:
        for images, targets in loader:
            images = images.to(model.priors).to(memory_format=torch.channels_last)
            yield (
                images,
                [{k: t[k].to(images.device) for k in ("boxes", "labels")} for t in targets],
            )


def _check_finite(step: int, parts: LossParts) -> None:
    if not torch.isfinite(parts.total):
        raise FloatingPointError(
            f"the loss is no longer finite at step {step}: localization "
            f"{parts.localization.item()}, confidence {parts.confidence.item()}"
        )
