"""Start-up: what is imported before the first detection, each time in a fresh process."""

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
from timing import Goal, Row, Ways

from ssd_annotated.data.graffiti import GraffitiDigits


def python(*arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)


def imports() -> Ways:
    return {
        "ours": lambda: python("-c", "from ssd_annotated import detect, pretrained"),
        "import torch": lambda: python("-c", "import torch"),
        "import torchvision": lambda: python("-c", "import torchvision"),
    }


class FirstDetection:
    """The command line on one scene; the folder goes when the benchmark does."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.image = Path(self.folder.name) / "scene.png"
        cv2.imwrite(str(self.image), GraffitiDigits("test")[0][0][:, :, ::-1])

    def __call__(self) -> None:
        found = Path(self.folder.name) / "found"
        python("-m", "ssd_annotated", "detect", "tiny-graffiti", self.image, "--out", found)


def first_detection() -> Ways:
    return {"ours": FirstDetection(), "import torch": lambda: python("-c", "import torch")}


#: Wall time, as several processes are: two threads say so.
ROWS = {
    "start: import of what detects": Row(
        imports, (Goal("import torch", 1, 300),), threads=2, seconds=12, rounds=3
    ),
    "start: first detection of the command line": Row(
        first_detection, (Goal("", 1, 3000),), threads=2, seconds=10, rounds=3
    ),
}
