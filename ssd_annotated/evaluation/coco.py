"""COCO's average precision, computed by COCO's own library: pycocotools, the extra ``coco``."""

import contextlib
import io
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from ssd_annotated.nms import Detections
from ssd_annotated.support.extras import need

_STATISTICS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)


def evaluate_coco(
    detections: list[Detections],
    targets: list[dict[str, Tensor]],
    sizes: list[tuple[int, int]],
) -> dict[str, float]:
    """COCO's average precision, over ten IoU thresholds, and COCO's eleven other numbers.

    Parameters
    ----------
    detections, targets
        One per image, boxes as ``xyxy`` fractions. Objects marked `difficult` are treated as
        COCO's crowds: they may be found any number of times, or missed.
    sizes
        (height, width) of each image in pixels: COCO calls an object small below an area of
        32² pixels and large above 96².

    Returns
    -------
    AP (the mean over classes and the thresholds .50, .55, ..., .95), AP50, AP75, AP of small,
    medium and large objects, and recalls with 1, 10 and 100 detections to an image (AR1, AR10,
    AR100) and by size; nan where there was no such object.

    Raises
    ------
    ImportError
        If pycocotools is not installed.
    ValueError
        If the lists, or the boxes and labels of an image, differ in number.

    Notes
    -----
    Lin et al. 2014, and cocodataset.org, "Detection evaluation". The library sees one class at a
    time: it keeps a record of every image, class and size, and forty thousand images with twenty
    classes would fill three gigabytes.
    """
    library = need("pycocotools.cocoeval", "coco", "COCO's evaluation")
    if not len(detections) == len(targets) == len(sizes):
        raise ValueError(
            f"{len(detections)} detections, {len(targets)} targets and {len(sizes)} sizes: there "
            "must be one of each for every image"
        )
    truth = _tabulate([_as_found(target) for target in targets], sizes)
    found = _tabulate(detections, sizes)
    labels = sorted({*truth.labels.tolist(), *found.labels.tolist()}) or [0]
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its reports
        classes = [_evaluate_class(library, truth.of(label), found.of(label)) for label in labels]
        whole = library.COCOeval(iouType="bbox")
        whole.eval = {  # classes are the last axis but two
            name: np.concatenate([each[name] for each in classes], axis=-3) for name in classes[0]
        }
        whole.summarize()
    # The library returns -1 where there is nothing to find.
    return {
        name: float(value) if value >= 0 else float("nan")
        for name, value in zip(_STATISTICS, whole.stats)
    }


class _Table(NamedTuple):
    """The boxes of all images: corner, width and height in pixels, as COCO writes them."""

    images: Int64[np.ndarray, " n"]
    boxes: Float64[np.ndarray, "n 4"]
    scores: Float64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]

    def of(self, label: int) -> "_Table":
        """The rows of one class."""
        return _Table(*(column[self.labels == label] for column in self))


def _as_found(target: dict[str, Tensor]) -> Detections:
    """Objects in the columns of detections; in that of the scores, 1 is one that may be missed."""
    boxes, labels = target["boxes"], target["labels"]
    return Detections(boxes, target.get("difficult", labels.new_zeros(len(labels))), labels)


def _tabulate(found: list[Detections], sizes: list[tuple[int, int]]) -> _Table:
    for index, (boxes, scores, labels) in enumerate(found):
        if not len(boxes) == len(scores) == len(labels):
            counts = f"{len(boxes)} boxes, {len(labels)} labels, {len(scores)} scores or flags"
            raise ValueError(f"image {index}: {counts}: there must be one of each")
    images = np.repeat(np.arange(len(found)), [len(each.boxes) for each in found])
    boxes, scores, labels = (_join([each[k] for each in found]) for k in range(3))
    x0, y0, x1, y1 = boxes.reshape(-1, 4).T
    height, width = np.array(sizes).reshape(-1, 2)[images].T
    corners = np.stack([x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height], axis=1)
    return _Table(images, corners, scores, labels.astype(np.int64))


def _join(parts: list[Tensor]) -> Float64[np.ndarray, " n"]:
    return np.concatenate([[], *(part.double().numpy(force=True).ravel() for part in parts)])


def _evaluate_class(library: ModuleType, truth: _Table, found: _Table) -> dict[str, np.ndarray]:
    """Precision over threshold, recall, class, size and limit; recall has no axis for itself."""
    images = sorted({*truth.images.tolist(), *found.images.tolist()})
    evaluation = library.COCOeval(
        _data_set(truth, "iscrowd", images), _data_set(found, "score", images), "bbox"
    )
    evaluation.evaluate()
    evaluation.accumulate()
    return {name: evaluation.eval[name] for name in ("precision", "recall")}


def _data_set(rows: _Table, last: str, images: list[int]) -> object:
    """The library's own container, filled by hand: its reader of results refuses an empty list."""
    from pycocotools.coco import COCO

    data_set = COCO()
    data_set.dataset = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": 1}],
        "annotations": [
            # An identity of 0 would be taken for "no object".
            {
                "id": index + 1,
                "image_id": image,
                "category_id": 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                last: value,
            }
            for index, (image, box, value) in enumerate(
                zip(rows.images.tolist(), rows.boxes.tolist(), rows.scores.tolist())
            )
        ],
    }
    data_set.createIndex()
    return data_set
