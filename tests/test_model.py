"""The network: its shapes, the order of its rows, and its way to disk and back."""

import zipfile
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from refusals import refuses, unchecked
from torch import nn
from torch.nn.functional import conv2d
from torchvision.models.detection.ssd import SSDClassificationHead, SSDRegressionHead

from ssd_annotated.checkpoint import (
    describe,
    load_model,
    plain,
    pretrained,
    save_model,
    write_whole,
)
from ssd_annotated.data.graffiti import CLASS_NAMES, GraffitiDigits
from ssd_annotated.model import (
    ARCHITECTURES,
    SSD,
    ModelSpec,
    Predictions,
    Recipe,
    TinyTrunk,
    build,
    channels_to_rows,
    conv3x3,
    down_block,
    extra_block,
    register_architecture,
    ssd300_vgg16,
    ssd512_vgg16,
    tiny_ssd,
)
from ssd_annotated.priors import PRESETS, PriorSpec, make_priors, rescale_priors, tiny_priors
from ssd_annotated.training.train import train

# Layers this small are enough work for one thread; more threads only wait for each other.
torch.set_num_threads(1)

NARROW = (4, 4, 8, 8, 8, 8)


def small(**options):
    torch.manual_seed(0)
    return tiny_ssd(**({"num_classes": 4, "image_size": 64, "widths": NARROW} | options)).eval()


def assert_same_predictions(a, b, **tolerance):
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("image_size", "cells"),
    [
        # Three halvings, then one more for each map, rounded down; the last map is one cell.
        (64, 8**2 + 4**2 + 2**2 + 1 + 1),
        (100, 12**2 + 6**2 + 3**2 + 1 + 1),
        (128, 16**2 + 8**2 + 4**2 + 2**2 + 1),
        (256, 1361),
    ],
)
def test_predictions_fit_the_priors(image_size, cells):
    model = small(image_size=image_size)
    with torch.no_grad():
        predictions = model(torch.zeros(2, 3, image_size, image_size))
    assert isinstance(predictions, Predictions)
    assert predictions.offsets.shape == (2, 4 * cells, 4)
    assert predictions.logits.shape == (2, 4 * cells, 4)
    assert model.priors.shape == (4 * cells, 4)


def test_train_and_eval_give_the_same_kind():
    model = small()
    images = torch.rand(2, 3, 64, 64)
    for mode in (True, False):
        predictions = model.train(mode)(images)
        assert isinstance(predictions, Predictions)
        assert [part.shape for part in predictions] == [(2, 344, 4), (2, 344, 4)]
        assert [part.dtype for part in predictions] == [torch.float32] * 2


def test_parameters_by_hand():
    # A block is two 3×3 convolutions with bias and two batch norms of two numbers per channel;
    # a head one 3×3 convolution with bias, for 4 priors of 4 offsets or 11 classes.
    def convolution(inputs, outputs):
        return 9 * inputs * outputs + outputs

    widths = (3, 16, 32, 64, 128, 128, 128)
    blocks = sum(convolution(i, o) + convolution(o, o) + 4 * o for i, o in pairwise(widths))
    heads = sum(convolution(c, 16) + convolution(c, 44) for c in (64, 128, 128, 128, 128))
    model = tiny_ssd()
    assert sum(p.numel() for p in model.parameters()) == blocks + heads == 1_197_180
    assert model.spec.num_classes == 11
    assert len(model.priors) == 5444


def test_the_parts_have_their_names():
    model = small()
    assert len(model.extras) == 4
    assert len(model.localization_heads) == len(model.confidence_heads) == 5
    maps = model.trunk(torch.zeros(1, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(1, 8, 8, 8)]


def test_the_last_map_is_a_global_maximum():
    model = small(image_size=256)
    last = torch.rand(2, 8, 4, 4)
    assert torch.equal(model.extras[-1](last)[:, :, 0, 0], last.amax(dim=(2, 3)))


def test_a_block_step_by_step():
    block = down_block(3, 5).eval()
    first, norm, _, second, second_norm, _, _ = block
    maps = torch.rand(2, 3, 6, 6)
    expected = maps
    for layer, statistics in ((first, norm), (second, second_norm)):
        with torch.no_grad():
            statistics.running_mean.normal_()
            statistics.weight.normal_()
        expected = conv2d(expected, layer.weight, layer.bias, padding=1)
        mean, scale = statistics.running_mean, statistics.weight  # the variance is still 1
        expected = (expected - mean[:, None, None]) / (1 + 1e-5) ** 0.5 * scale[:, None, None]
        expected = expected.clamp(min=0)
    windows = expected.reshape(2, 5, 3, 2, 3, 2)
    torch.testing.assert_close(block(maps), windows.amax(dim=(3, 5)))


def test_a_batch_equals_image_by_image_in_eval_mode():
    model = small()
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        batch = model(images)
        single = [model(image[None]) for image in images]
    joined = [torch.cat(parts) for parts in zip(*single, strict=True)]
    assert_same_predictions(batch, joined, rtol=1e-4, atol=1e-5)


def test_priors_are_cxcywh_and_follow_the_model():
    model = small()
    assert torch.equal(model.priors, make_priors(model.spec.priors))
    # The first cell is an eighth of the image: its centre is at 1/16, and .2 its first size.
    torch.testing.assert_close(model.priors[0], torch.tensor([1 / 16, 1 / 16, 0.2, 0.2]))
    assert "priors" not in model.state_dict()
    assert model.double().priors.dtype == torch.float64


def test_same_seed_same_weights():
    first, second = small().state_dict(), small().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


# ---------------------------------------------------------------- the order of the rows


def test_channels_become_rows_by_hand():
    # One map of 2 × 2 cells with 2 priors of 3 numbers: 6 channels. Each value tells its place:
    # channel in the hundreds, row in the tens, column in the ones.
    channel, row, column = torch.meshgrid(*map(torch.arange, (6, 2, 2)), indexing="ij")
    first = (100 * channel + 10 * row + column).float()[None]
    # And one map of a single cell with 1 prior: channels 1000, 2000, 3000.
    second = torch.tensor([1000.0, 2000.0, 3000.0]).reshape(1, 3, 1, 1)
    rows = channels_to_rows([first, second], 3)
    assert rows[0].tolist() == [
        [0, 100, 200],  # upper left cell, first prior: channels 0, 1, 2
        [300, 400, 500],  # the same cell, second prior: channels 3, 4, 5
        [1, 101, 201],  # the cell to its right
        [301, 401, 501],
        [10, 110, 210],  # the next row
        [310, 410, 510],
        [11, 111, 211],
        [311, 411, 511],
        [1000, 2000, 3000],
    ]


class Coordinates(nn.Module):
    """A trunk that sees nothing: its two maps tell each cell its own centre, (x, y, 1)."""

    def forward(self, images):
        maps = []
        for side in (4, 2):
            line = (torch.arange(side) + 0.5) / side
            y, x = torch.meshgrid(line, line, indexing="ij")
            maps.append(torch.stack([x, y, torch.ones_like(x)]).expand(len(images), -1, -1, -1))
        return maps


def test_each_row_belongs_to_its_prior():
    # Heads that only look at the middle of their 3×3 window and pass on x, y and, for each prior
    # of a cell, its width and height. Then every row must repeat its prior.
    priors = PriorSpec((4, 2), (0.2, 0.5), ((2.0,), (2.0, 3.0)), last_extra=0.9)
    spec = ModelSpec("coordinates", 2, (), priors)
    recipe = Recipe(image_size=16, class_names=("background", "thing"))
    model = SSD(Coordinates(), [], (3, 3), spec, recipe)
    start = 0
    with torch.no_grad():
        for head, count, per_cell in zip(
            model.localization_heads, priors.counts, priors.boxes_per_cell, strict=True
        ):
            head.weight.zero_()
            head.bias.zero_()
            for k in range(per_cell):
                head.weight[4 * k, 0, 1, 1] = 1
                head.weight[4 * k + 1, 1, 1, 1] = 1
                head.weight[4 * k + 2 : 4 * k + 4, 2, 1, 1] = model.priors[start + k, 2:]
            start += count
        offsets = model(torch.zeros(1, 3, 16, 16)).offsets[0]
    torch.testing.assert_close(offsets, model.priors)


def test_rows_come_in_torchvisions_order():
    maps = [torch.rand(2, 5, 4, 4), torch.rand(2, 7, 2, 2)]
    for make, width, extra in (
        (SSDRegressionHead, 4, ()),
        (SSDClassificationHead, 6, (6,)),
    ):
        theirs = make([5, 7], [4, 6], *extra)
        ours = [head(m) for head, m in zip(theirs.module_list, maps, strict=True)]
        torch.testing.assert_close(channels_to_rows(ours, width), theirs(maps))


# ---------------------------------------------------------------- spec and recipe


def test_spec_and_recipe_tell_what_was_built():
    model = tiny_ssd(3, 128, NARROW, class_names=("background", "cat", "dog"))
    assert model.spec == ModelSpec("tiny_ssd", 3, NARROW, model.spec.priors)
    assert model.spec.priors.sizes == PRESETS["d2l"].sizes
    assert model.recipe == Recipe(128, ("background", "cat", "dog"))
    assert model.recipe.variances == (0.1, 0.2)
    recipe = model.recipe
    limits = (recipe.score_threshold, recipe.top_k, recipe.nms_threshold, recipe.max_detections)
    assert limits == (0.01, 400, 0.45, 200)


def test_classes_without_names_are_numbered():
    assert small().recipe.class_names == ("background", "1", "2", "3")


def test_a_list_of_names_becomes_a_tuple():
    with unchecked():
        names = small(num_classes=2, class_names=["background", "cat"]).recipe.class_names
    assert names == ("background", "cat")


# ---------------------------------------------------------------- saving and loading


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model = small(class_names=("background", "a", "b", "c"))
    model.recipe = replace(model.recipe, score_threshold=0.3, variances=(0.2, 0.4))
    model.train()(torch.rand(2, 3, 64, 64))  # batch norm now has statistics of its own
    save_model(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    assert not loaded.training
    assert loaded.spec == model.spec
    assert loaded.recipe == model.recipe
    assert torch.equal(loaded.priors, model.priors)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert_same_predictions(loaded(images), model.eval()(images), rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_half_the_size_in_half_precision(tmp_path):
    model = small(widths=(16, 32, 32, 32, 32, 32))
    whole, half = tmp_path / "whole.pt", str(tmp_path / "half.pt")
    save_model(model, whole)
    save_model(model, half, torch.float16)
    assert (tmp_path / "half.pt").stat().st_size < 0.6 * whole.stat().st_size
    stored = torch.load(half, weights_only=True)["state_dict"]
    assert {str(v.dtype) for v in stored.values()} == {"torch.float16", "torch.int64"}
    loaded = load_model(half)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert next(model.parameters()).dtype == torch.float32
    with torch.no_grad():
        predictions = [m(torch.ones(1, 3, 64, 64)) for m in (loaded, model)]
    assert_same_predictions(*predictions, rtol=1e-2, atol=1e-2)


def test_the_file_holds_plain_data_only(tmp_path):
    save_model(small(), tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(content) == {"spec", "recipe", "state_dict"}

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for part in value.values() for leaf in leaves(part)]
        if isinstance(value, list | tuple):
            return [leaf for part in value for leaf in leaves(part)]
        return [value]

    kinds = {type(leaf) for leaf in leaves([content["spec"], content["recipe"]])}
    assert kinds <= {str, int, float, bool, type(None)}
    assert {type(leaf) for leaf in leaves(content["state_dict"])} == {torch.Tensor}


def test_what_numpy_counted_can_be_loaded_again(tmp_path):
    # A safe load refuses NumPy's scalars, so a file with some would be lost.
    labels = np.array(["cat", "dog"])
    with unchecked():
        model = small(num_classes=np.int64(3), class_names=("background", *np.unique(labels)))
        mean = np.array([0.5, 0.25, 0.125])
        model.recipe = replace(model.recipe, mean=mean, score_threshold=np.float32(0.5))
        save_model(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    assert loaded.spec == model.spec
    assert loaded.recipe.class_names == ("background", "cat", "dog")
    assert loaded.recipe.mean == (0.5, 0.25, 0.125)
    assert loaded.recipe.score_threshold == 0.5
    kinds = {type(value) for value in (*loaded.recipe.class_names, *loaded.recipe.mean)}
    assert kinds | {type(loaded.spec.num_classes)} == {str, float, int}


def test_of_a_compiled_model_the_network_inside_is_saved(tmp_path):
    model = small()
    with unchecked():
        save_model(torch.compile(model, backend="eager"), tmp_path / "model.pt")
    weights = load_model(tmp_path / "model.pt").state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    save_model(small(), path)
    before = path.read_bytes()

    def disk_full(_content, target):
        target.write(b"half a mod")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space left"):
        save_model(small(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_for_a_model_is_made_if_it_is_missing(tmp_path):
    save_model(small(), tmp_path / "new" / "model.pt")
    assert load_model(tmp_path / "new" / "model.pt").spec == small().spec


@pytest.mark.parametrize("keep", [0, 5, 3000, -10])
def test_a_damaged_file_is_refused(tmp_path, keep):
    path = tmp_path / "model.pt"
    save_model(small(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with refuses("model.pt is damaged, or was not written by save_model"):
        load_model(path)


def test_a_part_that_is_marked_as_a_folder_is_refused(tmp_path):
    # PyTorch would read nothing, and give whatever lies in memory for the weights.
    path = tmp_path / "model.pt"
    save_model(small(), path)
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\x01\x02", 0, content.rfind(b"archive/data/"))
    content[entry + 38] ^= 0x10
    path.write_bytes(content)
    with refuses("model.pt is damaged, or was not written by save_model"):
        load_model(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary,\n" * 100)
    with refuses("notes.txt is damaged, or was not written by save_model"):
        load_model(path)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("recipe", {"image_size": 10**6}, r"number of priors must lie in \[1, 10000000\]"),
        ("spec", {"widths": (10**5,) * 6}, r"number of weights must lie in \[0, \d+\]"),
        ("state_dict", {"trunk.0.0.weight": "x"}, "numel"),
    ],
)
def test_a_file_that_asks_for_more_than_it_holds(tmp_path, part, change, message):
    content = describe(small())
    content[part] = {**content[part], **change}
    if part == "recipe":
        content["spec"]["priors"] = plain(asdict(tiny_priors(10**6)))
    write_whole(content, tmp_path / "model.pt")
    with refuses(f"model.pt: .*{message}"):
        load_model(tmp_path / "model.pt")


def test_an_archive_that_would_unpack_to_more_is_refused(tmp_path):
    save_model(small(), tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as old,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.infolist():
            new.writestr(part.filename, old.read(part) + bytes(10**6))
    with refuses("packed.pt is damaged"):
        load_model(tmp_path / "packed.pt")


def test_a_pickled_model_is_refused(tmp_path):
    torch.save(small(), tmp_path / "pickled.pt")
    with refuses("pickled.pt is damaged, or was not written by save_model"):
        load_model(tmp_path / "pickled.pt")


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(3)])
def test_a_checkpoint_of_another_kind_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with refuses("other.pt holds no model: expected spec, recipe and state_dict"):
        load_model(tmp_path / "other.pt")


def test_an_unknown_architecture_is_refused(tmp_path):
    save_model(small(), tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["spec"]["architecture"] = "yolo"
    torch.save(content, tmp_path / "model.pt")
    with refuses("model.pt: unknown architecture 'yolo': expected one of .*'tiny_ssd'"):
        load_model(tmp_path / "model.pt")


def of_my_own(spec, recipe):
    """TinySSD with another activation."""
    model = ARCHITECTURES["tiny_ssd"](spec, recipe)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.ReLU):
            model.get_submodule(name.rpartition(".")[0])[int(name.rpartition(".")[2])] = (
                torch.nn.Hardswish()
            )
    return model


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    model = small()
    model.spec = replace(model.spec, architecture="mine")
    with refuses(r"unknown architecture 'mine': .* register_architecture\('mine', ...\)"):
        save_model(model, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_an_architecture_of_ones_own_is_saved_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("ssd_annotated.model.ARCHITECTURES", dict(ARCHITECTURES))
    register_architecture("mine", of_my_own)
    register_architecture("mine", of_my_own)  # a module that is imported again
    spec = replace(small().spec, architecture="mine")
    model = build(spec, small().recipe).eval()
    save_model(model, tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt")
    assert any(isinstance(layer, torch.nn.Hardswish) for layer in again.modules())
    images = torch.rand(1, 3, again.recipe.image_size, again.recipe.image_size)
    torch.testing.assert_close(model(images).logits, again(images).logits)
    with refuses("another architecture is already called 'mine'"):
        register_architecture("mine", lambda spec, recipe: None)


@pytest.mark.parametrize("part", ["spec", "recipe", "state_dict"])
def test_a_file_that_lacks_something_is_refused_by_name(tmp_path, part):
    save_model(small(), tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content[part].popitem()
    torch.save(content | {part: content[part] | {"unknown": 1}}, tmp_path / "model.pt")
    with refuses("model.pt: .*"):
        load_model(tmp_path / "model.pt")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        load_model(tmp_path / "none.pt")


def test_an_unknown_name_is_refused():
    with refuses("no model 'resnet' ships with the package, only "):
        pretrained("resnet")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((128, 128), r"images of 128 x 128 pixels .*\(16, 16\).* made for 64 x 64 pixels"),
        ((56, 64), r"images of 56 x 64 pixels .*\(7, 8\).* made for 64 x 64 pixels"),
        # As many cells as a square image has, in other places.
        ((32, 128), r"images of 32 x 128 pixels .*\(4, 16\).* made for 64 x 64 pixels"),
        ((16, 16), r"images of 16 x 16 pixels .*\(2, 2\).* made for 64 x 64 pixels"),
    ],
)
def test_images_of_another_size_are_refused(size, message):
    with refuses(message):
        small()(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes counts background too: at least 2, not 1"),
        ({"image_size": 63}, "image_size in pixels must be at least 64, not 63"),
        ({"class_names": ("background", "cat")}, "2 class names for 4 classes"),
        ({"widths": (4, 4, 4)}, r"widths must be six positive numbers .* not \(4, 4, 4\)"),
    ],
)
def test_a_model_that_cannot_be_is_refused(options, message):
    with refuses(message):
        small(**options)


# ---------------------------------------------------------------- the published networks


def convolutions(plan):
    """Weights and biases of convolutions (inputs, outputs, kernel side)."""
    return sum(i * o * k * k + o for i, o, k in plan)


VGG = [(3, 64, 3), (64, 64, 3), (64, 128, 3), (128, 128, 3), (128, 256, 3)]
VGG += [(256, 256, 3)] * 2 + [(256, 512, 3)] + [(512, 512, 3)] * 5
VGG += [(512, 1024, 3), (1024, 1024, 1)]
EXTRAS = [(1024, 256, 1), (256, 512, 3), (512, 128, 1), (128, 256, 3)]
EXTRAS += [(256, 128, 1), (128, 256, 3)] * 2
HEADS_300 = [(512, 4), (1024, 6), (512, 6), (256, 6), (256, 4), (256, 4)]
HEADS_512 = [(512, 4), (1024, 6), (512, 6), (256, 6), (256, 6), (256, 4), (256, 4)]


@pytest.mark.parametrize(("classes", "published"), [(21, 26_285_486), (91, 35_641_826)])
def test_ssd300_has_as_many_parameters_as_published(classes, published):
    heads = [(c, n * (4 + classes), 3) for c, n in HEADS_300]
    assert convolutions(VGG + EXTRAS + heads) + 512 == published  # 512: the L2 norm's scale
    model = ssd300_vgg16(num_classes=classes)
    assert sum(p.numel() for p in model.parameters()) == published


def test_ssd512_has_a_block_more():
    heads = [(c, n * (4 + 21), 3) for c, n in HEADS_512]
    extras = [*EXTRAS, (256, 128, 1), (128, 256, 4)]
    model = ssd512_vgg16()
    assert sum(p.numel() for p in model.parameters()) == convolutions(VGG + extras + heads) + 512


@pytest.mark.parametrize(
    ("build", "side", "cells", "count", "preset"),
    [
        (ssd300_vgg16, 300, (38, 19, 10, 5, 3, 1), 8732, "caffe-voc"),
        (ssd512_vgg16, 512, (64, 32, 16, 8, 4, 2, 1), 24564, "caffe-voc-512"),
    ],
)
def test_maps_and_rows_of_the_published_networks(build, side, cells, count, preset):
    model = build(num_classes=7).eval()
    sides = []
    for head in model.confidence_heads:
        head.register_forward_hook(lambda _, inputs, __: sides.append(inputs[0].shape[-1]))
    with torch.no_grad():
        predictions = model(torch.randn(1, 3, side, side))
    assert tuple(sides) == cells
    assert predictions.offsets.shape == (1, count, 4)
    assert predictions.logits.shape == (1, count, 7)
    assert model.priors.shape == (count, 4)
    assert model.spec.priors == PRESETS[preset]
    assert model.recipe == Recipe(side, ("background", *"123456"))


def test_ssd300_takes_a_training_step():
    torch.manual_seed(0)
    model = ssd300_vgg16(num_classes=11, class_names=CLASS_NAMES)
    before = {name: value.clone() for name, value in model.named_parameters()}
    history = train(
        model,
        GraffitiDigits("train", length=2, image_size=300),
        steps=1,
        batch_size=2,
        lr=1e-3,
        optimizer="sgd",
        progress=False,
    )
    assert history[0]["confidence"] > 0
    assert history[0]["localization"] > 0
    assert all(value.isfinite().all() for value in model.parameters())
    moved = {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}
    still = before.keys() - moved
    # A head gets a gradient only if a prior of its map counted; other layers serve several maps.
    assert all("_heads." in name for name in still), still
    assert {name.split(".")[0] for name in moved} == {
        "trunk", "extras", "localization_heads", "confidence_heads",
    }  # fmt: skip


def test_new_layers_start_from_xavier():
    torch.manual_seed(0)
    model = ssd300_vgg16(num_classes=3)
    trunk, heads = model.trunk, (model.localization_heads, model.confidence_heads)
    for part in (trunk.conv6, trunk.conv7, model.extras, *heads):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                taps = layer.kernel_size[0] ** 2
                bound = (6 / (taps * (layer.in_channels + layer.out_channels))) ** 0.5
                assert 0.95 * bound < layer.weight.abs().max() <= bound
                assert not layer.bias.any()


def test_an_extra_block_step_by_step():
    torch.manual_seed(0)
    block, maps = extra_block(3, 2, 4, kernel=3, stride=2, padding=1), torch.randn(1, 3, 5, 5)
    squeezed = conv2d(maps, block[0].weight, block[0].bias).clamp(min=0)
    expected = conv2d(squeezed, block[2].weight, block[2].bias, stride=2, padding=1).clamp(min=0)
    torch.testing.assert_close(block(maps), expected)
    assert expected.shape == (1, 4, 3, 3)


def test_ssd300_goes_to_disk_and_back(tmp_path):
    torch.manual_seed(0)
    model = ssd300_vgg16(num_classes=3, class_names=("background", "cat", "dog"))
    save_model(model, tmp_path / "ssd300.pt")
    again = load_model(tmp_path / "ssd300.pt")
    assert (again.spec, again.recipe) == (model.spec, model.recipe)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "coco"}, "weights must be 'imagenet' or None, not 'coco'"),
        ({"num_classes": 1}, "num_classes counts background too"),
        ({"class_names": ("background", "cat")}, "2 class names for 21 classes"),
        ({"priors": PRESETS["caffe-voc-512"]}, r"feature maps of \(38, 19.*for \(64, 32"),
        ({"priors": PRESETS["d2l"]}, r"feature maps of \(38, 19.*for \(32, 16"),
        # As many maps and as many shapes in a cell, but pool3 rounded down.
        (
            {"priors": replace(PRESETS["paper"], feature_maps=(37, 18, 9, 5, 3, 1))},
            r"feature maps of \(38, 19.*for \(37, 18",
        ),
    ],
)
def test_an_ssd300_that_cannot_be_is_refused(options, message):
    with refuses(message):
        ssd300_vgg16(**options)


def test_ssd300_refuses_images_of_another_size():
    with refuses("images of 512 x 512 pixels"):
        ssd300_vgg16(num_classes=2)(torch.zeros(1, 3, 512, 512))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size in pixels must be at least 1, not 0"),
        ({"mean": (0.5,)}, r"mean must be 3 values, not 1: \(0.5,\)"),
        ({"std": (1.0, 1.0)}, r"std must be 3 values, not 2: \(1.0, 1.0\)"),
        ({"std": (1.0, 0.0, 1.0)}, r"std must be positive and finite, not 0.0"),
        ({"variances": (0.1, -0.2)}, r"variances must be positive and finite, not -0.2"),
        ({"variances": (0.1,)}, r"variances must be 2 values, not 1: \(0.1,\)"),
        ({"score_threshold": 1.5}, r"score_threshold must lie in \[0, 1\], not 1.5"),
        ({"nms_threshold": float("nan")}, r"nms_threshold must lie in \[0, 1\], not nan"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"max_detections": 0}, "max_detections must be at least 1, not 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(options, message):
    with refuses(message):
        Recipe(**({"image_size": 64, "class_names": ("background", "cat")} | options))


def test_a_recipe_of_another_size_or_other_classes_is_refused():
    model = ssd300_vgg16(num_classes=2)
    with refuses(r"maps of \(64, 32, 16, 8, 6, 4\) cells a side at 512 pixels, but .* \(38, 19"):
        build(model.spec, replace(model.recipe, image_size=512))
    with refuses("1 class names for 2 classes"):
        build(model.spec, replace(model.recipe, class_names=("background",)))


def test_heads_of_ones_own_may_share_their_weights():
    priors = PriorSpec((8, 4), ((0.2,), (0.5, 0.7, 0.9)), ratios=((2.0,), ()))
    spec, recipe = ModelSpec("shared", 2, (), priors), Recipe(64, ("background", "cat"))
    trunk, extras = TinyTrunk(nn.Conv2d(3, 4, 8, stride=8)), [nn.Conv2d(4, 4, 2, stride=2)]
    torch.manual_seed(0)
    model = SSD(trunk, extras, (4, 4), spec, recipe, head=cache(conv3x3))
    assert model.localization_heads[0] is model.localization_heads[1]
    images = torch.randn(1, 3, 64, 64)
    first = trunk(images)[0]
    offsets, logits = model(images)
    assert offsets.shape == (1, 3 * 8 * 8 + 3 * 4 * 4, 4)
    head = model.confidence_heads[1]
    rows = head(extras[0](first)).permute(0, 2, 3, 1).reshape(1, -1, 2)
    torch.testing.assert_close(logits[:, 192:], rows)


@pytest.mark.parametrize(
    ("make", "image_size", "maps"),
    [
        (ssd300_vgg16, 300, (38, 19, 10, 5, 3, 1)),
        (ssd300_vgg16, 268, (34, 17, 9, 5, 3, 1)),
        (ssd300_vgg16, 399, (50, 25, 13, 7, 5, 3)),
        (ssd512_vgg16, 320, (40, 20, 10, 5, 3, 2, 1)),
    ],
)
def test_vgg_at_other_sizes(make, image_size, maps):
    model = make(2, image_size=image_size)
    priors = model.spec.priors
    assert priors.feature_maps == maps
    x = torch.zeros(1, 3, image_size, image_size, device="meta")
    sides = [tuple(m.shape[2:]) for m in all_maps(model.to("meta"), x)]
    assert sides == [(side, side) for side in maps]
    usual = PRESETS["caffe-voc" if make is ssd300_vgg16 else "caffe-voc-512"]
    assert (priors.sizes, priors.ratios) == (usual.sizes, usual.ratios)
    if image_size != 300:  # the centres are those of the cells
        assert make_priors(priors)[0, :2].tolist() == pytest.approx([0.5 / maps[0]] * 2)


def all_maps(model, images):
    maps = model.trunk(images)
    for block in model.extras:
        maps.append(block(maps[-1]))
    return maps


@pytest.mark.parametrize("make", [ssd300_vgg16, ssd512_vgg16])
@pytest.mark.parametrize("image_size", [32, 256, 267])
def test_a_size_that_leaves_no_cell_is_refused(make, image_size):
    with refuses(f"{make.__name__} needs at least 268 pixels a side, not {image_size}"):
        make(2, image_size=image_size)


def test_the_name_of_a_preset_is_no_preset():
    with refuses(r"priors must be a PriorSpec, such as PRESETS\['paper'\], not 'paper'", TypeError):
        ssd300_vgg16(priors="paper")


def test_tiny_with_priors_of_other_sizes():
    priors = rescale_priors(tiny_priors(128), 0.05, 0.5)
    model = tiny_ssd(3, image_size=128, priors=priors)
    assert torch.equal(model.priors, make_priors(priors))
    assert not torch.equal(model.priors, tiny_ssd(3, image_size=128).priors)


def test_tiny_refuses_priors_for_other_maps():
    with refuses(r"\(16, 8, 4, 2, 1\) cells a side at 128 pixels, .* \(32, 16, 8, 4, 1\)"):
        tiny_ssd(3, image_size=128, priors=tiny_priors(256))
