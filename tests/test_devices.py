"""No function makes a tensor on a device that its arguments do not lie on.

Under ``torch.device("meta")`` a tensor made without a device is meta, and meets no CPU tensor.
"""

import numpy as np
import pytest
import torch

from ssd_annotated import boxes, coding, loss, matching, model, nms, transforms, vgg

torch.manual_seed(0)
PRIORS = torch.rand(300, 4) * 0.4 + 0.3
BOXES = boxes.cxcywh_to_xyxy(torch.rand(300, 4) * 0.4 + 0.3)
TARGETS = [
    {"boxes": BOXES[:3], "labels": torch.tensor([1, 2, 1])},
    {"boxes": BOXES[:0], "labels": torch.zeros(0, dtype=torch.int64)},
]
# So many candidates that torchvision goes class by class: its way for few makes a tensor itself.
PREDICTIONS = (torch.randn(2, 300, 4), torch.randn(2, 300, 9))
MODEL = model.tiny_ssd(num_classes=3, image_size=64, widths=(4,) * 6).eval()
IMAGES = torch.rand(1, 3, 64, 64)
L2NORM = vgg.L2Norm(3)
LOSSES = [
    loss.MultiBoxLoss(PRIORS, **options)
    for options in (
        {},
        {"localization": "l1", "method": "argmax"},
        {"confidence": "focal"},
        {"method": "forced", "normalize": "priors"},
        {"method": "first", "normalize": "images"},
    )
]

CALLS = {
    "xyxy_to_cxcywh": lambda: boxes.xyxy_to_cxcywh(BOXES),
    "cxcywh_to_xyxy": lambda: boxes.cxcywh_to_xyxy(PRIORS),
    "area": lambda: boxes.area(BOXES),
    "pairwise_iou": lambda: boxes.pairwise_iou(BOXES, BOXES),
    "check_boxes": lambda: boxes.check_boxes(BOXES),
    "encode": lambda: coding.encode(BOXES, PRIORS),
    "decode": lambda: coding.decode(BOXES, PRIORS),
    "bipartite_match": lambda: matching.bipartite_match(boxes.pairwise_iou(BOXES[:3], BOXES)),
    "match_batch": lambda: matching.match_batch(PRIORS, [BOXES[:3], BOXES[:0]]),
    "match_batch argmax": lambda: matching.match_batch(PRIORS, [BOXES[:3]], method="argmax"),
    "assign_targets": lambda: loss.assign_targets(PRIORS, TARGETS),
    **{f"loss {k}": lambda each=each: each(PREDICTIONS, TARGETS) for k, each in enumerate(LOSSES)},
    "postprocess": lambda: nms.postprocess(PREDICTIONS, PRIORS),
    "postprocess of all": lambda: nms.postprocess(
        PREDICTIONS, PRIORS, 0.0, top_k=None, max_detections=None, max_log_size=4.0, clip=True
    ),
    "L2Norm": lambda: L2NORM(IMAGES),
    "fc_to_conv": lambda: vgg.fc_to_conv(BOXES, channels=1),
    "decimate": lambda: vgg.decimate(BOXES, (3, 2)),
    "model": lambda: MODEL(IMAGES),
    "prepare": lambda: transforms.prepare(np.zeros((9, 9, 3), dtype=np.uint8), MODEL.recipe),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_tensor_comes_from_elsewhere(name):
    with torch.device("meta"):
        result = CALLS[name]()
    parts = [result] if isinstance(result, torch.Tensor) else (result or [])
    while parts and not isinstance(parts[0], torch.Tensor):
        parts = [tensor for part in parts for tensor in part]
    assert all(part.device.type == "cpu" for part in parts)


def test_the_check_can_fail():
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta"):
        torch.maximum(BOXES, torch.ones(4))
