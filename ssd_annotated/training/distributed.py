"""Several processes, one training: who am I, and what do all of us have together?

Without ``torchrun`` there is one process and nothing to exchange; callers need not check for that.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssd_annotated.loss import LossParts


def world_size() -> int:
    """How many processes train together; 1 if this one is alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_device(device: torch.device) -> torch.device:
    """The device of this process: the one given or, with ``torchrun``, a GPU of its own."""
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


@contextmanager
def launched(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes if ``torchrun`` started this one, and leave them at the end.

    Yields
    ------
    The device of this process (see `own_device`).
    """
    if "LOCAL_RANK" not in os.environ:
        yield device
        return
    device = own_device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # With gloo for the CPU's tensors, what is exchanged there waits for no GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def wrap(model: nn.Module) -> nn.Module:
    """Let every backward pass average the gradients of all processes.

    On GPUs batch normalisation also takes its statistics over all processes. torch has no such
    layer for the CPU: there each process normalises its own part of the batch.
    """
    if world_size() == 1:
        return model
    device = next(model.parameters()).device
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model, device_ids=[device.index])
    return DistributedDataParallel(model)


def total(tensor: Tensor) -> Tensor:
    """The sum of all processes' tensors, detached."""
    result = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(result)
    return result


def global_share(parts: LossParts, normalize: str) -> Tensor:
    """The factor of a process's loss with which the mean over processes is the batch's loss.

    Each process has divided its sums by its own number of positives n_r, but equation (1) divides
    by the N of the whole batch. The mean over W processes of (sum_r / n_r) · (W n_r / N) is
    sum / N. The other two ways to normalise count images or priors. All processes have the same
    number of these, so the factor is 1.
    """
    own = parts.num_positives
    if normalize != "positives" or world_size() == 1:
        return torch.ones_like(own)
    return world_size() * own.clamp(min=1) / total(own).clamp(min=1)


def own_part(length: int) -> range:
    """The indices of this process's items in a list: every W-th, so that all get about as many."""
    return range(rank(), length, world_size())


def gather(mine: list, length: int) -> list:
    """Put the parts of all processes together, in the order of the whole list."""
    if world_size() == 1:
        return mine
    parts: list[list] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, mine)
    return [parts[index % world_size()][index // world_size()] for index in range(length)]
