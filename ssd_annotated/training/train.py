"""Training: show the network a batch, measure the loss, step downhill, again."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ssd_annotated.loss import LossParts, MultiBoxLoss, Positives
from ssd_annotated.model import SSD
from ssd_annotated.support.checks import check_at_least
from ssd_annotated.training import distributed
from ssd_annotated.training.batches import make_loader, start, stop
from ssd_annotated.training.settings import QUICK, Settings, learning_rate, make_optimizer


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite; carries the `images` and `targets` of the batch that did it."""

    def __init__(self, message: str, images: Tensor, targets: list[dict[str, Tensor]]) -> None:
        super().__init__(message)
        self.images, self.targets = images, targets


class Record(Mapping):
    """What a step was like: step, localization, confidence, lr, images_per_second.

    The losses, measured before the step, stay on the device until they are asked for: to ask at
    once is to wait for the step. If they are not finite, asking raises a `NonFiniteLossError`.
    """

    def __init__(
        self, losses: Tensor, batch: tuple[Tensor, list[dict[str, np.ndarray]]], **known: float
    ) -> None:
        self._known, self._batch, self._ready = known, batch, None
        self.step = known["step"]
        self._losses = losses.to("cpu", non_blocking=True) if losses.is_cuda else losses
        if losses.is_cuda:
            self._ready = torch.cuda.Event()
            self._ready.record()

    def __getitem__(self, name: str) -> int | float:
        return self.read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.read())

    def __len__(self) -> int:
        return len(self.read())

    def read(self) -> dict[str, int | float]:
        """All of it; waits for the losses, the first time."""
        if self._losses is not None:
            if self._ready is not None:
                self._ready.synchronize()
            localization, confidence = self._losses.tolist()
            losses = {"localization": localization, "confidence": confidence}
            if not math.isfinite(localization + confidence):
                self._refuse(**losses)
            self._known = {"step": self._known["step"], **losses, **self._known}
            self._losses = self._batch = None
        return self._known

    def _refuse(self, localization: float, confidence: float) -> None:
        images, targets = self._batch
        raise NonFiniteLossError(
            f"the loss is no longer finite at step {self._known['step']}: localization "
            f"{localization}, confidence {confidence}",
            images,
            [{name: torch.from_numpy(array) for name, array in t.items()} for t in targets],
        )


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
    with closing(trainer):
        for step in bar:
            record = trainer.step()
            if history:  # of the step before: nobody waits for this one
                bar.set_postfix_str(summary(history[-1]), refresh=False)
            history.append(record)
            if on_step is not None:
                on_step(step, model)
        trainer.wait()
    return history


def summary(record: Record) -> str:
    """What a progress bar shows besides the step and the time left."""
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
    positives
        How many positives this process has learned from, by class.

    Raises
    ------
    ValueError
        If the data set is empty, or the processes cannot share a batch evenly.

    Notes
    -----
    What step s sees depends only on the settings, the data and s. A run that continues from a saved
    state is therefore the same as one that was never interrupted.
    """

    def __init__(
        self,
        model: SSD,
        dataset: Dataset,
        settings: Settings | None = None,
        loss: MultiBoxLoss | None = None,
    ) -> None:
        self.model, self.dataset, self.settings = model, dataset, settings or Settings()
        check_at_least("len(dataset)", len(dataset), 1)
        if self.settings.batch_size % distributed.world_size():
            raise ValueError(
                f"{distributed.world_size()} processes cannot share a batch_size of "
                f"{self.settings.batch_size} evenly"
            )
        loss = loss or MultiBoxLoss(model.priors, variances=model.recipe.variances)
        self.loss = loss.to(model.priors.device)
        if self.settings.freeze == "trunk":
            model.trunk.requires_grad_(False)
        # Channels-last lays a pixel's channels side by side: the same numbers, faster convolutions.
        model.to(memory_format=torch.channels_last)
        self.network = distributed.wrap(model)
        if self.settings.compile:
            self.network = torch.compile(self.network)
        self.optimizer = make_optimizer(model, self.settings)
        half = self.settings.precision == "float16"
        self.scaler = torch.amp.GradScaler(model.priors.device.type, enabled=half)
        self.next_step = 0
        self.positives = torch.zeros(model.spec.num_classes, dtype=torch.int64, device="cpu")
        self._batches: Iterator | None = None
        self._last: Record | None = None
        #: 1 from the first step on whose loss is not finite; on the device, so that no step waits.
        self._broken = torch.zeros((), dtype=torch.float32, device=model.priors.device)

    def step(self) -> Record:
        """Take one step down the gradient of one batch's loss, without waiting for it to be done.

        Raises
        ------
        NonFiniteLossError
            If the loss of the step *before* was NaN or infinite, naming that step and both parts.
            The weights and the number of the next step are as they were before it.
        """
        started = time.perf_counter()
        images, targets, positives = self._next_batch()
        lr = learning_rate(self.next_step, self.settings)
        self._set_mode(lr)
        with self._autocast():
            offsets, logits = self.network(images)
        priors = self.loss.priors  # of the precision that the loss is measured in
        parts = self.loss((offsets.to(priors), logits.to(priors)), positives)
        share = distributed.global_share(parts, self.loss.normalize)
        losses = self._losses(parts, share)
        self._descend(parts.total * share, losses)
        self.wait()
        seconds = time.perf_counter() - started
        speed = self.settings.batch_size / seconds
        self._last = Record(
            losses, (images, targets), step=self.next_step, lr=lr, images_per_second=speed
        )
        self.next_step += 1
        return self._last

    def wait(self) -> None:
        """Wait for the last step; raise `NonFiniteLossError` if its loss is NaN or infinite."""
        last, self._last = self._last, None
        if last is None:
            return
        try:
            last.read()
        except NonFiniteLossError:
            self.next_step = last.step
            self.close()
            self._broken.zero_()
            raise

    def close(self) -> None:
        """End the workers. (A further step would start new ones.)"""
        batches, self._batches = self._batches, None
        stop(batches)

    def state(self) -> dict[str, object]:
        """What must be kept, besides the weights, to continue as if nothing had happened."""
        return {
            "next_step": self.next_step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, object]) -> None:
        """Continue where `state` was taken; the model must have the weights of that moment."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.next_step, self._last = state["next_step"], None
        self.close()

    def _next_batch(self) -> tuple[Tensor, list[dict[str, np.ndarray]], Positives]:
        """The batch of the next step, its images and positives where the model is."""
        if self._batches is None:
            self._batches = start(
                make_loader(self.dataset, self.model, self.loss, self.settings, self.next_step)
            )
        images, targets, (counts, *found) = next(self._batches)
        self.positives.index_add_(0, found[1], torch.ones_like(found[1]))
        priors = self.model.priors
        images = images.to(priors, non_blocking=True).to(memory_format=torch.channels_last)
        found = [tensor.to(priors.device, non_blocking=True) for tensor in found]
        return images, targets, Positives(counts, *found)

    def _set_mode(self, lr: float) -> None:
        """Put the model into train mode, which a look at it may have changed, and set the rates."""
        self.model.train()
        if self.settings.freeze == "trunk":
            self.model.trunk.eval()
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

    def _losses(self, parts: LossParts, share: Tensor) -> Float[Tensor, "2"]:
        """Localization and confidence loss of the whole batch, the same in all processes."""
        own = torch.stack([parts.localization, parts.confidence]) * share
        return distributed.total(own) / distributed.world_size()

    def _descend(self, loss: Float[Tensor, ""], losses: Float[Tensor, "2"]) -> None:
        """Take a step of the optimizer, unless this loss or an earlier one is not finite."""
        finite = losses.isfinite().all() & (self._broken == 0)
        self._broken.copy_(~finite)
        self.optimizer.zero_grad()
        # Half precision's scaler skips a step with NaN; a fused optimizer skips it by this flag.
        self.scaler.scale(loss * torch.where(finite, 1, torch.nan)).backward()
        self.optimizer.found_inf = self._broken
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
