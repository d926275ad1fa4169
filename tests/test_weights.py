"""Other people's checkpoints: torchvision's model itself, and the key layouts of two repositories.

Nothing is downloaded: the weights are random, the names and shapes are theirs.
"""

import math
import re
from argparse import Namespace

import numpy as np
import pytest
import torch
from parity import PHOTOGRAPHS, assert_same_detections, in_the_image
from refusals import refuses
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu
from torchvision.models.detection import ssd300_vgg16 as torchvision_ssd300
from torchvision.models.detection.image_list import ImageList

from ssd_annotated.checkpoint import load_model, save_model
from ssd_annotated.detection import detect
from ssd_annotated.model import Predictions, ssd300_vgg16
from ssd_annotated.nms import postprocess
from ssd_annotated.priors import PRESETS
from ssd_annotated.published.conventions import CONVENTIONS
from ssd_annotated.published.weights import (
    COCO_CLASSES,
    VOC_CLASSES,
    load_checkpoint,
    load_sgrvinod,
    load_ssd_pytorch,
    load_torchvision_ssd300,
)


def torchvision_model(num_classes: int):
    torch.manual_seed(0)
    return torchvision_ssd300(weights=None, weights_backbone=None, num_classes=num_classes).eval()


@pytest.fixture(scope="module")
def theirs():
    return torchvision_model(num_classes=91)


@pytest.fixture(scope="module")
def ours(theirs):
    return load_torchvision_ssd300(theirs.state_dict())


# ---------------------------------------------------------------- parity with torchvision


@torch.no_grad()
def test_heads_give_what_torchvisions_give(theirs, ours):
    torch.manual_seed(1)
    images = 50 * torch.randn(2, 3, 300, 300)
    heads = theirs.head(list(theirs.backbone(images).values()))
    predictions = ours(images)
    assert predictions.logits.std() > 1  # not zeros on both sides
    torch.testing.assert_close(predictions.offsets, heads["bbox_regression"], atol=1e-5, rtol=0)
    torch.testing.assert_close(predictions.logits, heads["cls_logits"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_whole_pipeline_finds_what_torchvisions_finds(theirs, ours, monkeypatch):
    monkeypatch.setattr(theirs, "detections_per_img", 10_000)
    expected = theirs([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in PHOTOGRAPHS])
    assert all(0.9 < e["scores"].max() < 1 for e in expected)  # random weights, but no ties
    for photograph, found, reference in zip(PHOTOGRAPHS, detect(ours, PHOTOGRAPHS), expected):
        height, width = photograph.shape[:2]
        assert_same_detections(found, in_the_image(reference), width, height)


@torch.no_grad()
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_the_same_head_outputs_become_the_same_detections(theirs, ours, spread, monkeypatch):
    monkeypatch.setattr(theirs, "detections_per_img", 10_000)
    torch.manual_seed(2)
    offsets, logits = torch.randn(2, 8732, 4) * 2, torch.randn(2, 8732, 91) * spread
    offsets[0, :50, 2:] = 40.0  # e^8 times the prior, without a limit
    images = torch.zeros(2, 3, 300, 300)
    features = list(theirs.backbone(images).values())
    anchors = theirs.anchor_generator(ImageList(images, [(300, 300)] * 2), features)
    heads = {"bbox_regression": offsets, "cls_logits": logits}
    expected = theirs.postprocess_detections(heads, anchors, [(300, 300)] * 2)
    recipe = ours.recipe
    found = postprocess(
        Predictions(offsets, logits),
        ours.priors,
        max_log_size=recipe.max_log_size,
        clip=recipe.clip,
    )
    for one, reference in zip(found, expected):
        assert_same_detections(one, in_the_image(reference), 300, 300)


def test_losses_are_torchvisions(theirs, ours):
    torch.manual_seed(3)
    images = [torch.rand(3, 300, 300) for _ in range(2)]
    targets = [
        {
            "boxes": torch.tensor([[30.0, 40, 180, 200], [100, 90, 280, 290], [5, 5, 40, 45]]),
            "labels": torch.tensor([7, 2, 90]),
        },
        {"boxes": torch.tensor([[60.0, 10, 130, 290]]), "labels": torch.tensor([1])},
    ]
    with torch.no_grad():
        expected = theirs.train()(images, targets)
        theirs.eval()
        mean, std = torch.tensor(ours.recipe.mean), torch.tensor(ours.recipe.std)
        batch = (torch.stack(images) - mean[:, None, None]) / std[:, None, None]
        loss = CONVENTIONS["torchvision"].make_loss(ours.priors)
        parts = loss(
            ours(batch), [{"boxes": t["boxes"] / 300, "labels": t["labels"]} for t in targets]
        )
    assert parts.num_positives > 10
    torch.testing.assert_close(parts.localization, expected["bbox_regression"], rtol=1e-4, atol=0)
    torch.testing.assert_close(parts.confidence, expected["classification"], rtol=1e-4, atol=0)


def test_torchvisions_convention_travels_with_the_model(ours, tmp_path):
    recipe = ours.recipe
    assert ours.spec.priors == PRESETS["torchvision"]
    assert (recipe.resize, recipe.clip, recipe.image_size) == ("torch", True, 300)
    assert recipe.max_log_size == pytest.approx(math.log(62.5))
    assert len(recipe.class_names) == 91
    assert (recipe.class_names[0], recipe.class_names[1]) == ("background", "person")
    assert recipe.class_names[90] == "toothbrush"
    assert not ours.training
    save_model(ours, tmp_path / "torchvision.pt")
    again = load_model(tmp_path / "torchvision.pt")
    assert (again.spec, again.recipe) == (ours.spec, ours.recipe)
    state = ours.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


# ---------------------------------------------------------------- the layouts of two repositories


def with_biases(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Small random tensors of these shapes, each convolution with a bias."""
    torch.manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        fan_in = math.prod(shape[1:])
        state[f"{name}.weight"] = torch.randn(shape) * (2 / fan_in) ** 0.5
        state[f"{name}.bias"] = torch.randn(shape[0]) * 0.1
    return state


HEADS = ((512, 4), (1024, 6), (512, 6), (256, 6), (256, 4), (256, 4))
VGG = ((3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256))
VGG += ((256, 512), *[(512, 512)] * 5)
EXTRAS = ((1024, 256, 1), (256, 512, 3), (512, 128, 1), (128, 256, 3))
EXTRAS += ((256, 128, 1), (128, 256, 3), (256, 128, 1), (128, 256, 3))
CONVS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3")
CONVS += ("6", "7")
AUX = ("8_1", "8_2", "9_1", "9_2", "10_1", "10_2", "11_1", "11_2")
MAPS = ("4_3", "7", "8_2", "9_2", "10_2", "11_2")


def ssd_pytorch_state(num_classes: int = 21) -> dict[str, Tensor]:
    """amdegroot's names: `vgg`, `L2Norm`, `extras`, `loc` and `conf`."""
    indices = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    shapes = {f"vgg.{i}": (o, c, 3, 3) for i, (c, o) in zip(indices, VGG)}
    shapes |= {"vgg.31": (1024, 512, 3, 3), "vgg.33": (1024, 1024, 1, 1)}
    shapes |= {f"extras.{i}": (o, c, k, k) for i, (c, o, k) in enumerate(EXTRAS)}
    shapes |= {f"loc.{k}": (4 * n, c, 3, 3) for k, (c, n) in enumerate(HEADS)}
    shapes |= {f"conf.{k}": (num_classes * n, c, 3, 3) for k, (c, n) in enumerate(HEADS)}
    return with_biases(shapes) | {"L2Norm.weight": torch.rand(512) * 20}


def sgrvinod_state(num_classes: int = 21) -> dict[str, Tensor]:
    """sgrvinod's names: `rescale_factors`, `base`, `aux_convs` and `pred_convs`."""
    shapes = {f"base.conv{n}": (o, c, 3, 3) for n, (c, o) in zip(CONVS, VGG)}
    shapes |= {"base.conv6": (1024, 512, 3, 3), "base.conv7": (1024, 1024, 1, 1)}
    shapes |= {f"aux_convs.conv{n}": (o, c, k, k) for n, (c, o, k) in zip(AUX, EXTRAS)}
    shapes |= {f"pred_convs.loc_conv{m}": (4 * n, c, 3, 3) for m, (c, n) in zip(MAPS, HEADS)}
    shapes |= {
        f"pred_convs.cl_conv{m}": (num_classes * n, c, 3, 3) for m, (c, n) in zip(MAPS, HEADS)
    }
    return with_biases(shapes) | {"rescale_factors": torch.rand(1, 512, 1, 1) * 20}


def literal_ssd300(images: Tensor, conv, scale: Tensor, heads) -> tuple[Tensor, Tensor]:
    """SSD300 written out, from conv(name, x, ...) and heads(k, map), which know the names."""
    x = images
    for stage, layers in enumerate((2, 2, 3, 3), start=1):
        for layer in range(1, layers + 1):
            x = relu(conv(f"conv{stage}_{layer}", x, padding=1))
        if stage < 4:
            x = max_pool2d(x, 2, 2, ceil_mode=stage == 3)
    sources = [x / x.pow(2).sum(dim=1, keepdim=True).sqrt() * scale.view(1, 512, 1, 1)]
    x = max_pool2d(x, 2, 2)
    for layer in (1, 2, 3):
        x = relu(conv(f"conv5_{layer}", x, padding=1))
    x = max_pool2d(x, 3, 1, 1)
    x = relu(conv("conv6", x, padding=6, dilation=6))
    sources += [relu(conv("conv7", x))]
    for block, (stride, padding) in {8: (2, 1), 9: (2, 1), 10: (1, 0), 11: (1, 0)}.items():
        x = relu(conv(f"conv{block}_1", sources[-1]))
        sources += [relu(conv(f"conv{block}_2", x, stride=stride, padding=padding))]
    offsets, logits = zip(*(heads(k, source) for k, source in enumerate(sources)))
    return torch.cat(offsets, dim=1), torch.cat(logits, dim=1)


def rows(maps: Tensor, width: int) -> Tensor:
    return maps.permute(0, 2, 3, 1).contiguous().view(maps.shape[0], -1, width)


def run_ssd_pytorch(state: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    indices = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33)
    names = {f"conv{n}": f"vgg.{i}" for n, i in zip(CONVS, indices)}
    names |= {f"conv{n}": f"extras.{i}" for i, n in enumerate(AUX)}

    def conv(name, x, **options):
        return conv2d(x, state[f"{names[name]}.weight"], state[f"{names[name]}.bias"], **options)

    def heads(k, x):
        return tuple(
            rows(conv2d(x, state[f"{kind}.{k}.weight"], state[f"{kind}.{k}.bias"], padding=1), n)
            for kind, n in (("loc", 4), ("conf", len(state["conf.0.bias"]) // 4))
        )

    return literal_ssd300(images, conv, state["L2Norm.weight"], heads)


def run_sgrvinod(state: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    def conv(name, x, **options):
        number = int(name.removeprefix("conv").split("_")[0])
        full = f"{'base' if number <= 7 else 'aux_convs'}.{name}"
        return conv2d(x, state[f"{full}.weight"], state[f"{full}.bias"], **options)

    def heads(k, x):
        layer = "conv" + MAPS[k]
        full = [f"pred_convs.{kind}_{layer}" for kind in ("loc", "cl")]
        widths = (4, len(state["pred_convs.cl_conv4_3.bias"]) // 4)
        return tuple(
            rows(conv2d(x, state[f"{f}.weight"], state[f"{f}.bias"], padding=1), n)
            for f, n in zip(full, widths)
        )

    return literal_ssd300(images, conv, state["rescale_factors"], heads)


LAYOUTS = {
    "ssd.pytorch": (load_ssd_pytorch, ssd_pytorch_state, run_ssd_pytorch),
    "sgrvinod": (load_sgrvinod, sgrvinod_state, run_sgrvinod),
}


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_their_weights_compute_what_they_computed(layout):
    load, make_state, run = LAYOUTS[layout]
    state = make_state()
    torch.manual_seed(1)
    images = torch.randn(1, 3, 300, 300)
    model = load(state)
    assert not model.training
    assert len(state) == len(model.state_dict()) == 71
    predictions, (offsets, logits) = model(images), run(state, images)
    assert logits.std() > 0.1
    torch.testing.assert_close(predictions.offsets, offsets, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(predictions.logits, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_arrives(layout):
    load, make_state, _ = LAYOUTS[layout]
    state = make_state(num_classes=5)
    model = load(state)
    arrived = sorted(value.sum().item() for value in model.state_dict().values())
    assert arrived == pytest.approx(sorted(value.sum().item() for value in state.values()))
    assert model.recipe.class_names == ("background", "1", "2", "3", "4")


def test_each_layout_brings_its_convention():
    degroot, vinod = load_ssd_pytorch(ssd_pytorch_state()), load_sgrvinod(sgrvinod_state())
    assert degroot.spec.priors == PRESETS["ssd.pytorch"]
    assert vinod.spec.priors == PRESETS["sgrvinod"]
    assert (degroot.recipe.top_k, degroot.recipe.max_detections) == (200, None)
    assert (vinod.recipe.top_k, vinod.recipe.max_detections) == (None, 200)
    assert (degroot.recipe.resize, vinod.recipe.resize) == ("opencv", "pillow")
    assert [round(255 * m, 6) for m in degroot.recipe.mean] == [123, 117, 104]
    assert vinod.recipe.mean == (0.485, 0.456, 0.406)
    assert degroot.recipe.class_names == vinod.recipe.class_names == VOC_CLASSES
    assert (len(VOC_CLASSES), VOC_CLASSES[15], len(COCO_CLASSES)) == (21, "person", 91)
    assert sorted(VOC_CLASSES[1:]) == list(VOC_CLASSES[1:])


# ---------------------------------------------------------------- files that do not fit


@pytest.mark.parametrize("before", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_what_wrappers_put_before_the_names_is_ignored(before):
    state = sgrvinod_state(num_classes=3)
    wrapped = {f"{before}{name}": value for name, value in state.items()}
    for content in (wrapped, {"n_averaged": torch.tensor(9), **wrapped}):  # weight averaging
        model = load_sgrvinod(content)
        assert torch.equal(model.trunk.conv6.weight, state["base.conv6.weight"])
    del wrapped[f"{before}base.conv6.weight"]
    with refuses(r"missing \['base.conv6.weight'\], unexpected \['b'\]"):
        load_sgrvinod({**wrapped, f"{before}b": torch.zeros(1)})


def test_torchvisions_training_script_keeps_its_arguments(tmp_path):
    state = torchvision_model(num_classes=3).state_dict()
    arguments = Namespace(lr=0.002, device="cuda", lr_steps=[80, 110], weights=None)
    torch.save({"model": state, "optimizer": {}, "args": arguments, "epoch": 7}, tmp_path / "a.pth")
    model = load_checkpoint(tmp_path / "a.pth", say=str)
    weights = state["head.regression_head.module_list.0.weight"]
    assert torch.equal(model.localization_heads[0].weight, weights)
    torch.save({"model": state, "args": Namespace(run=print)}, tmp_path / "code.pth")
    with refuses("could be code"):
        load_checkpoint(tmp_path / "code.pth")


@pytest.mark.parametrize("options", [{"_use_new_zipfile_serialization": False}, {}])
def test_half_precision_and_files_of_old_torch_are_read(tmp_path, options):
    state = {k: v.half() for k, v in ssd_pytorch_state(num_classes=3).items()}
    torch.save(state, tmp_path / "old.pth", **options)
    model = load_checkpoint(tmp_path / "old.pth", say=str)
    assert torch.equal(model.trunk.conv6.weight, state["vgg.31.weight"].float())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_partial_state_is_refused_with_its_names(layout):
    load, make_state, _ = LAYOUTS[layout]
    state = make_state(num_classes=3)
    gone = list(state)[3::20]
    kept = {name: value for name, value in state.items() if name not in gone}
    with refuses(re.escape(f"missing {sorted(gone)}, unexpected ['extra.weight']")):
        load({**kept, "extra.weight": torch.zeros(1)})


def test_another_repositorys_state_is_refused():
    with refuses(r"missing \['aux_convs.conv10_1.bias'.*unexpected \['L2Norm"):
        load_sgrvinod(ssd_pytorch_state(num_classes=3))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "net", "ema"])
def test_what_a_training_script_saved_is_unwrapped(layout, key):
    load, make_state, _ = LAYOUTS[layout]
    state = make_state(num_classes=3)
    parallel = {f"module.{name}": value for name, value in state.items()}
    expected = load(state).state_dict()
    for content in (state, parallel):
        for wrapped in (content, {"state_dict": content}):
            found = load({"epoch": 3, "optimizer": {"state": {}}, key: wrapped}).state_dict()
            assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_names_in_a_wrapper_are_checked():
    with refuses(r"missing \['aux_convs.conv10_1.bias'.*unexpected \['L2Norm"):
        load_sgrvinod({"model": ssd_pytorch_state(num_classes=3)})
    with refuses(r"expected a state_dict \(names and tensors\), not a Conv2d", TypeError):
        load_ssd_pytorch({"model": torch.nn.Conv2d(1, 1, 1)})


def test_what_is_no_state_dict_is_refused():
    with refuses(r"expected a state_dict \(names and tensors\), not a Conv2d", TypeError):
        load_ssd_pytorch(torch.nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("value", [3.0, None, np.ones(512)])
def test_what_is_no_tensor_is_named(value):
    state = ssd_pytorch_state(num_classes=3) | {"L2Norm.weight": value}
    with refuses(f"L2Norm.weight is not a tensor but a {type(value).__name__}", TypeError):
        load_ssd_pytorch(state)


def test_names_that_are_no_names_are_refused():
    with refuses(r"missing .*unexpected \['0', 'conf.0.bias'\]"):
        load_sgrvinod({0: torch.zeros(1), "conf.0.bias": torch.zeros(1)})


def test_tensors_of_another_shape_are_listed():
    state = ssd_pytorch_state(num_classes=3)
    state["vgg.31.weight"] = torch.zeros(1024, 512, 7, 7)
    state["loc.2.bias"] = torch.zeros(23)
    with pytest.raises(ValueError, match="wrong shape") as caught:
        load_ssd_pytorch(state)
    assert "vgg.31.weight (1024, 512, 7, 7) instead of (1024, 512, 3, 3)" in str(caught.value)
    assert "loc.2.bias (23,) instead of (24,)" in str(caught.value)


@pytest.mark.parametrize("channels", [4, 13])
def test_heads_without_a_number_of_classes_are_refused(channels):
    state = ssd_pytorch_state(num_classes=3) | {"conf.0.bias": torch.zeros(channels)}
    with refuses(f"conf.0.bias has {channels} channels, not a number of classes for 4 priors"):
        load_ssd_pytorch(state)


def test_a_model_of_ones_own_classes_goes_to_torchvision_and_back():
    theirs = torchvision_model(num_classes=4)
    model = load_torchvision_ssd300(theirs.state_dict())
    assert model.spec.num_classes == 4
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert ssd300_vgg16(num_classes=4).state_dict().keys() == model.state_dict().keys()
