"""A training killed a hundred times at random moments, and other hard faults: ``make test-faults``.

The run is a small one, in a process of its own, which does nothing but train. Whenever it is
killed, some of its files may be half written. It is resumed until it is done, and the result must
equal the uninterrupted run bit for bit.
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from children import Child
from squares import Squares
from test_run import assert_same_run, augmented, go, records

from ssd_annotated.checkpoint import read_plain
from ssd_annotated.training.settings import Settings

STEPS = 12
KILLS = int(os.environ.get("KILLS", "100"))
SETTINGS = Settings(steps=STEPS, batch_size=2, lr=1e-2)


def train(folder, **options):
    """A few steps with a checkpoint after each second one: much of the time goes into writing."""
    return go(
        folder,
        augmented(Squares(5)),
        settings=SETTINGS,
        save_every=2,
        validation=Squares(2),
        validate_every=4,
        resume=True,
        **options,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    for _ in range(2):  # the first also starts the server that children come from
        folder = tmp_path_factory.mktemp("whole")
        started = time.monotonic()
        assert Child(train, folder).end().result.steps == STEPS
    return folder, time.monotonic() - started


def wait_for_records(folder, child):
    """Until a run has written another record, or has ended."""
    file = folder / "metrics.jsonl"
    size = file.stat().st_size if file.exists() else 0
    while child.process.is_alive() and not (file.exists() and file.stat().st_size > size):
        time.sleep(0.005)


def test_killed_a_hundred_times_it_ends_with_the_same_bits(whole, tmp_path):
    uninterrupted, seconds = whole
    rng = np.random.default_rng(0)
    kills = runs = half = at_once = 0
    while kills < KILLS:
        folder = tmp_path / str(runs)
        runs, done = runs + 1, False
        while not done:
            child = Child(train, folder)
            if rng.random() < 0.7:  # not while it starts, but at work
                wait_for_records(folder, child)
            child.process.join(float(rng.uniform(0, 0.6 * seconds)) if kills < KILLS else None)
            if done := not child.process.is_alive():
                assert child.end().result.steps == STEPS
                break
            os.kill(child.process.pid, signal.SIGKILL)
            if child.end().status == 0:  # it was just done
                break
            kills += 1
            half += any(folder.glob("*.partial*")) or (folder / "next.pt").exists()
            at_once += not (folder / "last.pt").exists()
        assert_same_run(folder, uninterrupted)
        print(
            f"\n{kills} kills in {runs} runs: {half} left a file half written, {at_once} came "
            "before the first checkpoint; each run ended with the bits of the uninterrupted one",
            flush=True,
        )


def filled(folder, room):
    """Train where no file may grow beyond `room` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    return train(folder)


def test_where_files_cannot_grow_the_run_stops_with_the_systems_error(whole, tmp_path):
    uninterrupted, _ = whole
    size = (uninterrupted / "last.pt").stat().st_size
    records_size = (uninterrupted / "metrics.jsonl").stat().st_size
    for number, room in enumerate((1, records_size // 3, size // 2, size - 1)):
        folder = tmp_path / str(number)
        end = Child(filled, folder, room).end()
        assert end.status == 0
        assert end.result.startswith("OSError: [Errno 27]"), end.result
        assert not list(folder.glob("*.partial*"))
        train(folder)
        assert_same_run(folder, uninterrupted)


def test_a_flipped_bit_is_named_or_harmless(whole, tmp_path):
    """Of 400 bits, all over the checkpoint: it is refused, or holds what it held."""
    uninterrupted, _ = whole
    data = (uninterrupted / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(data)
    expected = str(read_plain(tmp_path / "last.pt"))
    rng, refused = np.random.default_rng(0), []
    for place in rng.integers(0, 8 * len(data), 400).tolist():
        spoilt = bytearray(data)
        spoilt[place // 8] ^= 1 << place % 8
        (tmp_path / "last.pt").write_bytes(spoilt)
        try:
            found = str(read_plain(tmp_path / "last.pt"))
        except ValueError as error:
            refused.append(str(error))
        else:
            assert found == expected, place
    assert all(str(tmp_path / "last.pt") in message for message in refused)
    for length in range(0, len(data), max(len(data) // 200, 1)):
        (tmp_path / "last.pt").write_bytes(data[:length])
        with pytest.raises(ValueError, match="damaged"):
            read_plain(tmp_path / "last.pt")
    count = len(refused)
    print(f"\n400 flipped bits: {count} refused, {400 - count} harmless; every cut refused")


def test_the_records_of_a_resumed_run_have_no_gap(whole):
    steps = [record["step"] for record in records(whole[0]) if "mean_ap" not in record]
    assert steps == list(range(STEPS))
