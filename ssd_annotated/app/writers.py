"""Write detections as JSON, as annotated photographs and as annotated videos.

A file is written under another name and then renamed, so that it is never seen half written;
`image_lines` alone grows line by line, so that a folder can be resumed.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from ssd_annotated.app.draw import draw_detections, to_pixels
from ssd_annotated.app.media import Frame, Photograph
from ssd_annotated.model import Recipe
from ssd_annotated.nms import Detections
from ssd_annotated.support.files import whole

# Takes one photograph or frame and its detections.
Writer = Callable[[Photograph | Frame, Detections], None]
# Open while there is something to write; an unfinished file is removed.
Output = AbstractContextManager[Writer]


def identities(files: Iterable[Path]) -> set[tuple[int, int]]:
    """Which files on the disk these are, under whatever name; a missing one is none."""
    found = (file.stat() for file in files if file.exists())
    return {(about.st_dev, about.st_ino) for about in found}


def check_target(target: Path, suffix: str, inputs: set[tuple[int, int]]) -> Path:
    """Return the file; a ValueError unless it ends in `suffix` and its identity is no input's."""
    if target.suffix.lower() != suffix.lower():
        raise ValueError(f"{target}: expected a name that ends in {suffix}")
    if identities([target]) & inputs:
        raise ValueError(f"{target}: would overwrite an input")
    return target


def entry(item: Photograph | Frame, detections: Detections, class_names: tuple[str, ...]) -> str:
    """One line of JSON: which image or frame it is, its width and height, and its detections.

    ``box_px`` is ``xyxy`` in pixels from the top left corner, cut off at the image's border.
    """
    if isinstance(item, Photograph):
        which = {"file": item.file.name}
    else:
        which = {"frame": item.number, "seconds": round(item.seconds, 6)}
    height, width = item.image.shape[:2]
    boxes = to_pixels(detections, width, height).round(2).tolist()
    scores, labels = detections.scores.cpu().double().tolist(), detections.labels.tolist()
    found = [
        {"label": label, "name": class_names[label], "score": round(score, 6), "box_px": box}
        for box, score, label in zip(boxes, scores, labels)
    ]
    return json.dumps({**which, "width": width, "height": height, "detections": found})


@contextmanager
def json_document(path: Path, model: dict, class_names: tuple[str, ...]) -> Iterator[Writer]:
    """One JSON document: ``{"model": …, "images": [{"file", "width", "height", "detections"}]}``.

    Each image is written on a line of its own, as soon as it is given.
    """
    with whole(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(f'{{"model": {json.dumps(model)},\n"images": [')
        between = iter(["\n"])

        def add(photograph: Photograph, detections: Detections) -> None:
            file.write(next(between, ",\n") + entry(photograph, detections, class_names))

        yield add
        file.write("\n]}\n")


@contextmanager
def image_lines(path: Path, class_names: tuple[str, ...], resume: bool = False) -> Iterator[Writer]:
    """JSON lines, one for each image, as in `json_document`, each there as soon as it is given.

    To `resume` is to keep the whole lines that are there, and to write no image twice.
    """
    done, length = read_lines(path) if resume else (set(), 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8", buffering=1) as file:
        file.truncate(length)

        def add(photograph: Photograph, detections: Detections) -> None:
            if photograph.file.name not in done:
                file.write(entry(photograph, detections, class_names) + "\n")

        yield add


def read_lines(path: Path) -> tuple[set[str], int]:
    """The files that lines of `image_lines` name, and the bytes of the whole ones.

    A kill may leave half a line behind. A ValueError names a file that holds something else.
    """
    data = path.read_bytes() if path.exists() else b""
    length = data.rfind(b"\n") + 1
    try:
        return {json.loads(line)["file"] for line in data[:length].splitlines()}, length
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: holds something other than detections in images") from error


@contextmanager
def json_lines(path: Path, class_names: tuple[str, ...]) -> Iterator[Writer]:
    """JSON lines, one for each frame: frame, seconds, width, height and detections."""
    with whole(path) as partial, open(partial, "w", encoding="utf-8") as file:

        def add(frame: Frame, detections: Detections) -> None:
            file.write(entry(frame, detections, class_names) + "\n")

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
    """An MP4 (``mp4v``, no sound) of the frames with their boxes; 30 a second without `fps`."""
    with whole(path) as partial, closing(VideoFile(partial, fps or 30.0)) as file:

        def add(frame: Frame, detections: Detections) -> None:
            file.write(draw_detections(frame.image, detections, class_names))

        yield add


class VideoFile:
    """A video being written; the first frame sets its size."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.shape: tuple[int, ...] | None = None
        self._writer = cv2.VideoWriter()

    def write(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Add an RGB frame. MPEG needs even sides: an odd side gets its last pixels twice."""
        self.shape = self.shape or self._open(image.shape)
        if image.shape != self.shape:
            # OpenCV would leave it out without a warning.
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


def describe(architecture: str, recipe: Recipe) -> dict[str, object]:
    """Architecture and recipe, which a user of the detections needs: plain data, fit for JSON."""
    return {"architecture": architecture, "recipe": asdict(recipe)}
