"""The data of the interactive figures: what the package says, in files that a browser can load."""

import base64
import itertools
import json

import cv2
import numpy as np
import pytest
import torch
import try_data

from ssd_annotated import PRESETS, decode, make_priors, pairwise_iou, pretrained
from ssd_annotated.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh


def image_in(address):
    """The picture inside a data address, as the browser will decode it."""
    kind, data = address.split(",")
    assert kind == "data:image/jpeg;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The values that the scripts hold, by name."""
    folder, values = tmp_path_factory.mktemp("data"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(try_data, "TARGET", folder / "new")
        try_data.main()
    for file in (folder / "new").glob("*.js"):
        script = file.read_text(encoding="utf-8")
        start, end = f'AnnotatedSSD.data("{file.stem}", ', ");\n"
        assert script.startswith(start)
        assert script.endswith(end)
        values[file.stem] = json.loads(script.removeprefix(start).removesuffix(end))
    return values


def lay(maps, by_column):
    """All priors, cell by cell: what the page does with the data."""
    priors = []
    for on_map in maps:
        # Row and column, unless the columns come first.
        for first, second in itertools.product(range(on_map["side"]), repeat=2):
            row, column = (second, first) if by_column else (first, second)
            centre = [(index + 0.5) * on_map["step"] for index in (column, row)]
            priors += [[*centre, *shape] for shape in on_map["shapes"]]
    return torch.tensor(priors, dtype=torch.float64)


def test_presets_hold_all_that_makes_the_priors_of_ssd300(files):
    names = {name for name, spec in PRESETS.items() if len(make_priors(spec)) == 8732}
    assert set(files["presets"]) == names >= {"paper", "caffe-voc", "caffe-coco", "torchvision"}
    for name, plan in files["presets"].items():
        laid = lay(plan["maps"], plan["by_column"])
        clipped = {
            "none": laid,
            "wh": torch.cat([laid[:, :2], laid[:, 2:].clamp(0, 1)], dim=1),
            "cxcywh": laid.clamp(0, 1),
            "corners": xyxy_to_cxcywh(cxcywh_to_xyxy(laid).clamp(0, 1)),
        }[plan["clip"]]
        assert torch.equal(clipped, make_priors(PRESETS[name], torch.float64))


def test_photographs_carry_the_boxes_of_the_chapters(files):
    assert image_in(files["astronaut"]["image"]).shape == (480, 480, 3)
    assert image_in(files["motorcycle"]["image"]).shape == (324, 480, 3)
    assert files["astronaut"]["objects"]["head"] == pytest.approx([89.6, 8.8, 177, 111.3], abs=0.1)
    for name in ("astronaut", "motorcycle"):
        for left, top, right, bottom in files[name]["objects"].values():
            assert 0 <= left < right <= 300
            assert 0 <= top < bottom <= 300


def test_numbers_survive_the_journey_through_text():
    numbers = torch.tensor([[0.1, 1 / 3], [1e-9, 16777217.0]])
    theirs = torch.tensor(json.loads(json.dumps(try_data.short(numbers))))
    assert torch.equal(theirs, numbers)
    assert json.dumps(try_data.short(numbers[0])) == "[0.1, 0.33333334]"


def test_raw_detections_are_what_the_network_says_before_suppression(files):
    model = pretrained()
    for scene in files["scenes"]["scenes"].values():
        assert image_in(scene["image"]).shape == (256, 256, 3)
        boxes, scores = torch.tensor(scene["boxes"]), scene["scores"]
        assert scores == sorted(scores, reverse=True)
        assert scores[-1] > try_data.LOWEST
        # A box is its prior's: one that moved by less than its own size, and each has one label.
        priors = model.priors[scene["priors"]]
        zeros = decode(torch.zeros(len(priors), 4), priors)
        assert pairwise_iou(boxes, zeros).diagonal().min() > 0
        pairs = list(zip(scene["priors"], scene["labels"]))
        assert len(set(pairs)) == len(pairs) > 50
        # The best answer is right, so the boxes belong to this image.
        overlap = pairwise_iou(boxes[:1], torch.tensor(scene["truth"]))[0]
        assert overlap.max() > 0.5
        assert scene["truth_labels"][int(overlap.argmax())] == scene["labels"][0]
