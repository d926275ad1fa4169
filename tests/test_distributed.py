"""Two processes train as one: gradients, records and detections, and they stop together."""

import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from children import together
from squares import Squares, Trap, small
from test_run import OneWhite, augmented, go, records, same, stumble_over_white

from ssd_annotated.app.building import choose_device
from ssd_annotated.checkpoint import read_plain, save_model
from ssd_annotated.loss import LossParts, MultiBoxLoss
from ssd_annotated.model import ssd300_vgg16
from ssd_annotated.training import distributed
from ssd_annotated.training import run as run_module
from ssd_annotated.training.distributed import launched
from ssd_annotated.training.run import Outcome
from ssd_annotated.training.settings import Settings
from ssd_annotated.training.train import Trainer
from ssd_annotated.training.validation import detect_all

# One step down the plain gradient, with all norms frozen: without them there is no mean over
# images, so that two processes can be equal to one.
STEP = Settings(steps=1, batch_size=4, lr=1e-2, weight_decay=0.0, freeze_batch_norm=True)


def gradients(model, dataset, settings=STEP, **options):
    """The record of one step, and the gradient that it followed."""
    trainer = Trainer(model, dataset, settings, MultiBoxLoss(model.priors, **options))
    record = dict(trainer.step())
    del record["images_per_second"]
    return record, [weight.grad for weight in model.parameters()]


def gradients_of_small(objects, options):
    return gradients(small(), Squares(4, objects), **options)


def assert_close(found, expected):
    """Equal to 1e-5 of the largest slope, and not because all slopes are zero."""
    scale = max(gradient.abs().max().item() for gradient in expected)
    assert scale > 1e-3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * scale)


# ---------------------------------------------------------------- gradients

# Images 2 and 0 are the first process's, 3 and 1 the second's (that is the order of seed 0).
LOTS = {"everywhere": True, "in one image": (0,), "in the second process": (1, 3)}
LOSSES = {
    "the paper's": {},
    "by images": {"normalize": "images"},
    "by priors": {"normalize": "priors"},
    "focal": {"confidence": "focal"},
}


def test_the_order_that_the_cases_rely_on():
    squares = Squares(4)
    gradients(small(), squares)
    assert [set(squares.asked[:2]), set(squares.asked[2:])] == [{0, 2}, {1, 3}]


CASES = [("the paper's", lot) for lot in LOTS] + [(name, "in one image") for name in LOSSES][1:]


@pytest.mark.parametrize(("options", "lot"), CASES)
def test_gradients_of_two_processes_are_those_of_one(options, lot):
    # Each process dividing by its own positives would double the weight of the only one with some.
    case = (LOTS[lot], LOSSES[options])
    record, expected = gradients_of_small(*case)
    first, second = (end.result for end in together(gradients_of_small, *case))
    assert first[0] == second[0] == pytest.approx(record, rel=1e-5)
    assert same(first[1], second[1])
    assert_close(first[1], expected)


def test_without_any_object_the_focal_loss_still_teaches_both_the_same():
    case = (False, {"confidence": "focal"})
    _, expected = gradients_of_small(*case)
    first, second = (end.result for end in together(gradients_of_small, *case))
    assert same(first, second)
    assert_close(first[1], expected)


def gradients_of_ssd300(file=None):
    """As `gradients`, but written to a file, as 26 million numbers are too many to send."""
    torch.manual_seed(0)
    settings = replace(STEP, batch_size=2, freeze_batch_norm=False)
    record, found = gradients(ssd300_vgg16(num_classes=3), Squares(2, (1,)), settings)
    if file is None or distributed.rank() > 0:
        return record, found if file is None else None
    torch.save(found, file)
    return record, None


def test_gradients_of_ssd300(tmp_path):
    # One image for each process, and an object in one of the two.
    record, expected = gradients_of_ssd300()
    ends = together(gradients_of_ssd300, tmp_path / "gradients.pt")
    assert [end.result[0] for end in ends] == [pytest.approx(record, rel=1e-5)] * 2
    assert_close(torch.load(tmp_path / "gradients.pt"), expected)


# ---------------------------------------------------------------- whole runs


def trained(folder, dataset):
    """Records, weights and statistics after nine steps of a run, and what it returned."""
    model = small()
    outcome = go(folder, augmented(dataset), model, resume=True, save_every=3)
    return outcome, model.state_dict()


def test_both_processes_keep_the_same_model_and_one_of_them_the_records(tmp_path):
    first, second = (end.result for end in together(trained, tmp_path, Squares(5)))
    assert first[0] == second[0] == Outcome(9, None, None)
    weights = {name: value for name, value in first[1].items() if "running" not in name}
    assert same(weights, {name: second[1][name] for name in weights})
    assert [record["step"] for record in records(tmp_path)] == list(range(9))
    assert same(read_plain(tmp_path / "last.pt")["state_dict"], first[1])


def signal_to_the_second(number):
    if distributed.rank() == 1:
        os.kill(os.getpid(), number)


def stopped(folder, at):
    return trained(folder, Trap(5, at, lambda: signal_to_the_second(signal.SIGTERM)))


def test_a_signal_to_one_stops_both_and_they_resume_to_the_same_bits(tmp_path):
    # One image a step for each: the fifth is asked for in step 4.
    ends = together(stopped, tmp_path / "stopped", 4)
    assert [(end.status, end.result[0]) for end in ends] == [
        (0, Outcome(5, signal.SIGTERM, None))
    ] * 2
    for folder in ("stopped", "whole"):
        together(trained, tmp_path / folder, Squares(5))
    assert records(tmp_path / "stopped") == records(tmp_path / "whole")
    one, other = (read_plain(tmp_path / name / "last.pt") for name in ("stopped", "whole"))
    assert same(one, other)


def best_there(folder):
    """Whether the best model is there once the run has ended, although writing it takes long."""

    def slowly(model, path):
        time.sleep(1)
        save_model(model, path)

    run_module.save_model = slowly  # in this process, which ends soon
    outcome = go(folder, validation=Squares(2))
    return outcome.best is not None and (folder / "best.pt").exists()


def test_when_a_run_ends_its_files_are_there_for_all(tmp_path):
    assert [end.result for end in together(best_there, tmp_path)] == [True, True]


def broken(folder):
    model = small()
    model.register_forward_pre_hook(stumble_over_white)
    go(folder, OneWhite(5), model)


def test_a_loss_that_breaks_in_one_stops_both(tmp_path):
    ends = together(broken, tmp_path)
    files = sorted(tmp_path.glob("failure-*"))
    step = torch.load(files[0], weights_only=True)["step"]
    names = [f"failure-step-{step}-rank-{rank}.pt" for rank in (0, 1)]
    assert [file.name for file in files] == names
    white = [(torch.load(file)["images"] > 2.5).any().item() for file in files]
    assert sorted(white) == [False, True], "each wrote its own part"
    for end, name in zip(ends, names, strict=True):
        assert end.result.startswith("NonFiniteLossError: the loss is no longer finite")
        assert end.result.endswith(name)


def resumed_apart(folder):
    """Each process looks in a folder of its own, as on machines that share none."""
    return go(folder / str(distributed.rank()), Squares(5), resume=True)


def test_processes_that_see_different_runs_are_told_so(tmp_path):
    # The one with fewer steps to go would end, and the other would wait for it.
    go(tmp_path / "0")
    for end in together(resumed_apart, tmp_path):
        assert end.result.startswith("ValueError: the processes would continue from steps [9, 0]")


def uneven():
    return Trainer(small(), Squares(4), Settings(batch_size=3))


def test_a_batch_that_cannot_be_shared_is_refused():
    for end in together(uneven):
        assert end.result == "ValueError: 2 processes cannot share a batch_size of 3 evenly"


# ---------------------------------------------------------------- measuring together


def measured(count):
    return detect_all(small(), Squares(count), batch_size=1)


@pytest.mark.parametrize("count", [7, 1])
def test_detections_are_gathered_in_order_everywhere(count):
    # With one image the second process has none.
    expected = measured(count)
    for end in together(measured, count):
        detections, targets = end.result
        assert same([tuple(image) for image in detections], [tuple(image) for image in expected[0]])
        assert same(targets, expected[1])
        assert len(targets) == count


# ---------------------------------------------------------------- alone


def test_alone_nothing_is_shared(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    model, number = small(), torch.tensor([3.0], requires_grad=True)
    with launched(torch.device("cpu")) as device:
        assert device == torch.device("cpu")
        assert (distributed.world_size(), distributed.rank()) == (1, 0)
        assert distributed.wrap(model) is model
        assert not distributed.total(number).requires_grad
        assert distributed.gather([1, 2], 2) == [1, 2]
        assert distributed.own_part(3) == range(3)
        parts = LossParts(*torch.zeros(3), torch.tensor(7))
        assert distributed.global_share(parts, "positives") == 1


def test_each_process_touches_its_own_gpu_and_what_is_not_on_it_waits_for_none(monkeypatch):
    asked, touched = [], []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda n, device: [touched.append(device), zeros(n)][1])
    monkeypatch.setattr(torch.cuda, "set_device", touched.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", asked.append)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    own = torch.device("cuda", 3)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with launched(choose_device("cuda")) as device:
        assert device == own
    assert touched == [own, own]
    assert asked == ["cpu:gloo,cuda:nccl"]
    monkeypatch.delenv("LOCAL_RANK")
    assert choose_device("cuda:1") == torch.device("cuda", 1)


def joined():
    torch.distributed.barrier()  # leaving before the other has joined is an error
    return distributed.world_size(), distributed.rank(), torch.distributed.get_backend()


def joined_and_failed():
    """Join the others, and fail; return whether this process is still joined to them."""
    try:
        with launched(torch.device("cpu")):
            assert torch.distributed.is_initialized()
            torch.distributed.barrier()
            raise ArithmeticError("bad luck")
    except ArithmeticError:
        return torch.distributed.is_initialized()


def test_launched_joins_and_parts():
    assert [end.result for end in together(joined)] == [(2, 0, "gloo"), (2, 1, "gloo")]
    assert [end.result for end in together(joined_and_failed, launch=False)] == [False, False]
