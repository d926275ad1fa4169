"""Both evaluations on 40,000 images, within 2 GB of memory."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import children
import fuzzing
from children import Child

from ssd_annotated.evaluation.coco import evaluate_coco
from ssd_annotated.evaluation.voc import evaluate
from ssd_annotated.nms import Detections

IMAGES, OBJECTS, CLASSES = 40_000, 3, 21
MEBIBYTES = 2048


def made(detections):
    """Objects, and detections of which every object's first is right."""
    torch.manual_seed(0)
    found, targets = [], []
    for _ in range(IMAGES):
        corners = torch.rand(detections, 2) * 0.5
        boxes = torch.cat([corners, corners + 0.1 + torch.rand(detections, 2) * 0.4], dim=1)
        labels = torch.randint(1, CLASSES, (detections,))
        found.append(Detections(boxes, torch.rand(detections), labels))
        targets.append({"boxes": boxes[:OBJECTS].clone(), "labels": labels[:OBJECTS].clone()})
    return found, targets


def measured(which, detections):
    """The mAP at IoU 0.5, and the most memory that the process held, data included."""
    found, targets = made(detections)
    if which == "voc":
        result = evaluate(found, targets, CLASSES).mean_ap
    else:
        result = evaluate_coco(found, targets, [(480, 640)] * IMAGES)["AP50"]
    return result, fuzzing.peak()


@pytest.mark.parametrize(("which", "detections"), [("voc", 100), ("coco", 100)])
def test_forty_thousand_images_fit_into_2_gb(monkeypatch, which, detections):
    monkeypatch.setattr(children, "PATIENCE", 3000)
    end = Child(measured, which, detections).end()
    assert end.status == 0, end
    score, memory = end.result
    print(f"\n{which}: {IMAGES * detections:,} detections, AP {score:.3f}, {memory} MiB")
    # Scores are chance, so the precision is the same all along the ranking.
    assert score == pytest.approx(OBJECTS / detections, rel=0.2)
    assert memory < MEBIBYTES
