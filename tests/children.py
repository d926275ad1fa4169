"""Processes that tests may kill: one at a time, or several that train together.

They come from a server that has imported torch already, so that each starts at once, and that has
none of the test run's shape checks: what is killed and compiled here is what users have.
"""

import multiprocessing
import os
import pickle
from typing import NamedTuple

import torch
import torch.distributed as dist

from ssd_annotated.training.distributed import launched

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["ssd_annotated.training.run", "pytest"])
PATIENCE = 100  # seconds; a child takes one or two


class End(NamedTuple):
    """How a child ended: its exit status (−9 if SIGKILL did it), and what it returned or raised."""

    status: int
    result: object


class Child:
    """A process that calls ``job(*arguments)``; both must be importable from a test module."""

    def __init__(self, job, *arguments, environment=()):
        self._result, sender = _CONTEXT.Pipe(duplex=False)
        parts = (sender, dict(environment), job, arguments)
        self.process = _CONTEXT.Process(target=_work, args=parts)
        self.process.start()
        sender.close()

    def end(self):
        """Wait for it; a child that hangs is killed, and fails its test."""
        heard = self._result.poll(PATIENCE)
        try:
            result = pickle.loads(self._result.recv_bytes()) if heard else "no answer"
        except EOFError:  # killed before it could send anything
            result = None
        self.process.join(PATIENCE / 5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"a child had to be killed; it said {result!r}")
        return End(self.process.exitcode, result)


def _work(sender, environment, job, arguments):
    os.environ.update(environment)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for workers, as in other programs
    try:
        result = job(*arguments)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    sender.send_bytes(pickle.dumps(result))


def together(job, *arguments, launch=True):
    """Start two processes as torchrun does, joined if `launch`; return how they ended."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here, and not in the first process
        "WORLD_SIZE": "2",
    }
    if launch:
        job, arguments = _launch, (job, arguments)
    children = [
        Child(job, *arguments, environment={**common, "RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    return [child.end() for child in children]


def _launch(job, arguments):
    with launched(torch.device("cpu")):
        return job(*arguments)
