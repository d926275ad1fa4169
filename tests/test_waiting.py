"""A training step never waits for the device: no number of it is asked for before it is there.

On a GPU torch itself refuses to wait (``set_sync_debug_mode``). On a CPU a stand-in refuses every
function that would make the host wait if its tensor lay on a GPU.
"""

from contextlib import contextmanager

import pytest
import torch
from squares import Squares, small
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.training import train
from ssd_annotated.training.batches import make_loader
from ssd_annotated.training.settings import Settings
from ssd_annotated.training.train import Trainer

#: What hands a tensor's numbers to Python.
READING = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"}
#: What must know a tensor's numbers to know its result's shape, or is a number.
SHAPED = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"}
SHAPED |= {"_unique2", "unique_dim", "unique_consecutive"}
allowed = []


class WaitingError(RuntimeError):
    pass


class NoReading(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READING and not allowed:
            raise WaitingError(func.__name__)
        return func(*args, **(kwargs or {}))


class NoShapes(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        counted = name == "repeat_interleave" and not (kwargs or {}).get("output_size")
        if (name in SHAPED or by_mask or counted) and not allowed:
            raise WaitingError(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting():
    with NoReading(), NoShapes():
        yield


class Read(train.Record):
    """A record whose losses have arrived when they are read, one step later."""

    def read(self):
        allowed.append(self)
        try:
            return super().read()
        finally:
            allowed.pop()


def prepared(steps=3, loss=None, **changes):
    """A trainer whose batches are ready, as workers make them."""
    model = small()
    loss = loss or MultiBoxLoss(model.priors)
    settings = Settings(steps=steps, batch_size=2, **changes)
    trainer = Trainer(model, Squares(4), settings, loss)
    trainer._batches = iter(list(make_loader(trainer.dataset, model, loss, settings, 0)))
    return trainer


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool((x > 0).all()),
        lambda x: int(x[0]),
        lambda x: f"{x[0]:.2f}",
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: torch.where(x > 0),
        lambda x: x.numpy(),
        lambda x: torch.repeat_interleave(x, (x > 0).long()),
        lambda x: x.index_put_((x > 0,), torch.zeros(())),
    ],
)
def test_the_stand_in_sees_who_waits(wait):
    x = torch.tensor([1.0, -1.0])
    wait(x.clone())
    with no_waiting(), pytest.raises(WaitingError):
        wait(x)


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "adamw", "clip_norm": 1.0}, {"precision": "bfloat16"}],
    ids=["sgd", "adamw, clipped", "bfloat16"],
)
def test_a_step_waits_for_nothing_but_the_step_before(changes, monkeypatch):
    monkeypatch.setattr(train, "Record", Read)
    trainer = prepared(**changes)
    with no_waiting():
        records = [trainer.step() for _ in range(3)]
    assert [record["step"] for record in records] == [0, 1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"normalize": "images", "localization": "l1"},
        {"normalize": "priors", "confidence": "focal"},
        {"confidence": "focal", "normalize": "images"},
    ],
)
def test_no_kind_of_loss_waits(options):
    model = small()
    loss = MultiBoxLoss(model.priors, **options)
    images, _, positives = next(iter(make_loader(Squares(4), model, loss, Settings(1, 2), 0)))
    predictions = model(images)
    with no_waiting():
        loss(predictions, positives).total.backward()


def test_a_loss_of_plain_targets_must_wait():
    # They are checked and matched first: in training a worker has done that.
    model = small()
    target = {"boxes": torch.tensor([[0.1, 0.1, 0.6, 0.6]]), "labels": torch.tensor([1])}
    with no_waiting(), pytest.raises(WaitingError):
        MultiBoxLoss(model.priors)(model(torch.zeros(1, 3, 64, 64)), [target])


def test_what_comes_after_a_broken_step_is_not_learnt():
    trainer = prepared(steps=4)
    trainer.step()
    trainer.wait()
    weights = [weight.detach().clone() for weight in trainer.model.parameters()]
    state = [t.clone() for s in trainer.optimizer.state.values() for t in s.values()]
    images, targets, positives = batch = next(trainer._batches)
    broken = (images * torch.inf, targets, positives)
    trainer._batches = iter([broken, batch, batch])
    trainer.step()
    with pytest.raises(train.NonFiniteLossError, match="no longer finite at step 1:") as caught:
        trainer.step()
    assert trainer.next_step == 1
    assert not caught.value.images.isfinite().all()
    assert torch.equal(caught.value.targets[0]["boxes"], torch.from_numpy(targets[0]["boxes"]))
    for weight, old in zip(trainer.model.parameters(), weights, strict=True):
        assert torch.equal(weight, old)
    now = [t for s in trainer.optimizer.state.values() for t in s.values()]
    assert all(map(torch.equal, now, state))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_on_a_gpu_torch_finds_nobody_waiting(precision):
    model = small().to("cuda")
    settings = Settings(steps=6, batch_size=2, workers=1, precision=precision, clip_norm=1.0)
    trainer = Trainer(model, Squares(12), settings)
    for _ in range(2):  # what is done only once may wait
        trainer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.wait()
