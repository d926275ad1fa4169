"""Folders of images with one JSON file in COCO's format, as many annotation tools write it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ssd_annotated.data.find import find_json
from ssd_annotated.data.folder import AnnotatedFolder


class COCOFolder(AnnotatedFolder):
    """Images and objects of a folder and a file in COCO's format, in the order of the images' ids.

    Items are those of :class:`~ssd_annotated.data.folder.AnnotatedFolder`. ``truncated`` is false,
    for COCO does not say.

    Parameters
    ----------
    images
        The folder that the images' ``file_name`` is in, for example ``"coco/val2017"``. None: the
        folder of the file or one near it, ``images`` for example, where the first image is.
    annotations
        The file, for example ``"coco/annotations/instances_val2017.json"``.
    class_names
        Class names, ``"background"`` first. By default those of all categories in the order of
        their ids: gaps between the ids close, so that COCO's 80 categories, numbered up to 90,
        become the labels 1 … 80.
    on_bad
        ``"raise"`` or ``"skip"``, as for every :class:`~ssd_annotated.data.folder.AnnotatedFolder`.
    crowds
        ``"ignore"``, as COCO does, or ``"keep"``, as for every `AnnotatedFolder`.

    Raises
    ------
    FileNotFoundError
        If the folder or the file does not exist, whatever `on_bad` says, or an image does not.
    ValueError
        If the file is no JSON, lacks one of its three lists, or its categories make no sense,
        whatever `on_bad` says. If no image is left, an id or an image is listed twice, a key is
        missing or senseless, an image or a category unknown, an image corrupt or of another size,
        or a box impossible.

    Notes
    -----
    cocodataset.org, "Data format": a box is ``[x, y, width, height]`` in pixels counted from 0 at
    the corner of the image, not from its first pixel as VOC's. A box without width or height is bad
    (COCO 2017's training set has two: github.com/cocodataset/cocoapi, issue 355). Without a
    ``bbox`` an object has that of its polygon, and without a size an image has its own.
    """

    def __init__(
        self,
        images: str | Path | None,
        annotations: str | Path,
        class_names: Sequence[str] | None = None,
        on_bad: Literal["raise", "skip"] = "raise",
        crowds: Literal["ignore", "keep"] = "ignore",
    ) -> None:
        found = find_json(Path(annotations), None if images is None else Path(images))
        super().__init__([found], class_names, on_bad, crowds)
