"""COCO's average precision, computed by COCO's own library: pycocotools, the extra ``coco``."""

import contextlib
import io
from itertools import count

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
        If the lists differ in length.

    Notes
    -----
    Lin et al. 2014, and cocodataset.org, "Detection evaluation".
    """
    library = need("pycocotools.cocoeval", "coco", "COCO's evaluation")
    if not len(detections) == len(targets) == len(sizes):
        raise ValueError(
            f"{len(detections)} detections, {len(targets)} targets and {len(sizes)} sizes: there "
            "must be one of each for every image"
        )
    truth = [_objects(target, size) for target, size in zip(targets, sizes)]
    found = [_findings(image, size) for image, size in zip(detections, sizes)]
    labels = sorted({record["category_id"] for image in (*truth, *found) for record in image})
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its report
        evaluation = library.COCOeval(_data_set(truth, labels), _data_set(found, labels), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # The library returns -1 where there is nothing to find.
    return {
        name: float(value) if value >= 0 else float("nan")
        for name, value in zip(_STATISTICS, evaluation.stats)
    }


def _objects(target: dict[str, Tensor], size: tuple[int, int]) -> list[dict]:
    crowd = target.get("difficult", target["labels"].new_zeros(len(target["labels"])))
    return [
        {**_box(box, size), "category_id": label, "iscrowd": int(flag)}
        for box, label, flag in zip(
            target["boxes"].tolist(), target["labels"].tolist(), crowd.tolist(), strict=True
        )
    ]


def _findings(found: Detections, size: tuple[int, int]) -> list[dict]:
    return [
        {**_box(box, size), "category_id": label, "score": score, "iscrowd": 0}
        for box, score, label in zip(*(field.tolist() for field in found), strict=True)
    ]


def _box(box: list[float], size: tuple[int, int]) -> dict:
    """Corner, width and height in pixels, as COCO writes boxes, and the area."""
    (height, width), (x0, y0, x1, y1) = size, box
    w, h = (x1 - x0) * width, (y1 - y0) * height
    return {"bbox": [x0 * width, y0 * height, w, h], "area": w * h}


def _data_set(images: list[list[dict]], labels: list[int]) -> object:
    """The library's own container, filled by hand: its reader of results refuses an empty list."""
    from pycocotools.coco import COCO

    number = count(1)  # 0 would be taken for "no object"
    data_set = COCO()
    data_set.dataset = {
        "images": [{"id": index} for index in range(len(images))],
        "categories": [{"id": label} for label in labels],
        "annotations": [
            {**record, "id": next(number), "image_id": index}
            for index, records in enumerate(images)
            for record in records
        ],
    }
    data_set.createIndex()
    return data_set
