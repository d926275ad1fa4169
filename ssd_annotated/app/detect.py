"""Detect on files and cameras: pictures, folders and videos in; drawings and JSON out."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from ssd_annotated.app.media import Frame, Images, Photograph, Video
from ssd_annotated.app.writers import (
    Output,
    Writer,
    annotated_images,
    annotated_video,
    check_target,
    describe,
    identities,
    image_lines,
    json_document,
    json_lines,
    read_lines,
)
from ssd_annotated.data.annotation import Problem
from ssd_annotated.detection import changed, detect_stream
from ssd_annotated.model import SSD, Recipe
from ssd_annotated.support.checks import check_at_least


class Tally(NamedTuple):
    """How many images or frames were looked at, how many objects were found, and what went wrong.

    `str` of a problem names the file and says what is wrong with it; `skipped` counts the images
    that were already done.
    """

    images: int
    objects: int
    problems: list[Problem]
    skipped: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to write of the detections, and how: options of `detect_images` and `detect_video`.

    Parameters
    ----------
    drawings
        Copies with boxes and names. For images this is a folder, which is made if it is missing;
        each file keeps its name. For a video it is an ``.mp4`` file without sound.
    document
        The detections as numbers: for images a ``.json`` file (see `json_document`; `describe`
        gives its ``"model"``) or a ``.jsonl`` file (see `image_lines`), for a video a ``.jsonl``
        file (see `json_lines`).
    batch_size
        Images or frames that pass through the network together. With a camera, 1 shows each
        frame at once.
    on_bad
        ``"raise"``: what cannot be read is an error; ``"skip"``: it is left out and listed.
    skip_existing
        Leave out images whose outputs are all there, and keep these: so a folder is resumed. The
        document must then be a ``.jsonl`` file. A video is always begun anew.
    progress
        Whether to show a bar, on stderr.
    recipe
        Fields of the model's recipe that differ for this call, such as ``nms_threshold``.
    score_threshold
        The lowest score written.
    """

    drawings: str | Path | None = None
    document: str | Path | None = None
    batch_size: int = 8
    on_bad: Literal["raise", "skip"] = "raise"
    skip_existing: bool = False
    progress: bool = True
    score_threshold: float = 0.5
    recipe: Mapping[str, object] = field(default_factory=dict)

    def recipe_for(self, model: SSD) -> Recipe:
        """The model's recipe with the changes of this job."""
        return changed(model.recipe, {"score_threshold": self.score_threshold, **self.recipe})


def detect_images(model: SSD, source: str | Path, **options: object) -> Tally:
    """Detect objects in an image file or in all images of a folder, and write them.

    Parameters
    ----------
    source
        See `Images`.
    **options
        See `Job`.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If a file is not an image, no image is left, a drawing would overwrite an image, or
        neither drawings nor a document are asked for.
    """
    job = Job(**options)
    images = Images(source, job.on_bad)
    outputs = _image_outputs(images.files, job, model)
    skipped = _leave_out_done(images, job) if job.skip_existing else 0
    counts = Counter(images=0, objects=0)
    with ExitStack() as files:
        writers = list(map(files.enter_context, outputs))
        bar = tqdm(total=len(images), unit="image", disable=not job.progress)
        _run(model, images, job, writers, bar, counts)
        if counts["images"] == 0 and not skipped:
            raise ValueError(f"{source}: read 0 of {len(images)} images: {images.problems[0]}")
    return Tally(**counts, problems=images.problems, skipped=skipped)


def _leave_out_done(images: Images, job: Job) -> int:
    """Leave out the images of which all outputs are there; return how many they are."""
    done = {file.name for file in images.files}
    if job.drawings is not None:
        done = {name for name in done if Path(job.drawings, name).exists()}
    if job.document is not None:
        done &= read_lines(Path(job.document))[0]
    images.files = [file for file in images.files if file.name not in done]
    return len(done)


def _image_outputs(files: list[Path], job: Job, model: SSD) -> list[Output]:
    """The outputs of `detect_images`, checked but not yet open."""
    recipe, inputs, outputs = job.recipe_for(model), identities(files), []
    if job.drawings is not None:
        for file in files:
            check_target(Path(job.drawings) / file.name, file.suffix, inputs)
        outputs.append(annotated_images(Path(job.drawings), recipe.class_names))
    # The document comes last: an image that it lists is drawn, too.
    if job.document is not None and Path(job.document).suffix.lower() == ".jsonl":
        path = check_target(Path(job.document), ".jsonl", inputs)
        outputs.append(image_lines(path, recipe.class_names, job.skip_existing))
    elif job.document is not None:
        path = check_target(Path(job.document), ".json", inputs)
        if job.skip_existing:
            raise ValueError(f"{path}: only a .jsonl file can be continued")
        about = describe(model.spec.architecture, recipe)
        outputs.append(json_document(path, about, recipe.class_names))
    if not outputs:
        raise ValueError("nothing to write: give drawings, a document, or both")
    return outputs


def detect_video(
    model: SSD,
    source: str | Path | int,
    *,
    on_frame: Writer | None = None,
    frames: int | None = None,
    **options: object,
) -> Tally:
    """Detect objects in all frames of a video file, or of a camera until Ctrl-C, and write them.

    Parameters
    ----------
    source
        See `Video`.
    on_frame
        Called with each `Frame` and its `Detections`, for example to show it in a window.
    frames
        Stop after this many frames; None reads all of them.
    **options
        See `Job`.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As for `Video`; also a ValueError if the video would be overwritten or there is no output.

    Notes
    -----
    A camera gives only as many frames as there is time for. Its annotated video has the camera's
    own rate, so it may run faster than life. The document has the true times.
    """
    check_at_least("frames", frames, 1)
    job = Job(**options)
    counts = Counter(images=0, objects=0)
    with Video(source, job.on_bad) as video, ExitStack() as files:
        outputs = _video_outputs(video, job, job.recipe_for(model).class_names)
        if not outputs and on_frame is None:
            raise ValueError("nothing to write: give drawings, a document, both, or on_frame")
        writers = [*map(files.enter_context, outputs), *filter(None, [on_frame])]
        bar = tqdm(total=frames or video.count, unit="frame", disable=not job.progress)
        try:
            _run(model, islice(video, frames), job, writers, bar, counts)
        except KeyboardInterrupt:
            if not (video.is_camera and counts["images"]):
                raise
    return Tally(**counts, problems=video.problems)


def _video_outputs(video: Video, job: Job, class_names: tuple[str, ...]) -> list[Output]:
    """The outputs of `detect_video`, checked but not yet open."""
    inputs = set() if video.is_camera else identities([Path(video.name)])
    outputs = []
    if job.document is not None:
        outputs.append(json_lines(check_target(Path(job.document), ".jsonl", inputs), class_names))
    if job.drawings is not None:
        path = check_target(Path(job.drawings), ".mp4", inputs)
        outputs.append(annotated_video(path, video.fps, class_names))
    return outputs


def _run(
    model: SSD,
    items: Iterable[Photograph | Frame],
    job: Job,
    writers: list[Writer],
    bar: tqdm,
    counts: Counter[str],
) -> None:
    """Detect on all items, count, and hand each with its detections to all writers, in order."""
    recipe = asdict(job.recipe_for(model))
    waiting: deque[Photograph | Frame] = deque()  # a batch: taken by the network, not yet written

    def images() -> Iterator[np.ndarray]:
        for item in items:
            waiting.append(item)
            yield item.image

    with bar:
        for detections in detect_stream(model, images(), job.batch_size, **recipe):
            item = waiting.popleft()
            counts.update(images=1, objects=len(detections.scores))
            for write in writers:
                write(item, detections)
            bar.update()
