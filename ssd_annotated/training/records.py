"""The records of a run: one JSON line a step and, if asked for, TensorBoard's."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows: there nothing is locked
    fcntl = None

from ssd_annotated.support.extras import need
from ssd_annotated.training import distributed


class Log:
    """Records as JSON lines, and for TensorBoard if asked for; the first process writes them.

    If a run continues from step `start`, the records of this and later steps are removed. While the
    file is open, no other process can open it here: two runs in one folder would spoil each other.

    Raises
    ------
    FileExistsError
        If another run is writing there.
    ValueError
        If a line is no record of a step.
    """

    def __init__(self, folder: Path, start: int, tensorboard: bool = False) -> None:
        self._file = self._board = None
        if distributed.rank() > 0:
            return
        path = folder / "metrics.jsonl"
        self._file = path.open("a", encoding="utf-8", buffering=1)  # line by line
        length = _length_before(path, start)
        _lock(self._file, folder)
        self._file.truncate(length)
        if tensorboard:
            library = need("torch.utils.tensorboard", "tensorboard", "--tensorboard")
            self._board = library.SummaryWriter(folder, purge_step=start)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        for output in filter(None, (self._file, self._board)):
            output.close()

    def write(self, record: Mapping[str, int | float]) -> None:
        """Add a record; NaN, which JSON lacks, becomes null."""
        if self._file is None:
            return
        known = {k: None if math.isnan(value) else value for k, value in record.items()}
        self._file.write(json.dumps(known) + "\n")
        if self._board is not None:
            for name, value in record.items():
                self._board.add_scalar(name, value, record["step"])


def _length_before(path: Path, start: int) -> int:
    """The bytes that the whole lines of earlier steps take; a kill may leave half a line behind."""
    length = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or _step(line, f"{path}: line {number}") >= start:
                break
            length += len(line)
    return length


def _step(line: bytes, place: str) -> int:
    """The step of a record."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        step = None
    if type(step) is not int:
        raise ValueError(f"{place} is no record of a step: mend it, or remove it")
    return step


def _lock(file: TextIO, folder: Path) -> None:
    """Keep other processes out until this file is closed, or this process ends, however it ends.

    After this no other descriptor of the file may be closed here: that would give up the lock.
    """
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise FileExistsError(f"{folder}: another run is writing there") from error
    except OSError:  # some network file systems have no locks
        pass
