"""COCO's numbers: hand-worked cases, and torchmetrics on random ones."""

import math
import sys

import numpy as np
import pytest
import torch
from refusals import refuses

from ssd_annotated.evaluation.coco import evaluate_coco
from ssd_annotated.nms import Detections

SIZE = (200, 400)


def detections(*rows):
    """Rows of (box in pixels of SIZE, score, label)."""
    boxes = torch.tensor([box for box, _, _ in rows]).reshape(-1, 4).float()
    return Detections(
        boxes / torch.tensor([400.0, 200, 400, 200]),
        torch.tensor([score for _, score, _ in rows], dtype=torch.float32),
        torch.tensor([label for _, _, label in rows], dtype=torch.int64),
    )


def target(*rows, difficult=None):
    """Rows of (box in pixels of SIZE, label)."""
    boxes = torch.tensor([box for box, _ in rows]).reshape(-1, 4).float()
    found = {
        "boxes": boxes / torch.tensor([400.0, 200, 400, 200]),
        "labels": torch.tensor([label for _, label in rows], dtype=torch.int64),
    }
    return found | ({} if difficult is None else {"difficult": torch.tensor(difficult)})


OBJECT = [100, 50, 200, 150]  # 100 × 100 pixels: large


def test_an_iou_of_four_fifths_passes_seven_thresholds_of_ten():
    # 100 × 80 of 100 × 100: IoU .8 reaches .50, .55, ..., .80.
    found = detections(([100, 50, 200, 130.4], 0.9, 3))
    result = evaluate_coco([found], [target((OBJECT, 3))], [SIZE])
    assert result["AP"] == pytest.approx(0.7)
    assert result["AP50"] == result["AP75"] == pytest.approx(1)
    assert result["AP_large"] == pytest.approx(0.7)
    assert result["AR1"] == pytest.approx(0.7)
    assert math.isnan(result["AP_small"])
    assert len(result) == 12


def test_a_better_ranked_mistake_halves_the_precision():
    found = detections(([0, 0, 50, 50], 0.95, 1), (OBJECT, 0.9, 1))
    result = evaluate_coco([found], [target((OBJECT, 1))], [SIZE])
    assert result["AP"] == pytest.approx(0.5)
    assert result["AR1"] == pytest.approx(0)
    assert result["AR10"] == pytest.approx(1)


def test_size_is_counted_in_pixels_of_the_image():
    small = [10, 10, 40, 40]  # 900 pixels of 32² = 1024
    result = evaluate_coco([detections((small, 0.9, 1))], [target((small, 1))], [SIZE])
    assert result["AP_small"] == pytest.approx(1)
    assert math.isnan(result["AP_large"])
    doubled = evaluate_coco([detections((small, 0.9, 1))], [target((small, 1))], [(400, 800)])
    assert doubled["AP_medium"] == pytest.approx(1)


def test_difficult_objects_may_be_found_or_missed():
    other = [220, 20, 300, 100]
    truth = target((OBJECT, 1), (other, 1), difficult=[False, True])
    both = detections((other, 0.95, 1), (OBJECT, 0.9, 1))
    for found in (both, detections((OBJECT, 0.9, 1))):
        assert evaluate_coco([found], [truth], [SIZE])["AP"] == pytest.approx(1)


def test_nothing_found_is_zero_and_nothing_to_find_is_nan():
    assert evaluate_coco([detections()], [target((OBJECT, 1))], [SIZE])["AP"] == 0
    assert math.isnan(evaluate_coco([detections((OBJECT, 0.9, 1))], [target()], [SIZE])["AP"])


def test_equal_to_torchmetrics_on_random_images():
    from torchmetrics.detection import MeanAveragePrecision

    torch.manual_seed(0)
    found, truth = [], []
    for _ in range(20):
        boxes = torch.rand(6, 2)
        boxes = torch.cat([boxes * 0.5, boxes * 0.5 + 0.05 + 0.4 * torch.rand(6, 2)], dim=1)
        labels = torch.randint(1, 4, (6,))
        truth.append({"boxes": boxes, "labels": labels})
        moved = boxes + 0.01 * torch.randn(6, 4)
        found.append(Detections(moved, torch.rand(6), labels.where(torch.rand(6) < 0.8, 1)))
    # Its own thresholds are in single precision, where 0.1 is more than a recall of a tenth.
    metric = MeanAveragePrecision(
        box_format="xyxy",
        backend="pycocotools",
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
    )
    frame = torch.tensor([400.0, 200, 400, 200])
    metric.update(
        [{"boxes": d.boxes * frame, "scores": d.scores, "labels": d.labels} for d in found],
        [{"boxes": t["boxes"] * frame, "labels": t["labels"]} for t in truth],
    )
    expected = metric.compute()
    result = evaluate_coco(found, truth, [SIZE] * 20)
    assert 0.1 < result["AP"] < 0.9
    theirs = {"AP": "map", "AP50": "map_50", "AP75": "map_75", "AP_medium": "map_medium"}
    for name, key in (theirs | {"AR10": "mar_10", "AR_large": "mar_large"}).items():
        assert result[name] == pytest.approx(float(expected[key]), abs=1e-6)


def test_it_does_not_print(capsys):
    evaluate_coco([detections((OBJECT, 0.9, 1))], [target((OBJECT, 1))], [SIZE])
    assert capsys.readouterr().out == ""


def test_lists_of_different_lengths_are_refused():
    with refuses("1 detections, 2 targets and 1 sizes"):
        evaluate_coco([detections()], [target(), target()], [SIZE])


def test_a_box_without_a_label_is_refused_though_the_next_image_has_one_too_many():
    lonely = Detections(torch.rand(2, 4), torch.rand(2), torch.tensor([1]))
    crowded = Detections(torch.rand(1, 4), torch.rand(1), torch.tensor([1, 2]))
    with refuses("image 0: 2 boxes, 1 labels, 2 scores or flags"):
        evaluate_coco([lonely, crowded], [target(), target()], [SIZE] * 2)


def test_no_images_are_nothing_to_find():
    assert all(math.isnan(value) for value in evaluate_coco([], [], []).values())


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(ImportError, match=r"ssd-annotated\[coco\]"):
        evaluate_coco([detections()], [target()], [SIZE])
