"""`detect` on a video of 20 minutes: memory stays flat, and Ctrl-C leaves nothing half written."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from watching import record_memory, resident

from ssd_annotated.app.media import Video

MINUTES, RATE = 20, 5
COUNT = MINUTES * 60 * RATE


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Noise that drifts by, so that no two frames are alike."""
    path = tmp_path_factory.mktemp("film") / "long.avi"
    noise = np.random.default_rng(0).integers(0, 256, (80, 400, 3), dtype=np.uint8)
    noise = cv2.GaussianBlur(noise, (0, 0), 3)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE, (96, 80))
    for number in range(COUNT):
        writer.write(np.ascontiguousarray(noise[:, number % 300 : number % 300 + 96]))
    writer.release()
    return path


def start(film, out):
    command = [sys.executable, "-m", "ssd_annotated", "detect", "tiny-graffiti", str(film)]
    options = ["--out", str(out / "drawn.mp4"), "--json", str(out / "found.jsonl")]
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so do its children.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def written(out):
    """The bytes of the list of frames so far."""
    return sum(file.stat().st_size for file in out.glob("found*.jsonl"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_memory_is_flat_and_ctrl_c_leaves_nothing_behind(film, tmp_path):
    process = start(film, tmp_path)
    while written(tmp_path) < 100_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []

    process, seen = start(film, tmp_path), []
    while process.poll() is None:
        seen.append((written(tmp_path), resident(process)))
        time.sleep(0.2)
    out, err = process.communicate()
    assert process.returncode == 0, (out, err[-300:])
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").open()]
    assert [line["frame"] for line in lines] == list(range(COUNT))
    np.testing.assert_allclose(lines[-1]["seconds"], (COUNT - 1) / RATE, atol=0.01)
    with Video(tmp_path / "drawn.mp4") as drawn:
        assert (drawn.count, drawn.fps) == (COUNT, RATE)
    whole = max(size for size, _ in seen)
    record_memory("video", [(size / whole, held) for size, held in seen])
    tenths = [
        [held for size, held in seen if k * whole < 10 * size <= (k + 1) * whole and held]
        for k in range(10)
    ]
    print("\n".join(f"tenth {k}: {min(t)} to {max(t)} MiB" for k, t in enumerate(tenths)))
    # Not the end: the last batch is smaller, and a size that is new costs memory once.
    assert max(tenths[8]) < max(tenths[1]) + 20
