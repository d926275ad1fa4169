"""The records of a run: one JSON line a step and, if asked for, TensorBoard's."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from ssd_annotated.training import distributed

METRICS = "metrics.jsonl"


class Log:
    """Records as JSON lines, and for TensorBoard if asked for; the first process writes them.

    If a run continues from step `start`, the records of this and later steps are removed.
    """

    def __init__(self, folder: Path, start: int, tensorboard: bool = False) -> None:
        self._file = self._board = None
        if distributed.rank() > 0:
            return
        path = folder / METRICS
        self._file = path.open("a", encoding="utf-8", buffering=1)  # line by line
        self._file.truncate(_length_before(path, start))
        if tensorboard:
            self._board = _summary_writer(folder, start)

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
        for line in file:
            if not line.endswith(b"\n") or json.loads(line)["step"] >= start:
                break
            length += len(line)
    return length


def _summary_writer(folder: Path, start: int) -> object:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoard is not installed: pip install 'ssd-annotated[tensorboard]'"
        ) from error
    return SummaryWriter(folder, purge_step=start)
