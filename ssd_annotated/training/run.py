"""A run: training that lives in a folder and can resume after it was stopped or killed.

The folder holds ``last.pt`` (the model, and all that is needed to continue), ``previous.pt`` (the
same, one checkpoint before), ``best.pt`` (the model that did best on the validation set),
``metrics.jsonl`` (one record a line) and, if the loss was not finite, ``failure-step-N.pt`` (the
batch). Every ``.pt`` is complete at any moment, and plain data. A kill while the names change may
leave the newest checkpoint as ``next.pt``.
"""

import math
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ssd_annotated.checkpoint import describe, save_model, uncompiled
from ssd_annotated.data.augment import Augmented
from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.model import SSD, check_architecture
from ssd_annotated.support.checks import check_at_least
from ssd_annotated.support.storage import plain, read_plain, write_whole
from ssd_annotated.training import distributed
from ssd_annotated.training.records import Log
from ssd_annotated.training.rungs import Ladder, Standing
from ssd_annotated.training.settings import Settings
from ssd_annotated.training.signals import stop_signals
from ssd_annotated.training.train import NonFiniteLossError, Record, Trainer, summary
from ssd_annotated.training.validation import validate

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
NEXT = "next.pt"  # for a moment the newest
#: Settings that change only the speed of a run: they may differ when it continues.
_FREE_SETTINGS = ("workers", "compile")


class Outcome(NamedTuple):
    """How a run ended: after how many steps, by which signal if any, and its best mAP if known.

    `standing` says what the confidence loss of the last steps means; None after fewer than 100.
    All processes of a run return the same outcome, even if only one was sent the signal.
    """

    steps: int
    stopped_by: signal.Signals | None
    best: float | None
    standing: Standing | None = None


def run(
    model: SSD,
    dataset: Dataset,
    folder: str | Path,
    settings: Settings | None = None,
    *,
    loss: MultiBoxLoss | None = None,
    validation: Dataset | None = None,
    validate_every: int | None = None,
    save_every: int = 1000,
    resume: bool = False,
    tensorboard: bool = False,
    progress: bool = True,
) -> Outcome:
    """Train `model` in `folder`, from the beginning or from where it was stopped.

    Parameters
    ----------
    model, dataset, settings, loss
        See `Trainer`.
    folder
        Made if it does not exist.
    validation
        Images on which the mAP@0.5 (area) is measured, every `validate_every` steps and at the end.
    validate_every
        By default 5000, or a fifth of a shorter run, but no less than 100.
    save_every
        Steps between two writes of ``last.pt``. It is also written at the end, and on SIGTERM or
        Ctrl-C, which stop the run after the current step.
    resume
        Continue from ``last.pt``, if there is one, or, with a warning, from ``previous.pt`` if
        ``last.pt`` is damaged; then ``previous.pt`` is kept until there are two again. On the same
        processor, with the same number of threads, the result equals that of an uninterrupted run
        bit for bit.
    tensorboard
        Also write the records for TensorBoard (needs the extra ``tensorboard``).
    progress
        Whether to show a bar, and what the confidence loss means when that changes. If the network
        has not begun to look after 400 steps (or a fiftieth of the run), that is a warning.

    Raises
    ------
    FileExistsError
        If the folder holds a run, or what one found best, and `resume` is false, or another process
        is running there.
    ValueError
        If it holds a run of another model, with other settings, or on other data, or its
        checkpoints are damaged.
    NonFiniteLossError
        If the loss is not finite; the message names the file with the batch that caused it.
    """
    settings = settings or Settings()
    validate_every = _often(settings) if validate_every is None else validate_every
    _check(model, validation, validate_every, save_every)
    folder, trainer = Path(folder), Trainer(model, dataset, settings, loss)
    best = _begin(folder, trainer, resume)
    silent = not progress or distributed.rank() > 0
    with (
        Log(folder, trainer.next_step, tensorboard) as log,
        tqdm(total=settings.steps, initial=trainer.next_step, disable=silent, unit="step") as bar,
        stop_signals() as caught,
        closing(trainer),
        _keep_what_breaks(trainer, folder),
    ):
        report = _Report(trainer, log, bar, best)
        while trainer.next_step < settings.steps and not _anyone_stopped(caught):
            report.add(trainer.step())
            done = trainer.next_step
            if validation is not None and (done % validate_every == 0 or done == settings.steps):
                report.finish()
                report.look(_validate(trainer, validation, folder, log, report.best))
            if done % save_every == 0 and done < settings.steps:
                report.finish()
                _save(trainer, folder, report.best)
        report.finish()
        _save(trainer, folder, report.best)  # here, where signals are still caught
    return Outcome(trainer.next_step, _who_stopped(caught, trainer), report.best, report.standing)


# --- Starting, resuming, saving -------------------------------------------------------------------


def _check(model: SSD, validation: Dataset | None, validate_every: int, save_every: int) -> None:
    """Refuse now what would fail at the first checkpoint or validation."""
    check_architecture(uncompiled(model).spec.architecture)
    check_at_least("validate_every", validate_every, 1)
    check_at_least("save_every", save_every, 1)
    if validation is not None:
        check_at_least("len(validation)", len(validation), 1)


def _often(settings: Settings) -> int:
    """Steps between two validations, by default."""
    return min(5000, max(100, settings.steps // 5))


def _begin(folder: Path, trainer: Trainer, resume: bool) -> float | None:
    """Make the folder, or continue the run that is in it; return its best mAP so far."""
    there = [folder / name for name in (NEXT, LAST, PREVIOUS) if (folder / name).exists()]
    if not there and not resume and (folder / BEST).exists():
        raise FileExistsError(f"{folder / BEST} would be lost: move it, or choose another folder")
    best = _take_up(there, trainer, resume) if there else None
    folder.mkdir(parents=True, exist_ok=True)
    steps = distributed.gather([trainer.next_step], distributed.world_size())
    if len(set(steps)) > 1:
        raise ValueError(
            f"the processes would continue from steps {steps}: do all of them see {folder}?"
        )
    return best


def _take_up(there: list[Path], trainer: Trainer, resume: bool) -> float | None:
    """Continue from the newest checkpoint that is whole; return the run's best mAP so far."""
    if not resume:
        raise FileExistsError(f"{there[0].parent} holds a run: resume it, or choose another folder")
    file, content = _read_whole(there)
    now = {**describe(trainer.model), **_describe_run(trainer)}
    if not isinstance(content, dict) or not set(now) < set(content):
        raise ValueError(f"{file} holds only a model, and no run to continue")
    try:
        for part in ("spec", "recipe", "settings", "data"):
            _check_same(file, part, content[part], now[part])
        uncompiled(trainer.model).load_state_dict(content["state_dict"])
        trainer.restore(content["trainer"])
        return content["best"]
    except (TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{file} is no checkpoint of this run: {error!r}") from error


def _read_whole(there: list[Path]) -> tuple[Path, object]:
    """The first of these checkpoints that is not damaged, and what it holds."""
    for file, then in pairwise(there):
        try:
            return file, read_plain(file)
        except ValueError as error:
            warnings.warn(f"{error}: the run continues from {then}", stacklevel=5)
    return there[-1], read_plain(there[-1])


def _is_whole(file: Path) -> bool:
    """Whether a run could continue from this file."""
    try:
        read_plain(file)
    except (OSError, ValueError):
        return False
    return True


def _describe_run(trainer: Trainer) -> dict[str, dict[str, object]]:
    """Settings and data as plain data: what must not change before a run continues."""
    dataset = trainer.dataset
    data: dict[str, object] = {"images": len(dataset)}
    if isinstance(dataset, Augmented):
        data |= {"augmentation": asdict(dataset.augmentation), "augmentation_seed": dataset.seed}
    settings = {k: v for k, v in asdict(trainer.settings).items() if k not in _FREE_SETTINGS}
    return plain({"settings": settings, "data": data})


def _check_same(file: Path, part: str, before: dict, now: dict) -> None:
    for name in sorted(set(before) | set(now)):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{file} was begun with other {part}: {name} was {before.get(name)!r}, and is "
                f"{now.get(name)!r} now"
            )


def _save(trainer: Trainer, folder: Path, best: float | None) -> None:
    if distributed.rank() == 0:
        content = {**describe(trainer.model), **_describe_run(trainer)}
        write_whole({**content, "trainer": trainer.state(), "best": best}, folder / NEXT)
        if _is_whole(folder / LAST):  # else it would take the place of one that is
            os.replace(folder / LAST, folder / PREVIOUS)
        os.replace(folder / NEXT, folder / LAST)


@contextmanager
def _keep_what_breaks(trainer: Trainer, folder: Path) -> Iterator[None]:
    """If the loss is not finite, store the batch that caused it."""
    try:
        yield
    except NonFiniteLossError as error:
        step = trainer.next_step
        suffix = f"-rank-{distributed.rank()}" if distributed.world_size() > 1 else ""
        file = folder / f"failure-step-{step}{suffix}.pt"
        batch = {"images": error.images, "targets": error.targets}
        write_whole({"step": step, **batch}, file)
        raise NonFiniteLossError(f"{error}; its batch is in {file}", **batch) from None


def _validate(
    trainer: Trainer, validation: Dataset, folder: Path, log: Log, best: float | None
) -> float | None:
    """Measure the mAP, record it, and save the model if it is the best so far."""
    settings = trainer.settings
    result = validate(trainer.model, validation, settings.batch_size, settings.workers)
    log.write({"step": trainer.next_step - 1, "mean_ap": result.mean_ap})
    if math.isnan(result.mean_ap) and distributed.rank() == 0:
        # Python shows it once, even if it is repeated from the same line of the caller's.
        message = "no object to find in the validation set: its mAP is nan (null in metrics.jsonl)"
        warnings.warn(message, stacklevel=3)
    if math.isnan(result.mean_ap) or (best is not None and result.mean_ap <= best):
        return best
    if distributed.rank() == 0:
        save_model(trainer.model, folder / BEST)
    return result.mean_ap


# --- Stopping, and saying how far it is -----------------------------------------------------------


def _anyone_stopped(caught: list[signal.Signals]) -> bool:
    """Whether any process was stopped: all must stop after the same step, or one waits for ever."""
    return bool(distributed.total(torch.tensor(len(caught), device="cpu")))  # waits for no GPU


def _who_stopped(caught: list[signal.Signals], trainer: Trainer) -> signal.Signals | None:
    """The first signal that any process caught; None for a run that reached its end.

    All wait here for the first process, which writes: after a run its files are there for all.
    """
    everybody = distributed.gather([caught[:1]], distributed.world_size())
    if trainer.next_step >= trainer.settings.steps:
        return None
    return next(signals[0] for signals in everybody if signals)


class _Report:
    """Logs and shows each step once the next one is on its way, so that no step waits for it.

    It also keeps the best mAP of the run, which it shows beside the losses.
    """

    def __init__(self, trainer: Trainer, log: Log, bar: tqdm, best: float | None) -> None:
        self.best = best
        self._trainer, self._log, self._bar = trainer, log, bar
        self._unread: Record | None = None
        self._ladder = Ladder(trainer)

    @property
    def standing(self) -> Standing | None:
        return self._ladder.standing

    def add(self, record: Record) -> None:
        self._tell()
        self._unread = record

    def finish(self) -> None:
        """Wait for the last step, then log and show it."""
        self._trainer.wait()
        self._tell()

    def look(self, best: float | None) -> None:
        """Keep the best mAP. The first time, unless the run is over, say what to expect."""
        first, self.best = self.best is None, best
        done, steps = self._trainer.next_step, self._trainer.settings.steps
        if first and best is not None and self.standing is not None and done < steps:
            look = f"first look, after {done} of {steps} steps: mAP {best:.3f}"
            self._say(f"{look}; {self.standing.expectation}")

    def _tell(self) -> None:
        record, self._unread = self._unread, None
        if record is not None:
            self._log.write(record)
            score = "" if self.best is None else f", best mAP {self.best:.3f}"
            self._bar.set_postfix_str(summary(record) + score, refresh=False)
            self._bar.update()
            self._say(self._ladder.add(record, self.best))

    def _say(self, words: str | None) -> None:
        """Print something above the bar; without a bar, warn if it is a warning."""
        if words and not self._bar.disable:
            self._bar.write(words, file=sys.stderr)
        elif words and words.startswith("warning: ") and distributed.rank() == 0:
            warnings.warn(words.removeprefix("warning: "), stacklevel=5)
