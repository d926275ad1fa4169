"""SSDLite: against torchvision's, with random weights of its own."""

import math

import pytest
import torch
from parity import PHOTOGRAPHS, assert_same_detections, in_the_image
from refusals import refuses
from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
from torchvision.models.detection import ssdlite320_mobilenet_v3_large as torchvision_ssdlite
from torchvision.models.detection.image_list import ImageList

from ssd_annotated.boxes import xyxy_to_cxcywh
from ssd_annotated.checkpoint import load_model, save_model
from ssd_annotated.detection import detect
from ssd_annotated.networks.ssdlite import ssdlite320_mobilenet_v3_large, ssdlite_priors
from ssd_annotated.priors import PRESETS
from ssd_annotated.published.layouts import LAYOUTS
from ssd_annotated.published.weights import load_torchvision_ssdlite320


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    model = torchvision_ssdlite(weights=None, weights_backbone=None, num_classes=91)
    for layer in model.modules():  # else every image would get the same few numbers
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    for head in (model.head.classification_head, model.head.regression_head):
        for block in head.module_list:
            nn.init.normal_(block[1].weight, std=0.02)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs):
    return load_torchvision_ssdlite320(theirs.state_dict())


# ---------------------------------------------------------------- parity with torchvision


@torch.no_grad()
def test_heads_give_what_torchvisions_give(theirs, ours):
    torch.manual_seed(1)
    images = torch.randn(2, 3, 320, 320)
    heads = theirs.head(list(theirs.backbone(images).values()))
    predictions = ours(images)
    assert predictions.logits.shape == (2, 3234, 91)
    assert predictions.logits.std() > 0.3
    assert (predictions.logits[0] - predictions.logits[1]).abs().max() > 0.3
    torch.testing.assert_close(predictions.offsets, heads["bbox_regression"], atol=1e-5, rtol=0)
    torch.testing.assert_close(predictions.logits, heads["cls_logits"], atol=1e-5, rtol=0)


def test_priors_are_torchvisions(theirs, ours):
    images = torch.zeros(1, 3, 320, 320)
    maps = [torch.zeros(1, 1, n, n) for n in (20, 10, 5, 3, 2, 1)]
    boxes = theirs.anchor_generator(ImageList(images, [(320, 320)]), maps)[0] / 320
    assert ours.priors.shape == (3234, 4)
    torch.testing.assert_close(ours.priors, xyxy_to_cxcywh(boxes), atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_whole_pipeline_finds_what_torchvisions_finds(theirs, ours, monkeypatch):
    monkeypatch.setattr(theirs, "detections_per_img", 30_000)
    expected = theirs([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in PHOTOGRAPHS])
    assert all(len(e["scores"]) > 300 and e["scores"].max() < 1 for e in expected)
    for photograph, found, reference in zip(PHOTOGRAPHS, detect(ours, PHOTOGRAPHS), expected):
        height, width = photograph.shape[:2]
        assert len(found.scores) == 300
        assert_same_detections(found, in_the_image(reference, 300), width, height)


def test_losses_are_torchvisions(theirs, ours):
    torch.manual_seed(3)
    images = [torch.rand(3, 320, 320) for _ in range(2)]
    boxes = [[[30.0, 40, 180, 200], [100, 90, 280, 310], [5, 5, 80, 85]], [[60.0, 10, 130, 290]]]
    targets = [
        {"boxes": torch.tensor(some), "labels": torch.tensor(labels)}
        for some, labels in zip(boxes, ([7, 2, 90], [1]))
    ]
    for module in theirs.modules():  # train mode, but for batch normalisation
        module.training = not isinstance(module, nn.BatchNorm2d)
    with torch.no_grad():
        expected = theirs(images, targets)
        theirs.eval()
        batch = (torch.stack(images) - 0.5) / 0.5
        loss = LAYOUTS["torchvision-ssdlite"].convention.make_loss(ours.priors)
        parts = loss(ours(batch), [{**t, "boxes": t["boxes"] / 320} for t in targets])
    assert parts.num_positives > 10
    torch.testing.assert_close(parts.localization, expected["bbox_regression"], rtol=1e-4, atol=0)
    torch.testing.assert_close(parts.confidence, expected["classification"], rtol=1e-4, atol=0)


def test_the_recipe_is_torchvisions(ours):
    recipe = ours.recipe
    assert (recipe.image_size, recipe.mean, recipe.std) == (320, (0.5,) * 3, (0.5,) * 3)
    assert (recipe.score_threshold, recipe.nms_threshold) == (0.001, 0.55)
    assert (recipe.top_k, recipe.max_detections, recipe.clip) == (300, 300, True)
    assert recipe.max_log_size == pytest.approx(math.log(62.5))
    assert (recipe.resize, recipe.variances) == ("torch", (0.1, 0.2))
    assert recipe.class_names[90] == "toothbrush"


# ---------------------------------------------------------------- a network of one's own


def test_it_has_torchvisions_parameters_and_start():
    theirs = torchvision_ssdlite(weights=None, weights_backbone=None, num_classes=4)
    ours = ssdlite320_mobilenet_v3_large(4)
    shapes = [sorted(v.shape for v in m.state_dict().values()) for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    for name, value in ours.state_dict().items():
        if value.ndim == 4 and value.numel() > 10_000:
            assert value.std().item() == pytest.approx(0.03, rel=0.05), name


def test_imagenet_weights_arrive_and_the_trunk_is_wider(monkeypatch, tmp_path):
    torch.manual_seed(0)
    network = mobilenet_v3_large().eval()
    monkeypatch.setattr(
        MobileNet_V3_Large_Weights, "get_state_dict", lambda *_, **__: network.state_dict()
    )
    model = ssdlite320_mobilenet_v3_large(3, weights="imagenet").eval()
    assert model.spec.widths == (960,)
    images = torch.randn(1, 3, 320, 320)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.001  # SSDLite's
    with torch.no_grad():
        torch.testing.assert_close(model.trunk(images)[1], network.features(images))
    save_model(model, tmp_path / "wide.pt")
    again = load_model(tmp_path / "wide.pt")
    assert (again.spec, again.recipe) == (model.spec, model.recipe)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("image_size", "maps"), [(32, (2, 1, 1, 1, 1, 1)), (512, (32, 16, 8, 4, 2, 1))]
)
def test_other_sizes(image_size, maps):
    model = ssdlite320_mobilenet_v3_large(3, image_size=image_size).eval()
    assert model.spec.priors.feature_maps == maps
    with torch.no_grad():
        offsets, _ = model(torch.zeros(1, 3, image_size, image_size))
    assert offsets.shape[1] == 6 * sum(n * n for n in maps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "coco"}, "weights must be 'imagenet' or None, not 'coco'"),
        ({"image_size": 31}, "image_size in pixels must be at least 32, not 31"),
        ({"priors": PRESETS["d2l"]}, r"feature maps of \(20, 10, 5, 3, 2, 1\).* for \(32, 16"),
        ({"class_names": ("background", "cat")}, "2 class names for 21 classes"),
        ({"priors": ssdlite_priors(321)}, r"at 320 pixels, but the priors are for \(21"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with refuses(message):
        ssdlite320_mobilenet_v3_large(**options)


def test_a_state_without_its_trunk_is_refused(theirs):
    state = {k: v for k, v in theirs.state_dict().items() if ".features.1.3." not in k}
    with refuses(r"missing \['backbone.features.1.3.0.weight'\]"):
        load_torchvision_ssdlite320(state)
