"""`detect` on 5,000 pictures, some broken: memory stays flat, and a killed folder is resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from watching import record_memory, resident

COUNT, BROKEN = 5000, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small photographs; every five-hundredth is broken."""
    path = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(8)]
    for k in range(COUNT):
        file = path / f"{k:05}.jpg"
        cv2.imwrite(str(file), cv2.GaussianBlur(images[k % 8], (0, 0), 2))
        if k % (COUNT // BROKEN) == 3:
            file.write_bytes(file.read_bytes()[:200])
    return path


def start(folder, out):
    command = [sys.executable, "-m", "ssd_annotated", "detect", "tiny-graffiti", str(folder)]
    options = ["--out", str(out / "drawn"), "--json", str(out / "found.jsonl"), "--skip-existing"]
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def count(out):
    file = out / "found.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_memory_is_flat_and_a_killed_folder_is_resumed(folder, tmp_path):
    process, seen = start(folder, tmp_path), []
    while (done := count(tmp_path)) < COUNT // 2:
        assert process.poll() is None
        seen.append((done, resident(process)))
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = count(tmp_path)
    process = start(folder, tmp_path)
    while process.poll() is None:
        seen.append((count(tmp_path), resident(process)))
        time.sleep(0.2)
    out, err = process.communicate()
    for first in range(0, COUNT, 500):
        memory = [held for done, held in seen if first < done <= first + 500 and held]
        print(f"{first}: {min(memory)} to {max(memory)} MiB")
    print(out, err[-300:])
    record_memory("pictures", [(done / COUNT, held) for done, held in seen])
    assert process.returncode == 0
    assert f"{before} were done before" in out
    assert err.count("left out: ") == BROKEN
    names = [json.loads(line)["file"] for line in (tmp_path / "found.jsonl").open()]
    assert len(names) == len(set(names)) == len(list((tmp_path / "drawn").iterdir()))
    assert len(names) == COUNT - BROKEN
    # Not the last batch: it is smaller, and a size that is new costs memory once.
    early = max(held for done, held in seen if 250 < done < 1000)
    late = max(held for done, held in seen if COUNT - 1000 < done < COUNT - 100)
    assert late < early + 20
