"""Files of plain data and tensors: written whole, read without running any code."""

import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from ssd_annotated.support.files import check_archive, system_errors, whole


def write_whole(content: dict[str, object], path: str | Path) -> None:
    """Write a file of plain data and tensors that is never seen half written.

    It is written under another name, flushed to the disk, and then renamed in one step.
    """
    with whole(path) as partial, open(partial, "wb") as file, system_errors():
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def plain(value: object) -> object:
    """Replace NumPy's values, which a safe load would refuse, with Python's numbers and tuples."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def read_plain(path: str | Path) -> object:
    """What `write_whole` wrote, on the CPU; a ValueError for a damaged file, or one with code.

    Arguments of a command, as torchvision's training script keeps them, are plain data too.
    """
    with open(path, "rb") as file, torch.serialization.safe_globals([Namespace]):
        try:
            check_archive(file)  # torch takes a flipped bit for a weight
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and end-of-file errors share no base class
            raise ValueError(
                f"{path} is damaged, or was not written by save_model and holds more than tensors "
                "and plain data. That could be code, which is not run: if you trust the file, load "
                "it with the program that wrote it, and save the state_dict alone"
            ) from error
