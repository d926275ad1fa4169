"""Detect: photographs in, detections out; and whole folders, videos and cameras."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ssd_annotated.data.annotation import Problem
from ssd_annotated.media import (
    Frame,
    Images,
    Output,
    Photograph,
    Video,
    Writer,
    annotated_images,
    annotated_video,
    check_target,
    json_document,
    json_lines,
)
from ssd_annotated.model import SSD, Recipe, evaluating
from ssd_annotated.nms import Detections, postprocess
from ssd_annotated.transforms import prepare

#: What a recipe says about post-processing.
_SETTINGS = (
    "score_threshold",
    "top_k",
    "nms_threshold",
    "max_detections",
    "variances",
    "max_log_size",
    "clip",
    "class_agnostic",
)


class Tally(NamedTuple):
    """How many images or frames were looked at, how many objects were found, and what went wrong.

    `str` of a problem names the file and says what is wrong with it.
    """

    images: int
    objects: int
    problems: list[Problem]


def detect(
    model: SSD, images: list[np.ndarray], batch_size: int = 32, **changes: object
) -> list[Detections]:
    """Find the objects in each image.

    Parameters
    ----------
    model
        Used in eval mode, whatever mode it is in, with its own recipe, on its own device and in its
        own precision: ``model.half().cuda()`` detects in half precision on a GPU.
    images
        uint8 RGB arrays (height, width, 3), each of any size.
    batch_size
        Images that pass through the network together.
    **changes
        Fields of the recipe that differ for this call: ``detect(model, images,
        score_threshold=0.5)`` finds what is fit to be drawn. (Average precision wants the unsure
        too, and so do the recipes.)

    Returns
    -------
    One `Detections` per image, boxes as ``xyxy`` fractions of that image, best first. What a
    network of half precision says is decoded and compared in single precision.
    """
    if isinstance(images, np.ndarray):
        raise ValueError(f"images must be a list of arrays, not one array of shape {images.shape}")
    return list(detect_stream(model, images, batch_size, **changes))


def detect_stream(
    model: SSD, images: Iterable[np.ndarray], batch_size: int = 32, **changes: object
) -> Iterator[Detections]:
    """`detect` for images without end: a batch is taken when its first detections are asked for."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    return _batches(model, iter(images), batch_size, changed(model.recipe, changes))


def _batches(
    model: SSD, images: Iterator[np.ndarray], batch_size: int, recipe: Recipe
) -> Iterator[Detections]:
    """The detections of images, batch by batch, none of which is held while the next is read."""
    while batch := list(islice(images, batch_size)):
        found = _detect_batch(model, batch, recipe)
        batch.clear()
        yield from found


def changed(recipe: Recipe, changes: dict[str, object]) -> Recipe:
    """The recipe with some fields replaced; a ValueError names the ones that it does not have."""
    unknown = sorted(set(changes) - set(asdict(recipe)))
    if unknown:
        raise ValueError(
            f"a recipe has no {', '.join(unknown)}; it has {', '.join(asdict(recipe))}"
        )
    return replace(recipe, **changes)


def describe(architecture: str, recipe: Recipe) -> dict[str, object]:
    """What someone needs to know of a model to use what it says: plain data, fit for JSON."""
    return {"architecture": architecture, "recipe": asdict(recipe)}


@torch.no_grad()
def _detect_batch(model: SSD, images: list[np.ndarray], recipe: Recipe) -> list[Detections]:
    """The detections of images that pass through the network together."""
    batch = torch.stack([prepare(image, recipe) for image in images])
    with evaluating(model):
        offsets, logits = model(batch.to(model.priors))
    # Among 256 levels the best scores tie, and the worse of two boxes may suppress the better one.
    priors = model.priors.to(torch.promote_types(model.priors.dtype, torch.float32))
    settings = {name: getattr(recipe, name) for name in _SETTINGS}
    return postprocess((offsets.to(priors), logits.to(priors)), priors, **settings)


# --- Files and cameras ----------------------------------------------------------------------------


def detect_images(
    model: SSD,
    source: str | Path,
    *,
    drawings: str | Path | None = None,
    document: str | Path | None = None,
    batch_size: int = 8,
    on_bad: Literal["raise", "skip"] = "raise",
    progress: bool = True,
    score_threshold: float = 0.5,
    **changes: object,
) -> Tally:
    """Detect on an image file or on all of a folder, and write what is found.

    Parameters
    ----------
    source, on_bad
        See `Images`.
    drawings
        A folder, made if it is missing: every image under its own name, with boxes and names.
    document
        A ``.json`` file, see `json_document`; ``"model"`` is what `describe` says of it.
    progress
        Whether to show a bar, on stderr.
    score_threshold, **changes
        Fields of the recipe that differ for this call.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If a file is no image (or no image is left), if a drawing would overwrite an image, or if
        neither drawings nor a document are wanted.
    """
    images = Images(source, on_bad)
    recipe = changed(model.recipe, {"score_threshold": score_threshold, **changes})
    outputs = _image_outputs(images.files, drawings, document, model.spec.architecture, recipe)
    counter = _Counter()
    with ExitStack() as files:
        writers = [counter, *map(files.enter_context, outputs)]
        bar = tqdm(total=len(images), unit="image", disable=not progress)
        _run(model, images, recipe, batch_size, writers, bar)
        if counter.images == 0:
            raise ValueError(f"{source}: no image is left of {len(images)}: {images.problems[0]}")
    return Tally(counter.images, counter.objects, images.problems)


def _image_outputs(
    inputs: list[Path],
    drawings: str | Path | None,
    document: str | Path | None,
    architecture: str,
    recipe: Recipe,
) -> list[Output]:
    """What `detect_images` writes to, checked, not yet open."""
    outputs = []
    if document is not None:
        path = check_target(Path(document), ".json", inputs)
        outputs.append(json_document(path, describe(architecture, recipe), recipe.class_names))
    if drawings is not None:
        for file in inputs:
            check_target(Path(drawings) / file.name, file.suffix, inputs)
        outputs.append(annotated_images(Path(drawings), recipe.class_names))
    if not outputs:
        raise ValueError("nothing to write: give drawings, a document, or both")
    return outputs


def detect_video(
    model: SSD,
    source: str | Path | int,
    *,
    drawings: str | Path | None = None,
    document: str | Path | None = None,
    on_frame: Writer | None = None,
    frames: int | None = None,
    batch_size: int = 8,
    on_bad: Literal["raise", "skip"] = "raise",
    progress: bool = True,
    score_threshold: float = 0.5,
    **changes: object,
) -> Tally:
    """Detect on every frame of a video file, or of a camera until Ctrl-C, and write what is found.

    Parameters
    ----------
    source, on_bad
        See `Video`.
    drawings
        An ``.mp4`` file: the frames with boxes and names, without sound.
    document
        A ``.jsonl`` file, see `json_lines`.
    on_frame
        Called with each `Frame` and its `Detections`, for example to show it in a window.
    frames
        Stop after so many; None for all there are.
    batch_size
        With a camera, 1 shows a frame as soon as it is there.
    progress, score_threshold, **changes
        As in `detect_images`.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As `Video`; ValueError also if the video would be overwritten, or nothing is wanted.

    Notes
    -----
    A camera gives as many frames as there is time for, so that its annotated video, which has the
    camera's own rate, may run faster than life. The document has the true times.
    """
    if frames is not None and frames < 1:
        raise ValueError(f"frames must be at least 1, not {frames}")
    recipe = changed(model.recipe, {"score_threshold": score_threshold, **changes})
    counter = _Counter()
    with Video(source, on_bad) as video, ExitStack() as files:
        outputs = _video_outputs(video, drawings, document, recipe.class_names)
        if not outputs and on_frame is None:
            raise ValueError("nothing to write: give drawings, a document, both, or on_frame")
        writers = [counter, *map(files.enter_context, outputs), *filter(None, [on_frame])]
        bar = tqdm(total=frames or video.count, unit="frame", disable=not progress)
        try:
            _run(model, islice(video, frames), recipe, batch_size, writers, bar)
        except KeyboardInterrupt:
            if not (video.is_camera and counter.images):
                raise
    return Tally(counter.images, counter.objects, video.problems)


def _video_outputs(
    video: Video,
    drawings: str | Path | None,
    document: str | Path | None,
    class_names: tuple[str, ...],
) -> list[Output]:
    """What `detect_video` writes to, checked, not yet open."""
    inputs = [] if video.is_camera else [Path(video.name)]
    outputs = []
    if document is not None:
        outputs.append(json_lines(check_target(Path(document), ".jsonl", inputs), class_names))
    if drawings is not None:
        path = check_target(Path(drawings), ".mp4", inputs)
        outputs.append(annotated_video(path, video.fps, class_names))
    return outputs


class _Counter:
    """Counts images, and objects in them."""

    def __init__(self) -> None:
        self.images, self.objects = 0, 0

    def __call__(self, item: Photograph | Frame, found: Detections) -> None:  # noqa: ARG002
        self.images += 1
        self.objects += len(found.scores)


def _run(
    model: SSD,
    items: Iterable[Photograph | Frame],
    recipe: Recipe,
    batch_size: int,
    writers: list[Writer],
    bar: tqdm,
) -> None:
    """Detect on all items, and hand each with its detections to all writers, in order."""
    waiting: deque[Photograph | Frame] = deque()  # a batch: taken by the network, not yet written

    def images() -> Iterator[np.ndarray]:
        for item in items:
            waiting.append(item)
            yield item.image

    with bar:
        for detections in detect_stream(model, images(), batch_size, **asdict(recipe)):
            item = waiting.popleft()
            for write in writers:
                write(item, detections)
            bar.update()
