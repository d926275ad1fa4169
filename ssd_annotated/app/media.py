"""Photographs, videos and cameras, read one image at a time."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from ssd_annotated.app.containers import check_container
from ssd_annotated.data.annotation import Problem, unread
from ssd_annotated.data.items import SUFFIXES
from ssd_annotated.data.pixels import read_image
from ssd_annotated.support.checks import check_choice

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
#: Of a frame: twice those of 8K. A video keeps several in memory.
MOST_FRAME_PIXELS = 70_000_000


class Photograph(NamedTuple):
    """An image file and its pixels, RGB."""

    file: Path
    image: UInt8[np.ndarray, "H W 3"]


class Frame(NamedTuple):
    """A frame's number from 0, its time in seconds from the start, and its pixels, RGB."""

    number: int
    seconds: float
    image: UInt8[np.ndarray, "H W 3"]


class Images:
    """The photographs of a folder, in the order of their names, or a single one; read on demand.

    Parameters
    ----------
    source
        An image file, or a folder of images. Folders within it are not entered, and hidden files
        are left out.
    on_bad
        ``"raise"``: an image that cannot be read is an error. ``"skip"``: it is left out, and added
        to `problems`.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If the folder has no image file; during iteration, if a file is damaged or not an image.
    """

    def __init__(self, source: str | Path, on_bad: Literal["raise", "skip"] = "raise") -> None:
        check_choice("on_bad", on_bad, ("raise", "skip"))
        self.on_bad = on_bad
        self.files = image_files(Path(source))
        self.problems: list[Problem] = []

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Photograph]:
        self.problems = []
        for file in self.files:
            try:
                image = read_image(file)
            except (ValueError, OSError) as error:
                if self.on_bad == "raise":
                    raise
                self.problems.append(unread(file, error))
                continue
            yield Photograph(file, image)


def image_files(source: Path) -> list[Path]:
    """The file itself, or the images of a folder."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such file or folder")
    files = sorted(
        file
        for file in source.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise ValueError(f"{source}: no image in this folder; looked for {', '.join(SUFFIXES)}")
    return files


# --- Videos ---------------------------------------------------------------------------------------


def is_video(file: str | Path) -> bool:
    """Whether the file's name ends as a video's does."""
    return Path(file).suffix.lower() in VIDEO_SUFFIXES


class Video:
    """The frames of a video file or of a camera, from the first, once; a context manager.

    Parameters
    ----------
    source
        A video file, or the number of a camera: 0 is the first.
    on_bad
        A file ends early if it is more than a second shorter than its header promises.
        ``"raise"``: that is an error after the last frame. ``"skip"``: it is added to `problems`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a video, or a frame has more than `MOST_FRAME_PIXELS`; during iteration,
        if it holds no frame or ends early.
    OSError
        If the camera cannot be opened; during iteration, if it gives no more frames.

    Notes
    -----
    A header also counts frames that an editor cut out without removing them. Such a file seems to
    end early; read it with ``"skip"``.
    """

    def __init__(
        self, source: str | Path | int, on_bad: Literal["raise", "skip"] = "raise"
    ) -> None:
        check_choice("on_bad", on_bad, ("raise", "skip"))
        self.on_bad = on_bad
        self.problems: list[Problem] = []
        self.is_camera = isinstance(source, int)
        self.name = f"camera {source}" if self.is_camera else str(source)
        if not self.is_camera:
            if not Path(source).is_file():
                raise FileNotFoundError(f"{source}: no such file")
            check_container(Path(source))
        self._capture = cv2.VideoCapture(source if self.is_camera else str(source))
        if not self._capture.isOpened():
            if self.is_camera:
                raise OSError(f"{self.name}: cannot be opened: absent, in use, or not permitted")
            raise ValueError(f"{self.name}: not a video, or it ends early: OpenCV cannot open it")
        self._check_size()

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    @property
    def fps(self) -> float | None:
        """Frames per second, or None if they are unknown."""
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        return fps if 0 < fps <= 1000 else None

    @property
    def count(self) -> int | None:
        """How many frames the file's header promises; None for a camera or if it promises none."""
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return None if self.is_camera or count < 1 else count

    def __iter__(self) -> Iterator[Frame]:
        start, number = time.monotonic(), 0
        while (image := self._next()) is not None:
            moment = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            seconds = time.monotonic() - start if self.is_camera else moment
            yield Frame(number, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            number += 1
        self._check_end(number)

    def _next(self) -> UInt8[np.ndarray, "H W 3"] | None:
        """The next image, BGR, or None; what is damaged ends a film, even if OpenCV raises."""
        try:
            there, image = self._capture.read()
        except cv2.error:
            return None
        return image if there else None

    def _check_size(self) -> None:
        """Refuse frames that would fill the memory."""
        width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MOST_FRAME_PIXELS:
            self._capture.release()
            what = f"{width} × {height}, more than {MOST_FRAME_PIXELS:,} pixels"
            raise ValueError(f"{self.name}: too large: {what}")

    def _check_end(self, number: int) -> None:
        """Complain if there should have been more frames."""
        if self.is_camera:
            raise OSError(f"{self.name}: no more frames after {number}")
        if number == 0:
            raise ValueError(f"{self.name}: no frame that OpenCV can decode")
        if (self.count or 0) - number > (self.fps or 30):
            what = f"ends early: {number} of {self.count} frames could be read"
            if self.on_bad == "raise":
                raise ValueError(f"{self.name}: {what}")
            self.problems.append(Problem(Path(self.name), "", what))
