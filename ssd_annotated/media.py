"""Photographs, videos and cameras in; annotated copies and JSON out; never more than a batch held.

What cannot be read is an error that names its file, or, if asked for, left out and listed. A file
is written under another name and then renamed: whoever sees it sees all of it.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from ssd_annotated.data.annotation import Problem
from ssd_annotated.data.voc import SUFFIXES
from ssd_annotated.draw import draw_detections, to_pixels
from ssd_annotated.files import whole
from ssd_annotated.nms import Detections

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


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
    """The photographs of a folder, in the order of their names, or a single one; read as asked for.

    Parameters
    ----------
    source
        An image file, or a folder with some. Folders within it are not entered, and hidden files
        are left out.
    on_bad
        ``"raise"``: an image that cannot be read is an error. ``"skip"``: it is left out, and added
        to `problems`.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If the folder has no image file; later, if a file is no image or ends early.
    """

    def __init__(self, source: str | Path, on_bad: Literal["raise", "skip"] = "raise") -> None:
        check_on_bad(on_bad)
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
                self.problems.append(Problem(file, "", str(error).removeprefix(f"{file}: ")))
                continue
            yield Photograph(file, image)


def check_on_bad(on_bad: str) -> None:
    """Raise a ValueError unless it says what to do."""
    if on_bad not in ("raise", "skip"):
        raise ValueError(f"on_bad must be 'raise' or 'skip', not {on_bad!r}")


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


def read_image(file: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image to 8-bit RGB, turned upright as its EXIF orientation asks.

    Grey, 16 bits, CMYK and transparency are converted.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file ends early, is no image, or cannot be read; the message names it.
    """
    try:
        # Bytes: from a file OpenCV reads a JPEG that ends early, and makes up the rest in grey.
        data = np.frombuffer(Path(file).read_bytes(), dtype=np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such file") from None
    except (OSError, cv2.error) as error:
        raise ValueError(f"{file}: corrupt image: {error}") from error
    if image is None:
        raise ValueError(f"{file}: corrupt image: OpenCV cannot decode it")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


# --- Videos ---------------------------------------------------------------------------------------


def is_video(file: str | Path) -> bool:
    """Whether the file's name ends as a video's does."""
    return Path(file).suffix.lower() in VIDEO_SUFFIXES


class Video:
    """The frames of a video file or of a camera, once, from the first; a context manager.

    Parameters
    ----------
    source
        A video file, or the number of a camera: 0 is the first.
    on_bad
        ``"raise"``: a file that ends early, by more than a second of what its header promises, is
        an error once its last frame was read. ``"skip"``: that is added to `problems`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no video; later, if it holds no frame, or ends early.
    OSError
        If the camera cannot be opened; later, if it gives no more frames.

    Notes
    -----
    A header counts frames too that an editor cut out without removing them; such a file seems to
    end early, and wants ``"skip"``.
    """

    def __init__(
        self, source: str | Path | int, on_bad: Literal["raise", "skip"] = "raise"
    ) -> None:
        check_on_bad(on_bad)
        self.on_bad = on_bad
        self.problems: list[Problem] = []
        self.is_camera = isinstance(source, int)
        self.name = f"camera {source}" if self.is_camera else str(source)
        if not self.is_camera and not Path(source).is_file():
            raise FileNotFoundError(f"{source}: no such file")
        self._capture = cv2.VideoCapture(source if self.is_camera else str(source))
        if not self._capture.isOpened():
            if self.is_camera:
                raise OSError(f"{self.name}: cannot be opened: absent, in use, or not permitted")
            raise ValueError(f"{self.name}: not a video, or it ends early: OpenCV cannot open it")

    def __enter__(self) -> "Video":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._capture.release()

    @property
    def fps(self) -> float | None:
        """Frames per second, or None if nobody knows."""
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        return fps if 0 < fps <= 1000 else None

    @property
    def count(self) -> int | None:
        """How many frames the file's header promises; None for a camera, or if it says nothing."""
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return None if self.is_camera or count < 1 else count

    def __iter__(self) -> Iterator[Frame]:
        start, number = time.monotonic(), 0
        while True:
            there, image = self._capture.read()
            if not there:
                break
            moment = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            seconds = time.monotonic() - start if self.is_camera else moment
            yield Frame(number, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            number += 1
        self._check_end(number)

    def _check_end(self, number: int) -> None:
        """Say if there should have been more frames."""
        if self.is_camera:
            raise OSError(f"{self.name}: gives no more frames, after {number}")
        if number == 0:
            raise ValueError(f"{self.name}: no frame: OpenCV can decode none")
        if (self.count or 0) - number > (self.fps or 30):
            what = f"ends early: {number} of {self.count} frames could be read"
            if self.on_bad == "raise":
                raise ValueError(f"{self.name}: {what}")
            self.problems.append(Problem(Path(self.name), "", what))


# --- Writing --------------------------------------------------------------------------------------

# Takes one photograph or frame with what was found in it.
Writer = Callable[[Photograph | Frame, Detections], None]
# Open while there is something to write; a file that was not written to the end is not left.
Output = AbstractContextManager[Writer]


def check_target(target: Path, suffix: str, inputs: list[Path]) -> Path:
    """The file, unless its name does not end in `suffix`, or it is one of the inputs."""
    if target.suffix.lower() != suffix.lower():
        raise ValueError(f"{target}: expected a name that ends in {suffix}")
    if target.exists() and any(file.exists() and target.samefile(file) for file in inputs):
        raise ValueError(f"{target}: would overwrite what is read")
    return target


def found_plainly(
    image: UInt8[np.ndarray, "H W 3"], detections: Detections, class_names: tuple[str, ...]
) -> dict[str, object]:
    """Width, height and detections of an image as JSON knows them.

    ``box_px`` is ``xyxy`` in pixels from the top left corner, cut off at the image's border.
    """
    height, width = image.shape[:2]
    boxes = to_pixels(detections, width, height).round(2).tolist()
    scores, labels = detections.scores.cpu().double().tolist(), detections.labels.tolist()
    found = [
        {"label": label, "name": class_names[label], "score": round(score, 6), "box_px": box}
        for box, score, label in zip(boxes, scores, labels)
    ]
    return {"width": width, "height": height, "detections": found}


@contextmanager
def json_document(path: Path, model: dict, class_names: tuple[str, ...]) -> Iterator[Writer]:
    """One JSON document: ``{"model": …, "images": [{"file", "width", "height", "detections"}]}``.

    An image is written when it is given, one a line.
    """
    with whole(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(f'{{"model": {json.dumps(model)},\n"images": [')
        between = iter(["\n"])

        def add(photograph: Photograph, detections: Detections) -> None:
            plain = found_plainly(photograph.image, detections, class_names)
            line = json.dumps({"file": photograph.file.name, **plain})
            file.write(next(between, ",\n") + line)

        yield add
        file.write("\n]}\n")


@contextmanager
def json_lines(path: Path, class_names: tuple[str, ...]) -> Iterator[Writer]:
    """JSON lines, one for each frame: frame, seconds, width, height and detections."""
    with whole(path) as partial, open(partial, "w", encoding="utf-8") as file:

        def add(frame: Frame, detections: Detections) -> None:
            plain = found_plainly(frame.image, detections, class_names)
            line = {"frame": frame.number, "seconds": round(frame.seconds, 6), **plain}
            file.write(json.dumps(line) + "\n")

        yield add


@contextmanager
def annotated_images(folder: Path, class_names: tuple[str, ...]) -> Iterator[Writer]:
    """A folder of the photographs with their boxes, each under its own name."""

    def add(photograph: Photograph, detections: Detections) -> None:
        drawn = draw_detections(photograph.image, detections, class_names)
        write_image(drawn, folder / photograph.file.name)

    yield add


def write_image(image: UInt8[np.ndarray, "H W 3"], path: Path) -> None:
    """Write an RGB image in the format that the file's name asks for, whole or not at all."""
    try:
        done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise ValueError(f"{path}: OpenCV cannot write this format: {error.err}") from error
    if not done:
        height, width = image.shape[:2]
        raise ValueError(f"{path}: OpenCV cannot write {width} × {height} pixels in this format")
    with whole(path) as partial:
        partial.write_bytes(data.tobytes())


@contextmanager
def annotated_video(
    path: Path, fps: float | None, class_names: tuple[str, ...]
) -> Iterator[Writer]:
    """An MP4 of the frames with their boxes, ``mp4v``, without sound; 30 a second if unknown."""
    with whole(path) as partial:
        file = VideoFile(partial, fps or 30.0)

        def add(frame: Frame, detections: Detections) -> None:
            file.write(draw_detections(frame.image, detections, class_names))

        try:
            yield add
        finally:
            file.close()


class VideoFile:
    """A video being written; the first frame decides on its size."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.shape: tuple[int, ...] | None = None
        self._writer = cv2.VideoWriter()

    def write(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Add a frame, RGB; where a side is odd its last pixels are doubled, as MPEG wants it."""
        self.shape = self.shape or self._open(image.shape)
        if image.shape != self.shape:
            # OpenCV would leave it out, and say nothing.
            raise ValueError(f"{self.path}: a frame of shape {image.shape} after {self.shape}")
        height, width = image.shape[:2]
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        even = cv2.copyMakeBorder(bgr, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(even)

    def _open(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        height, width = shape[:2]
        even = (width + width % 2, height + height % 2)
        if not self._writer.open(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, even):
            raise OSError(f"{self.path}: OpenCV cannot write a video of {width} × {height} pixels")
        return shape

    def close(self) -> None:
        """Finish the file."""
        self._writer.release()
