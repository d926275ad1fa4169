"""Everybody's checkpoints: random weights under published names, against networks written out.

No file of theirs was at hand: the names, shapes, priors and preprocessing are those of the sources
that `ssd_annotated.published.layouts` names. (torchvision's: `test_weights` and `test_ssdlite`.)
"""

import math
from itertools import product

import cv2
import literal
import numpy as np
import pytest
import torch
from parity import PHOTOGRAPHS
from PIL import Image
from refusals import refuses
from torchvision import transforms

from ssd_annotated.checkpoint import load_model, save_model
from ssd_annotated.model import Recipe, tiny_ssd
from ssd_annotated.priors import PRESETS, make_priors
from ssd_annotated.published.layouts import LAYOUTS
from ssd_annotated.published.weights import (
    COCO_80_CLASSES,
    VOC_CLASSES,
    load_checkpoint,
    load_d2l,
    load_lufficc,
    load_nvidia,
    load_qfgaohao,
)
from ssd_annotated.transforms import prepare

#: Loader, network, classes, side of the images, and number of priors.
CASES = {
    "lufficc": (load_lufficc, literal.lufficc, 21, 300, 8732),
    "lufficc-512": (load_lufficc, literal.lufficc, 3, 512, 24_564),
    "vgg16-ssd": (load_qfgaohao, literal.vgg16_ssd, 21, 300, 8732),
    "mb1-ssd": (load_qfgaohao, literal.mb1_ssd, 5, 300, 3000),
    "mb2-ssd-lite": (load_qfgaohao, literal.mb2_ssd_lite, 21, 300, 3000),
    "nvidia": (load_nvidia, literal.nvidia, 81, 300, 8732),
    "d2l": (load_d2l, literal.d2l, 2, 256, 5444),
}


@torch.no_grad()
def drawn(name):
    """A state under the published names, and what the network written out makes of images."""
    _, network, num_classes, side, _ = CASES[name]
    torch.manual_seed(0)
    net = literal.Net(num_classes)
    images = torch.randn(1, 3, side, side)
    return net.state, network(net, images), images


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """The name of a case, and what is drawn for it."""
    return request.param, *drawn(request.param)


def in_our_order(rows, maps=(38, 19, 10, 5, 3, 1), shapes=literal.SHAPES_OF_MAPS):
    """NVIDIA's (B, width, P), shape by shape, as (B, P, width), cell by cell."""
    counts = [n * side**2 for side, n in zip(maps, shapes, strict=True)]
    parts = rows.split(counts, dim=2)
    return torch.cat(
        [
            part.reshape(*part.shape[:2], n, -1).permute(0, 3, 2, 1).flatten(1, 2)
            for part, n in zip(parts, shapes, strict=True)
        ],
        dim=1,
    )


@torch.no_grad()
def test_their_weights_compute_what_they_computed(case, tmp_path):
    name, state, (offsets, logits), images = case
    load, _, num_classes, side, num_priors = CASES[name]
    if name == "nvidia":
        offsets, logits = in_our_order(offsets), in_our_order(logits)
    model = load(state)
    assert not model.training
    assert (model.spec.num_classes, model.recipe.image_size) == (num_classes, side)
    predictions = model(images)
    assert logits.shape == (1, num_priors, num_classes)
    assert logits.std() > 0.3
    torch.testing.assert_close(predictions.offsets, offsets, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(predictions.logits, logits, atol=1e-4, rtol=1e-4)
    save_model(model, tmp_path / "ours.pt")
    again = load_model(tmp_path / "ours.pt")
    assert (again.spec, again.recipe) == (model.spec, model.recipe)
    kept = again.state_dict()
    assert all(torch.equal(value, kept[k]) for k, value in model.state_dict().items())


def test_one_missing_tensor_is_named(case):
    name, state, *_ = case
    *names, gone = state
    with refuses(f"missing .'{gone}'., unexpected nothing"):
        CASES[name][0]({k: state[k] for k in names})


def test_a_file_from_before_batches_were_counted():
    state, (_, logits), images = drawn("mb1-ssd")
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    with torch.no_grad():
        torch.testing.assert_close(load_qfgaohao(old)(images).logits, logits, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- whose it is


def test_a_checkpoint_is_recognised_by_its_names(case):
    name, state, *_ = case
    said = []
    model = load_checkpoint({"model": {f"module.{k}": v for k, v in state.items()}}, said.append)
    assert said == [f"a checkpoint of {LAYOUTS[name].source}, with {CASES[name][2]} classes"]
    assert model.spec.architecture == LAYOUTS[name].architecture


def test_a_file_says_whose_it_is(tmp_path, capsys):
    state, _, _ = drawn("d2l")
    torch.save(state, tmp_path / "net.params")
    load_checkpoint(tmp_path / "net.params")
    assert capsys.readouterr().out == "a checkpoint of d2l's TinySSD, with 2 classes\n"


def test_our_own_files_are_loaded_in_silence(tmp_path, capsys):
    model = tiny_ssd(3, image_size=64)
    save_model(model, tmp_path / "model.pt")
    assert load_checkpoint(tmp_path / "model.pt").spec == model.spec
    assert capsys.readouterr().out == ""


def test_nobodys_names_are_refused():
    with refuses(
        r"\['a.weight', 'b.bias'\] ... are not those of torchvision's ssdlite320.*, d2l's"
    ):
        load_checkpoint({"b.bias": torch.zeros(1), "a.weight": torch.zeros(1)})


def test_a_file_that_holds_code_is_refused_with_advice(tmp_path):
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "whole.pth")
    with refuses("whole.pth is damaged, or .* more than tensors .* save the state_dict alone"):
        load_checkpoint(tmp_path / "whole.pth")


# ---------------------------------------------------------------- what surrounds the networks


def literal_priors(maps, steps, sizes, ratios, side):
    """qfgaohao's and lufficc's generator: cell by cell, clamped as centres and sizes."""
    rows = []
    for k, cells in enumerate(maps):
        small, large = sizes[k], sizes[k + 1]
        for y, x in product(range(cells), repeat=2):
            centre = [(x + 0.5) * steps[k] / side, (y + 0.5) * steps[k] / side]
            rows.append([*centre, small / side, small / side])
            rows.append([*centre, *[math.sqrt(small * large) / side] * 2])
            for ratio in ratios[k]:
                wide, narrow = small * math.sqrt(ratio) / side, small / math.sqrt(ratio) / side
                rows += [[*centre, wide, narrow], [*centre, narrow, wide]]
    return torch.tensor(rows).clamp(0, 1)


PAPER = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
MAPS, STEPS = (38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300)
VOC, COCO = (30, 60, 111, 162, 213, 264, 315), (21, 45, 99, 153, 207, 261, 315)
MAPS_512, STEPS_512 = (64, 32, 16, 8, 4, 2, 1), (8, 16, 32, 64, 128, 256, 512)
PAPER_512 = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
VOC_512 = (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)
COCO_512 = (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)
MOBILE = (
    *((19, 10, 5, 3, 2, 1), (16, 32, 64, 100, 150, 300)),
    *((60, 105, 150, 195, 240, 285, 330), ((2, 3),) * 6, 300),
)


@pytest.mark.parametrize(
    ("name", "num_classes", "numbers"),
    [
        ("lufficc", 21, (MAPS, STEPS, VOC, PAPER, 300)),
        ("lufficc", 81, (MAPS, STEPS, COCO, PAPER, 300)),
        ("lufficc-512", 21, (MAPS_512, STEPS_512, VOC_512, PAPER_512, 512)),
        ("lufficc-512", 81, (MAPS_512, STEPS_512, COCO_512, PAPER_512, 512)),
        ("vgg16-ssd", 21, (MAPS, STEPS, VOC, PAPER, 300)),
        ("mb1-ssd", 21, MOBILE),
        ("mb2-ssd-lite", 21, MOBILE),
        ("nvidia", 81, (MAPS, STEPS, COCO, PAPER, 300)),
    ],
)
def test_priors_are_those_of_the_source(name, num_classes, numbers):
    layout = LAYOUTS[name]
    spec = (layout.coco if num_classes == 81 and layout.coco else layout.convention).priors
    priors = make_priors(spec)
    assert priors.shape == literal_priors(*numbers).shape
    torch.testing.assert_close(priors, literal_priors(*numbers), atol=1e-6, rtol=0)


def test_nvidias_priors_in_its_own_order():
    """Shape by shape; the permutation that orders its outputs orders its priors too."""
    rows = []
    for k, cells in enumerate(MAPS):
        small, large = COCO[k] / 300, COCO[k + 1] / 300
        shapes = [(small, small), (math.sqrt(small * large),) * 2]
        for ratio in PAPER[k]:
            wide, narrow = small * math.sqrt(ratio), small / math.sqrt(ratio)
            shapes += [(wide, narrow), (narrow, wide)]
        for shape in shapes:
            for i, j in product(range(cells), repeat=2):
                rows.append([(j + 0.5) * STEPS[k] / 300, (i + 0.5) * STEPS[k] / 300, *shape])
    theirs = torch.tensor(rows).clamp(0, 1).T[None]
    ours = make_priors(LAYOUTS["nvidia"].convention.priors)
    torch.testing.assert_close(in_our_order(theirs)[0], ours, atol=1e-6, rtol=0)


def test_d2ls_priors_and_recipe_are_the_presets():
    model = load_d2l(drawn("d2l")[0])
    assert (model.spec.priors, model.spec.widths) == (PRESETS["d2l"], (16, 32, 64, 128, 128, 128))
    assert (model.recipe.image_size, model.recipe.class_agnostic) == (256, True)
    assert model.recipe.class_names == ("background", "1")


def subtracted(image, mean, std, side=300):
    resized = cv2.resize(image, (side, side)).astype(np.float32)
    return torch.from_numpy((resized - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)


def imagenets(image):
    ways = [transforms.Resize((300, 300)), transforms.ToTensor()]
    ways += [transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    return transforms.Compose(ways)(Image.fromarray(image))


#: Preprocessing; then score above, candidates of a class, IoU above, detections of an image.
AROUND = {
    "lufficc": (lambda i: subtracted(i, (123, 117, 104), 1), (0.01, None, 0.45, 100)),
    "lufficc-512": (lambda i: subtracted(i, (123, 117, 104), 1, 512), (0.01, None, 0.45, 100)),
    "vgg16-ssd": (lambda i: subtracted(i, (123, 117, 104), 1), (0.01, 200, 0.45, None)),
    "mb1-ssd": (lambda i: subtracted(i, 127, 128), (0.01, 200, 0.45, None)),
    "mb2-ssd-lite": (lambda i: subtracted(i, 127, 128), (0.01, 200, 0.45, None)),
    "nvidia": (imagenets, (0.05, 200, 0.45, 200)),
}


@pytest.mark.parametrize("name", AROUND)
def test_images_come_in_and_detections_go_out_as_in_the_source(name):
    (theirs, post), settings = AROUND[name], LAYOUTS[name].convention.recipe
    recipe = Recipe(class_names=VOC_CLASSES, **settings)
    for photograph in PHOTOGRAPHS:
        expected = theirs(photograph)
        scale = max(1.0, expected.abs().max().item())
        assert (prepare(photograph, recipe) - expected).abs().max() / scale < 1e-5
    fields = ("score_threshold", "top_k", "nms_threshold", "max_detections")
    assert tuple(getattr(recipe, field) for field in fields) == post
    assert (recipe.variances, recipe.clip, recipe.max_log_size) == ((0.1, 0.2), False, None)


def test_classes_have_their_names(case):
    name, state, *_ = case
    names = {21: VOC_CLASSES, 81: COCO_80_CLASSES}.get(CASES[name][2])
    if names:
        assert load_checkpoint(state, say=str).recipe.class_names == names
    assert len(COCO_80_CLASSES) == 81
    assert COCO_80_CLASSES[12:14] == ("stop sign", "parking meter")
    assert COCO_80_CLASSES[80] == "toothbrush"
