"""A run in a folder: killed anywhere, it continues to the same bits, and no file is half there."""

import gc
import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import time
import warnings
from dataclasses import replace
from multiprocessing import parent_process
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from children import Child
from refusals import refuses, unchecked
from squares import Squares, Trap, small
from watching import alive

from ssd_annotated.checkpoint import load_model, read_plain, save_model, write_whole
from ssd_annotated.data.augment import AUGMENTATIONS, Augmented
from ssd_annotated.detection import detect
from ssd_annotated.evaluation.voc import Evaluation
from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.training import run as run_module
from ssd_annotated.training.batches import start_worker
from ssd_annotated.training.records import fcntl
from ssd_annotated.training.run import Outcome, run
from ssd_annotated.training.settings import Settings
from ssd_annotated.training.train import NonFiniteLossError, train
from ssd_annotated.training.validation import detect_all, validate

SHORT = Settings(steps=9, batch_size=2, lr=1e-2)


def go(folder, dataset=None, model=None, settings=SHORT, **options):
    """A run of nine steps over five images, two at a time: epochs end in the middle of batches."""
    dataset = dataset or Squares(5)
    return run(model or small(), dataset, folder, settings, progress=False, **options)


def augmented(dataset):
    return Augmented(dataset, AUGMENTATIONS["caffe"], image_size=64)


def records(folder):
    """The lines of metrics.jsonl, without what differs from one run to the next."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(s).items() if k != "images_per_second"} for s in lines]


def same(one, other):
    """Equal to the last bit, tensors in dicts and lists included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same_run(folder, other):
    assert records(folder) == records(other)
    for name in ("last.pt", "best.pt"):
        assert same(read_plain(folder / name), read_plain(other / name)), name


# ---------------------------------------------------------------- what a run leaves behind


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted, in this process."""
    folder = tmp_path_factory.mktemp("whole")
    outcome = go(folder, augmented(Squares(5)), validation=Squares(2), validate_every=4)
    assert outcome.steps == 9
    return folder


def test_same_can_tell_runs_apart(whole):
    # The tests below rely on this comparison, so it must see one bit in one weight.
    content, other = read_plain(whole / "last.pt"), read_plain(whole / "last.pt")
    assert same(content, other)
    momentum = other["trainer"]["optimizer"]["state"][0]["momentum_buffer"]
    momentum.view(torch.int32)[0, 0, 0, 0] ^= 1
    assert not same(content, other)


def test_a_folder_after_a_run(whole):
    assert {path.name for path in whole.iterdir()} == {"last.pt", "best.pt", "metrics.jsonl"}
    steps = [(record["step"], "mean_ap" in record) for record in records(whole)]
    trained = [(step, False) for step in range(9)]
    # Validated after four steps, after eight, and at the end.
    assert steps == [*trained[:4], (3, True), *trained[4:8], (7, True), trained[8], (8, True)]


def test_a_run_trains_as_train_does(tmp_path):
    model, twin = small(), small()
    go(tmp_path, model=model)
    history = train(twin, Squares(5), SHORT, progress=False)
    assert same(model.state_dict(), twin.state_dict())
    kept = [{k: v for k, v in record.items() if k != "images_per_second"} for record in history]
    assert records(tmp_path) == kept


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_both_checkpoints_are_models(whole, name):
    model = load_model(whole / name)
    assert not model.training
    assert detect(model, [Squares()[0][0]], score_threshold=0)[0].boxes.shape[1] == 4


def test_best_is_the_best_and_the_first_of_equals(tmp_path, monkeypatch):
    scores = iter([0.2, math.nan, 0.5, 0.5, 0.4])
    weights = []

    def fake(model, *_):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return Evaluation(next(scores), torch.zeros(3), {}, torch.zeros(3, dtype=torch.int64))

    monkeypatch.setattr(run_module, "validate", fake)
    with pytest.warns(UserWarning, match="no object to find"):
        outcome = go(tmp_path, validation=Squares(2), validate_every=2)
    assert outcome == Outcome(9, None, 0.5)
    assert same(read_plain(tmp_path / "best.pt")["state_dict"], weights[2])
    assert read_plain(tmp_path / "last.pt")["best"] == 0.5
    found = [record["mean_ap"] for record in records(tmp_path) if "mean_ap" in record]
    assert found == [0.2, None, 0.5, 0.5, 0.4], "JSON has no NaN"


@pytest.mark.parametrize(("steps", "every"), [(40, 40), (600, 120), (120_000, 5000)])
def test_a_short_run_is_validated_five_times_but_not_all_the_time(
    tmp_path, monkeypatch, steps, every
):
    seen = []
    monkeypatch.setattr(run_module, "_check", lambda *arguments: seen.append(arguments[2]))
    monkeypatch.setattr(run_module, "_begin", lambda *_: pytest.skip("enough is known"))
    with pytest.raises(pytest.skip.Exception):
        go(tmp_path, settings=replace(SHORT, steps=steps), validation=Squares(2))
    assert min(seen[0], steps) == every


def test_a_validation_set_without_objects_is_said_once(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        outcome = go(tmp_path, validation=Squares(2, objects=False), validate_every=2)
    assert outcome == Outcome(9, None, None)
    assert [record["mean_ap"] for record in records(tmp_path) if "mean_ap" in record] == [None] * 5
    messages = [str(warning.message) for warning in caught]
    assert sum("no object to find in the validation set" in text for text in messages) == 1


def test_tensorboard_gets_every_record(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    go(tmp_path, tensorboard=True, validation=Squares(2))
    (file,) = tmp_path.glob("events.out.tfevents.*")
    found = {}
    for event in events.LegacyEventFileLoader(str(file)).Load():
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    for name in ("localization", "confidence", "lr"):
        steps, values = zip(*found[name], strict=True)
        assert steps == tuple(range(9))
        assert values == pytest.approx([record[name] for record in records(tmp_path)[:9]])
    assert [step for step, _ in found["mean_ap"]] == [8]


# ---------------------------------------------------------------- killed


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(_content, file):
    """In place of torch.save: half a file reaches the disk, and the process dies."""
    file.write(b"half a checkpoint")
    file.flush()
    die()


def killed_at_image(folder, at):
    go(
        folder,
        augmented(Trap(5, at, die)),
        save_every=3,
        validation=Squares(2),
        validate_every=4,
        resume=True,
    )


def killed_at_save(folder, number):
    save, calls = torch.save, []

    def save_or_die(content, file):
        calls.append(file)
        (die_while_writing if len(calls) == number else save)(content, file)

    torch.save = save_or_die
    killed_at_image(folder, at=None)


def killed_at_rename(folder):
    """The process dies when the newest checkpoint, complete, is about to become last.pt."""
    replace = os.replace

    def replace_or_die(old, new):
        if Path(new).name == "last.pt":
            die()
        replace(old, new)

    os.replace = replace_or_die
    killed_at_image(folder, at=None)


def killed_and_resumed(folder, job, *arguments, **options):
    assert Child(job, folder, *arguments).end().status == -signal.SIGKILL
    options = {"validation": Squares(2), "validate_every": 4, **options}
    return go(folder, augmented(Squares(5)), resume=True, **options)


@pytest.mark.parametrize("at", [1, 6, 9, 17])
def test_killed_between_two_images_it_resumes_to_the_same_bits(tmp_path, whole, at):
    # Before there is a checkpoint, right after the first one, in mid-epoch, and in the last batch.
    outcome = killed_and_resumed(tmp_path, killed_at_image, at)
    assert outcome.steps == 9
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_killed_in_the_middle_of_a_save_it_resumes_to_the_same_bits(tmp_path, whole, number):
    # The first last.pt after three steps, best.pt after four, and the second last.pt after six.
    killed_and_resumed(tmp_path, killed_at_save, number)
    assert_same_run(tmp_path, whole)


def test_killed_twice(tmp_path, whole):
    assert Child(killed_at_image, tmp_path, 8).end().status == -signal.SIGKILL
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "localiza')  # what a power cut leaves
    killed_and_resumed(tmp_path, killed_at_image, 7)
    assert_same_run(tmp_path, whole)


def test_resuming_may_change_the_number_of_workers(tmp_path, whole):
    settings = replace(SHORT, workers=1)
    killed_and_resumed(tmp_path, killed_at_image, 9, settings=settings)
    assert_same_run(tmp_path, whole)


# ---------------------------------------------------------------- told to stop


def signalled(folder, numbers, at=4, workers=0, group=False, **options):
    """Send signals to a run when it asks for image number `at`; return how it ended."""
    if group:
        os.setpgrp()

    def send():
        for number in numbers:
            os.kill(0 if group else os.getpid(), number)

    settings = replace(SHORT, workers=workers)
    return go(folder, augmented(Trap(5, at, send)), settings=settings, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_step_and_saves(tmp_path, whole, number):
    outcome = Child(signalled, tmp_path, [number]).end()
    assert outcome == (0, Outcome(3, number, None))
    assert [record["step"] for record in records(tmp_path)] == [0, 1, 2]
    assert read_plain(tmp_path / "last.pt")["trainer"]["next_step"] == 3
    go(
        tmp_path,
        augmented(Squares(5)),
        resume=True,
        validation=Squares(2),
        validate_every=4,
    )
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_leaves_the_workers_at_work(tmp_path, number):
    # Ctrl-C in a terminal and many schedulers do this. A worker that died would be an error.
    end = Child(signalled, tmp_path, [number], 2, 1, True).end()
    assert end.status == 0
    assert end.result.stopped_by == number
    assert read_plain(tmp_path / "last.pt")["trainer"]["next_step"] == end.result.steps < 9


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    end = Child(signalled, tmp_path, [signal.SIGINT, signal.SIGINT]).end()
    assert end == (1, None), "KeyboardInterrupt"
    assert not (tmp_path / "last.pt").exists()


def told_again_while_saving(folder):
    def save_slowly(content, file):
        os.kill(os.getpid(), signal.SIGTERM)
        save(content, file)

    save, torch.save = torch.save, save_slowly
    return signalled(folder, [signal.SIGTERM])


def test_a_signal_while_the_last_checkpoint_is_written_does_no_harm(tmp_path):
    assert Child(told_again_while_saving, tmp_path).end().status == 0
    assert read_plain(tmp_path / "last.pt")["trainer"]["next_step"] == 3


def test_a_signal_in_the_last_step_did_not_stop_a_run_that_is_done(tmp_path):
    end = Child(signalled, tmp_path, [signal.SIGTERM], 17).end()
    assert end.result == Outcome(9, None, None)


def test_handlers_are_given_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    go(tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# ---------------------------------------------------------------- going on, or not


def test_resume_without_a_run_begins_one(tmp_path):
    assert go(tmp_path / "deep" / "new", resume=True) == Outcome(9, None, None)


def test_a_finished_run_is_resumed_to_nothing(whole):
    before = records(whole), read_plain(whole / "last.pt")
    options = {"validation": Squares(2), "validate_every": 4, "resume": True}
    outcome = go(whole, augmented(Squares(5)), **options)
    assert outcome == Outcome(9, None, before[1]["best"])
    assert same((records(whole), read_plain(whole / "last.pt")), before)


def test_a_run_is_not_overwritten(whole):
    before = (whole / "last.pt").read_bytes()
    with refuses(f"{whole} holds a run: resume it", FileExistsError):
        go(whole)
    assert (whole / "last.pt").read_bytes() == before


def test_the_best_model_of_another_run_is_not_overwritten(whole, tmp_path):
    shutil.copy(whole / "best.pt", tmp_path)  # and what continues the run is gone
    before = (tmp_path / "best.pt").read_bytes()
    with refuses(f"{tmp_path / 'best.pt'} would be lost: move it, or", FileExistsError):
        go(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]
    assert (tmp_path / "best.pt").read_bytes() == before
    go(tmp_path, resume=True)  # as after a kill before the first checkpoint


def changed(name):
    """Changes with which a run cannot be resumed."""
    squares = augmented(Squares(5))
    if name == "model":
        return {"dataset": squares, "model": small(widths=(8, 8, 8, 8, 8, 16))}
    if name == "recipe":
        model = small()
        model.recipe = type(model.recipe)(64, ("background", "cat", "dog"))
        return {"dataset": squares, "model": model}
    if name == "settings":
        return {"dataset": squares, "settings": replace(SHORT, lr=0.5)}
    if name == "length":
        return {"dataset": augmented(Squares(6))}
    if name == "augmentation":
        return {"dataset": Augmented(Squares(5), AUGMENTATIONS["none"], image_size=64)}
    return {"dataset": Squares(5)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model", r"begun with other spec: widths was \(8, 8, 8, 8, 8, 8\), and is"),
        ("recipe", r"begun with other recipe: class_names was \('background', '1', '2'\)"),
        ("settings", r"begun with other settings: lr was 0\.01, and is 0\.5 now"),
        ("length", "begun with other data: images was 5, and is 6 now"),
        ("augmentation", "begun with other data: augmentation was {"),
        ("no augmentation", "begun with other data: augmentation was .* and is None now"),
    ],
)
def test_another_run_is_not_resumed(whole, name, message):
    before = (whole / "last.pt").read_bytes()
    with refuses(message):
        go(whole, resume=True, **changed(name))
    assert (whole / "last.pt").read_bytes() == before


def test_a_model_is_no_run(tmp_path):
    save_model(small(), tmp_path / "last.pt")
    with refuses("holds only a model, and no run to continue"):
        go(tmp_path, resume=True)


def test_a_run_of_a_compiled_model_can_be_resumed(tmp_path):
    with unchecked():
        for resume in (False, True):
            model = torch.compile(small(), backend="eager")
            run(model, Squares(5), tmp_path, replace(SHORT, steps=1), resume=resume, progress=False)
    assert same(load_model(tmp_path / "last.pt").state_dict(), model._orig_mod.state_dict())


def test_a_run_with_numpys_numbers_can_be_resumed(tmp_path):
    # As when the rate comes from np.logspace.

    with unchecked():
        settings = replace(SHORT, lr=np.float64(0.01))
        colours = {"hue": tuple(np.array([-9.0, 9.0])), "fill": np.array([9, 99, 255])}
        numbers = replace(AUGMENTATIONS["caffe"], **colours)
        squares = Augmented(Squares(5), numbers, image_size=64)
        for resume in (False, True):
            assert go(tmp_path, squares, settings=settings, resume=resume).steps == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_every": 0}, "save_every must be at least 1, not 0"),
        ({"validate_every": 0}, "validate_every must be at least 1, not 0"),
        ({"validation": Squares(0)}, r"len\(validation\) must be at least 1, not 0"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(tmp_path, options, message):
    with refuses(message):
        go(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- when it goes wrong


class OneWhite(Squares):
    """Squares, but image 3 is white from edge to edge."""

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return (image | 255 if index == 3 else image), target


def stumble_over_white(_model, arguments):
    """A preparation that divides white images by zero."""
    (images,) = arguments
    return images / (images.amax((1, 2, 3), keepdim=True) < 2.5)


def test_a_broken_loss_leaves_its_batch(tmp_path):
    model = small()
    model.register_forward_pre_hook(stumble_over_white)
    with pytest.raises(NonFiniteLossError, match=r"finite at step (\d): .*failure-step-\1\.pt"):
        go(tmp_path, OneWhite(5), model)
    (file,) = tmp_path.glob("failure-step-*.pt")
    batch = torch.load(file, weights_only=True)
    assert file.name == f"failure-step-{batch['step']}.pt"
    assert len(records(tmp_path)) == batch["step"]
    loss = MultiBoxLoss(model.priors)
    assert not loss(model(batch["images"]), batch["targets"]).total.isfinite()
    white = batch["images"].amax((1, 2, 3)) > 2.5
    assert white.sum() == 1, "the batch with the image that is at fault"
    good = [target for target, bad in zip(batch["targets"], white, strict=True) if not bad]
    assert loss(model(batch["images"][~white]), good).total.isfinite()


def test_a_full_disk_is_the_systems_error_and_spares_the_checkpoint(tmp_path):
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("this system has no /dev/full, a disk without room")
    assert Child(killed_at_image, tmp_path, 9).end().status == -signal.SIGKILL
    options = {"dataset": augmented(Squares(5)), "save_every": 3, "resume": True}
    before = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "next.partial.pt").symlink_to(device)
    with pytest.raises(OSError, match="No space left"):
        go(tmp_path, **options)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert go(tmp_path, **options).steps == 9


def test_a_folder_that_cannot_be_is_the_systems_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileExistsError, match="file"):
        go(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match="file"):
        go(tmp_path / "file" / "run")


# ---------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was killed in its last step: it has saved after three steps and after six."""
    folder = tmp_path_factory.mktemp("stopped")
    assert Child(killed_at_image, folder, 17).end().status == -signal.SIGKILL
    assert [read_plain(folder / name)["trainer"]["next_step"] for name in BOTH] == [6, 3]
    return folder


BOTH = ("last.pt", "previous.pt")


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(file):
    """In the middle of the weights: torch itself would not notice."""
    data = bytearray(file.read_bytes())
    weight = read_plain(file)["state_dict"]["trunk.1.0.weight"]
    data[data.index(weight.permute(0, 2, 3, 1).numpy().tobytes()) + 99] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, Path.unlink])
def test_after_damage_the_checkpoint_before_is_found(tmp_path, stopped, whole, damage):
    folder = shutil.copytree(stopped, tmp_path / "run")
    damage(folder / "last.pt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"validation": Squares(2), "validate_every": 4, "resume": True}
        go(folder, augmented(Squares(5)), **options)
    said = [str(w.message) for w in caught if "continues from" in str(w.message)]
    assert len(said) == (damage is not Path.unlink)
    for text in said:
        assert f"{folder / 'last.pt'} is damaged" in text
        assert f"continues from {folder / 'previous.pt'}" in text
    assert_same_run(folder, whole)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, Path.unlink])
def test_a_damaged_checkpoint_takes_the_place_of_no_other(tmp_path, stopped, whole, damage):
    folder = shutil.copytree(stopped, tmp_path / "run")
    damage(folder / "last.pt")
    assert Child(killed_at_rename, folder).end().status == -signal.SIGKILL
    steps = [read_plain(folder / name)["trainer"]["next_step"] for name in ("next.pt", BOTH[1])]
    assert steps == [6, 3]
    killed_and_resumed(folder, killed_at_image, 5)  # before there is another checkpoint
    assert_same_run(folder, whole)
    steps = [read_plain(folder / name)["trainer"]["next_step"] for name in BOTH]
    assert steps == [9, 3]


def test_the_newest_checkpoint_is_found_whatever_its_name(tmp_path, stopped, whole):
    folder = shutil.copytree(stopped, tmp_path / "run")
    assert Child(killed_at_rename, folder).end().status == -signal.SIGKILL
    assert sorted(file.name for file in folder.glob("*.pt")) == ["best.pt", "next.pt", BOTH[1]]
    flip_a_bit(folder / "previous.pt")
    go(folder, augmented(Squares(5)), validation=Squares(2), validate_every=4, resume=True)
    assert_same_run(folder, whole)


def test_if_both_are_damaged_the_run_is_not_begun_anew(tmp_path, stopped):
    folder = shutil.copytree(stopped, tmp_path / "run")
    for name in BOTH:
        flip_a_bit(folder / name)
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.warns(UserWarning, match="damaged"), refuses(r"previous\.pt is damaged"):
        go(folder, augmented(Squares(5)), resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("line", ["no json", "[]", "{}", '{"step": "1"}', '{"step": null}'])
def test_damaged_records_are_named(tmp_path, stopped, line):
    folder = shutil.copytree(stopped, tmp_path / "run")
    text = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([text[0], line, *text[2:]]) + "\n")
    with refuses(r"metrics\.jsonl: line 2 is no record of a step"):
        go(folder, augmented(Squares(5)), resume=True)


def test_checkpoints_of_something_else_are_named(tmp_path, stopped):
    content = read_plain(stopped / "last.pt")
    for part, wrong in (("trainer", {}), ("trainer", None), ("spec", 3), ("state_dict", {"a": 1})):
        write_whole({**content, part: wrong}, tmp_path / "last.pt")
        with refuses(r"last\.pt is no checkpoint of this run"):
            go(tmp_path, augmented(Squares(5)), resume=True)


# ---------------------------------------------------------------- other accidents


def wait_for(file):
    """Until another process has written a line."""
    for _ in range(1000):
        if file.exists() and b"\n" in file.read_bytes():
            return
        time.sleep(0.1)
    raise AssertionError("nothing was written")


def lives_on(folder):
    go(folder, augmented(Trap(5, 9, lambda: time.sleep(1000))), save_every=3, resume=True)


@pytest.mark.skipif(fcntl is None, reason="no locks here")
def test_of_two_runs_in_a_folder_the_second_is_refused_while_the_first_lives(tmp_path):
    first = Child(lives_on, tmp_path)
    wait_for(tmp_path / "metrics.jsonl")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with refuses("another run is writing there", FileExistsError):
        go(tmp_path, augmented(Squares(5)), resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes()[: len(before)] == before
    os.kill(first.process.pid, signal.SIGKILL)
    assert first.end().status == -signal.SIGKILL
    assert go(tmp_path, augmented(Squares(5)), resume=True).steps == 9
    assert same(read_plain(tmp_path / "last.pt")["trainer"]["next_step"], 9)


def told_while_validating(folder):
    validation = Trap(2, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    options = {"validation": validation, "validate_every": 4}
    return go(folder, augmented(Squares(5)), **options)


def test_sigterm_during_validation_waits_for_its_end(tmp_path, whole):
    end = Child(told_while_validating, tmp_path).end()
    assert (end.status, end.result[:2]) == (0, (4, signal.SIGTERM))
    assert "mean_ap" in records(tmp_path)[-1]
    options = {"validation": Squares(2), "validate_every": 4, "resume": True}
    go(tmp_path, augmented(Squares(5)), **options)
    assert_same_run(tmp_path, whole)


def gone():
    raise FileNotFoundError("b.jpg: no such file")


def worker_killed(folder):
    settings = replace(SHORT, workers=1)
    return go(folder, augmented(Trap(5, 9, die)), settings=settings, save_every=3)


def late(file):
    """A worker whose trainer dies before it has begun to work."""
    while os.getppid() == parent_process().pid:
        time.sleep(0.01)
    write_whole({"pid": os.getpid()}, file)
    start_worker(0)
    time.sleep(1000)


def killed_while_a_worker_starts(file):
    multiprocessing.get_context("fork").Process(target=late, args=(file,)).start()
    die()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_worker_that_starts_too_late_does_not_outlive_its_trainer(tmp_path):
    file = tmp_path / "worker.pt"
    assert Child(killed_while_a_worker_starts, file).end().status == -signal.SIGKILL
    for _ in range(600):
        if file.exists() and not alive(read_plain(file)["pid"]):
            return
        time.sleep(0.1)
    os.kill(read_plain(file)["pid"], signal.SIGKILL)
    raise AssertionError("the worker lives on")


@pytest.mark.parametrize("accident", ["a file vanishes", "a worker is killed"])
def test_after_an_accident_in_an_epoch_the_run_is_resumed(tmp_path, whole, accident):
    if accident == "a file vanishes":
        with pytest.raises(FileNotFoundError, match=r"b\.jpg"):
            go(tmp_path, augmented(Trap(5, 9, gone)), save_every=3)
    else:
        end = Child(worker_killed, tmp_path).end()
        assert end.status == 0
        assert end.result.startswith("RuntimeError: DataLoader worker")
    options = {"validation": Squares(2), "validate_every": 4, "resume": True}
    go(tmp_path, augmented(Squares(5)), **options)
    assert_same_run(tmp_path, whole)


class SlowSecond(Squares):
    """Squares that cannot be read; every worker but the first takes long to start."""

    def __setstate__(self, state):
        self.__dict__.update(state)
        if not multiprocessing.current_process().name.endswith(":1"):
            time.sleep(1000)

    def __getitem__(self, index):
        gone()


def broken_while_a_worker_starts(job, *arguments):
    """How many workers are left when the error has been caught."""
    multiprocessing.set_start_method("spawn", force=True)
    gc.disable()  # else it may come by, and end them
    with pytest.raises(FileNotFoundError):
        job(*arguments, SlowSecond(), 2)
    return len(multiprocessing.active_children())


def trained(folder, dataset, workers):
    return go(folder, augmented(dataset), settings=replace(SHORT, workers=workers))


def measured(dataset, workers):
    return detect_all(small(), dataset, batch_size=1, workers=workers)


@pytest.mark.parametrize("measuring", [False, True])
def test_an_error_ends_the_workers_even_those_that_are_still_starting(
    tmp_path, monkeypatch, measuring
):
    monkeypatch.setattr(children, "PATIENCE", 300)  # two workers that import PyTorch
    # When Python ends them at its exit, PyTorch may take that for a second error.
    job = (measured,) if measuring else (trained, tmp_path)
    assert Child(broken_while_a_worker_starts, *job).end() == (0, 0)


def as_nobody(folder):
    go(folder / "first")  # what is imported late is imported now
    os.seteuid(65534)
    return go(folder / "second")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_cannot_be_written_is_the_systems_error(tmp_path):
    end = Child(as_nobody, tmp_path).end()
    assert end.result.startswith("PermissionError: ")
    assert str(tmp_path) in end.result


# ---------------------------------------------------------------- measuring


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_counts_the_batches_if_asked_for(progress, capsys):
    detect_all(small(), Squares(5), batch_size=2, progress=progress)
    assert ("3/3" in capsys.readouterr().err) == progress


@pytest.mark.parametrize("workers", [0, 1])
def test_detect_all_keeps_the_order_and_the_targets(workers):
    squares = Squares(5)
    detections, targets = detect_all(small(), squares, batch_size=2, workers=workers)
    expected = detect(small(), [squares[k][0] for k in range(5)], batch_size=2)
    assert same([tuple(d) for d in detections], [tuple(d) for d in expected])
    assert same(targets, [squares[k][1] for k in range(5)])


def validated_with_few_open_files(workers):
    """Validate where a process may open 64 files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    return len(validate(small(), Squares(60), batch_size=10, workers=workers).ap)


def test_validation_with_workers_needs_few_open_files():
    # Each tensor from a worker keeps a file open while it lives: a thousand images are too many.
    assert Child(validated_with_few_open_files, 1).end() == (0, 3)
