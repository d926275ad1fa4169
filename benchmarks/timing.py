"""What all benchmarks share: calls that take turns, the row of a table, memory, the machine."""

import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

#: What is compared, by name; "ours" is the package.
Ways = dict[str, Callable[[], object]]


class Goal(NamedTuple):
    """`times` × ours shall take no longer than `other` + `more` milliseconds."""

    other: str
    times: float = 1.0
    more: float = 0.0

    def is_met(self, found: dict[str, float], slack: float = 1.0) -> bool:
        other = found[self.other] if self.other else 0.0
        return self.times * found["ours"] / slack <= other + self.more


class Row(NamedTuple):
    """One line of the table: what is compared, made only when it is needed, and the goals.

    One thread is timed by the processor's clock, which stands still while other programs run.
    Several threads or processes are timed by the clock on the wall.
    """

    make: Callable[[], Ways]
    goals: tuple[Goal, ...] = ()
    threads: int = 1
    seconds: float = 3.0
    rounds: int = 5
    of: Callable[[list[float]], float] = median
    images: int = 1

    def times(self, seconds: float | None = None, of: Callable | None = None) -> dict[str, float]:
        """The milliseconds of each way."""
        clock = time.process_time if self.threads == 1 else time.perf_counter
        seconds = self.seconds if seconds is None else seconds
        return take_turns(self.make(), seconds, self.rounds, clock, of or self.of)


def take_turns(
    ways: Ways,
    seconds: float,
    rounds: int = 5,
    clock: Callable[[], float] = time.process_time,
    of: Callable[[list[float]], float] = median,
) -> dict[str, float]:
    """The (median) milliseconds of each way, all called in turn until the time is over.

    So a busy machine slows all of them. Each is called once before; `rounds` is the least number.
    """
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    done = 0
    while time.perf_counter() < end or done < rounds:
        for name, way in ways.items():
            started = clock()
            way()
            times[name].append(1000 * (clock() - started))
        done += 1
    return {name: of(values) for name, values in times.items()}


def megabytes(ways: Ways) -> dict[str, float]:
    """How much memory each way needs at its peak, beyond what is there before. Linux only.

    The process must have been started with `PLAIN_MEMORY`, so that what is freed is gone.
    """
    found = {}
    for name, way in ways.items():
        way()
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        way()
        found[name] = max(0, _status("VmHWM") - before) / 1024
    return found


#: Where glibc gives every freed block back to the system.
PLAIN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def setting() -> dict[str, object]:
    """What a reader must know about the machine, and nothing that names it."""
    import torch
    import torchvision

    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "torchvision": torchvision.__version__.partition("+")[0],
        "load": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
