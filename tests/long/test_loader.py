"""Training with workers, started in both ways, ends cleanly after an error and after Ctrl-C.

50 repetitions by default; another number with ``REPETITIONS=9 pytest tests/long/test_loader.py``.
"""

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from itertools import cycle, islice, product
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import children
from children import Child
from squares import Squares
from test_run import SHORT, augmented, go
from watching import members

REPETITIONS = int(os.environ.get("REPETITIONS", "50"))
IMAGES = 2 * SHORT.steps


class Accident(Squares):
    """Squares of which one cannot be read."""

    def __getitem__(self, index):
        if index == 5:
            raise OSError("a file has vanished")
        return super().__getitem__(index)


class CtrlC(Squares):
    """Squares of which one is asked for just when somebody presses Ctrl-C in the terminal."""

    def __getitem__(self, index):
        if index == 5:
            os.kill(0, signal.SIGINT)  # to the whole group
        return super().__getitem__(index)


def train(folder, method, workers, ending):
    """A short training in a group of its own."""
    os.setpgrp()
    multiprocessing.set_start_method(method, force=True)
    settings = replace(SHORT, workers=workers)
    dataset = Accident(IMAGES) if ending == "error" else CtrlC(IMAGES)
    return go(folder, augmented(dataset), settings=settings)


CASES = list(product(("error", "Ctrl-C"), ("fork", "spawn"), range(9)))


@pytest.mark.parametrize(
    ("number", "case"), enumerate(islice(cycle(CASES[::7] + CASES), REPETITIONS))
)
def test_it_ends_and_nobody_is_left(tmp_path, monkeypatch, number, case):
    monkeypatch.setattr(children, "PATIENCE", 300)  # eight workers that import PyTorch
    ending, method, workers = case
    started = time.monotonic()
    child = Child(train, tmp_path, method, workers, ending)
    end = child.end()  # one that hangs is killed there, and fails
    for _ in range(50):
        if not (left := members(child.process.pid)):
            break
        time.sleep(0.1)
    print(f"\n{number}: {method}, {workers} workers, {ending}: {time.monotonic() - started:.1f} s")
    assert left == []
    assert end.status == 0
    if ending == "error":
        assert "a file has vanished" in end.result
        assert end.result.startswith("OSError")
    else:
        assert end.result.stopped_by == signal.SIGINT
        assert (tmp_path / "last.pt").exists()
