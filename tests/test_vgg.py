"""VGG-16 as SSD uses it: its surgery on small random layers, its trunk against torchvision's."""

from itertools import product
from urllib.error import URLError

import pytest
import torch
import torchvision
from refusals import refuses
from torch import nn
from torch.nn.functional import conv2d, linear
from torchvision.models import VGG16_Weights, vgg16

from ssd_annotated.model import ssd300_vgg16
from ssd_annotated.vgg import (
    L2Norm,
    VGGTrunk,
    decimate,
    fc_to_conv,
    load_imagenet,
    reduce_vgg16,
    vgg16_features,
    xavier_init,
)

# ---------------------------------------------------------------- L2Norm


def test_l2norm_cell_by_cell():
    torch.manual_seed(0)
    maps, layer = torch.randn(2, 5, 3, 4), L2Norm(5, scale=20)
    with torch.no_grad():
        layer.scale[:] = torch.arange(1.0, 6.0)
    expected = torch.empty_like(maps)
    for image, row, column in product(range(2), range(3), range(4)):
        cell = maps[image, :, row, column].tolist()
        length = sum(x * x for x in cell) ** 0.5
        for channel in range(5):
            expected[image, channel, row, column] = (channel + 1) * cell[channel] / length
    torch.testing.assert_close(layer(maps).detach(), expected)


def test_l2norm_starts_at_twenty():
    assert L2Norm(512).scale.tolist() == [20.0] * 512
    torch.manual_seed(0)
    lengths = L2Norm(8)(torch.randn(1, 8, 2, 2)).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((1, 2, 2), 20.0))


def test_a_cell_without_activations_stays_zero():
    maps = torch.zeros(1, 4, 1, 2)
    maps[0, :, 0, 1] = 1.0
    maps.requires_grad_()
    out = L2Norm(4)(maps)
    assert out[0, :, 0, 0].tolist() == [0.0] * 4
    out.sum().backward()
    assert maps.grad.isfinite().all()


PRECISIONS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("value", [100.0, 4000.0])
def test_l2norm_keeps_the_precision_and_does_not_overflow(dtype, value):
    # Half precision ends at 65,504. 512 squares of 100 sum up to 5,120,000, and 512 channels of
    # 4000 have a length of 90,510.
    out = L2Norm(512)(torch.full((1, 512, 1, 1), value, dtype=dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(
        out.float(), torch.full_like(out, 20 / 512**0.5).float(), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_zero_stays_zero_in_every_precision(dtype):
    # Half precision rounds 1e-12 to 0, and 0 / 0 is NaN.
    assert L2Norm(4)(torch.zeros(1, 4, 1, 1, dtype=dtype)).tolist() == [[[[0.0]]] * 4]


def test_a_short_vector_is_stretched_too():
    maps = torch.full((1, 4, 1, 1), 1e-9)
    torch.testing.assert_close(L2Norm(4)(maps), torch.full((1, 4, 1, 1), 10.0))


# ---------------------------------------------------------------- surgery


@pytest.mark.parametrize(("channels", "side", "outputs"), [(3, 2, 5), (1, 1, 4), (2, 7, 3)])
def test_a_fully_connected_layer_is_a_convolution(channels, side, outputs):
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, channels * side**2), torch.randn(outputs)
    maps = torch.randn(2, channels, side, side)
    converted = conv2d(maps, fc_to_conv(weight, channels), bias)
    assert converted.shape == (2, outputs, 1, 1)
    torch.testing.assert_close(converted.flatten(1), linear(maps.flatten(1), weight, bias))


def test_on_a_larger_map_it_is_applied_everywhere():
    torch.manual_seed(0)
    weight, maps = torch.randn(4, 3 * 2 * 2), torch.randn(1, 3, 5, 6)
    everywhere = conv2d(maps, fc_to_conv(weight, 3))
    for row, column in product(range(4), range(5)):
        window = maps[:, :, row : row + 2, column : column + 2]
        torch.testing.assert_close(everywhere[..., row, column], linear(window.flatten(1), weight))


@pytest.mark.parametrize(("inputs", "channels"), [(12, 4), (7, 3), (2, 3)])
def test_inputs_that_are_no_square_maps_are_refused(inputs, channels):
    with refuses(f"{inputs} inputs are not {channels} channels of a square map"):
        fc_to_conv(torch.zeros(1, inputs), channels)


def test_decimation_keeps_every_mth_element():
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 7, 7)
    small = decimate(weight, (4, 2, 3, 3))
    assert small.shape == (2, 2, 3, 3)
    for o, c, i, j in product(range(2), range(2), range(3), range(3)):
        assert small[o, c, i, j] == weight[4 * o, 2 * c, 3 * i, 3 * j]


def test_decimated_taps_see_what_they_saw_before():
    """With zeros for the removed taps, the 7×7 kernel equals the remaining 3×3 at dilation 3."""
    torch.manual_seed(0)
    weight, maps = torch.randn(2, 3, 7, 7), torch.randn(1, 3, 9, 9)
    kept = torch.zeros_like(weight)
    kept[..., ::3, ::3] = weight[..., ::3, ::3]
    small = decimate(weight, (1, 1, 3, 3))
    torch.testing.assert_close(
        conv2d(maps, small, padding=3, dilation=3), conv2d(maps, kept, padding=3)
    )


@pytest.mark.parametrize("steps", [(2,), (2, 2, 2), (0, 1)])
def test_steps_that_do_not_fit_are_refused(steps):
    with refuses("steps must be 2 positive numbers"):
        decimate(torch.zeros(4, 4), steps)


def vgg_state(fc6: torch.Tensor, fc7: torch.Tensor) -> dict[str, torch.Tensor]:
    """A state of torchvision's vgg16 of the right shapes, the large ones without memory."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in vgg16(weights=None).state_dict().items()}
    torch.manual_seed(0)
    state = {k: torch.randn(shape) for k, shape in shapes.items() if k.startswith("features")}
    for layer, weight in {"classifier.0": fc6, "classifier.3": fc7}.items():
        state[f"{layer}.weight"] = weight.expand(shapes[f"{layer}.weight"])
        # Told apart by their signs.
        state[f"{layer}.bias"] = torch.arange(4096.0) * (1 if layer == "classifier.0" else -1)
    return state


def test_fc6_and_fc7_keep_every_fourth_output():
    rows = torch.arange(4096.0)[:, None]
    reduced = reduce_vgg16(vgg_state(fc6=rows, fc7=rows))
    for name, sign in {"conv6": 1, "conv7": -1}.items():
        outputs = reduced[f"{name}.weight"][:, 0, 0, 0]
        assert outputs.tolist() == list(range(0, 4096, 4))
        assert torch.equal(reduced[f"{name}.bias"], sign * outputs)


def test_fc6_keeps_every_third_tap_and_fc7_every_fourth_input():
    fc6, fc7 = torch.arange(25088.0)[None], torch.arange(4096.0)[None]
    reduced = reduce_vgg16(vgg_state(fc6, fc7))
    assert reduced["conv6.weight"].shape == (1024, 512, 3, 3)
    for channel, i, j in product((0, 1, 511), range(3), range(3)):
        # Flattened as (512, 7, 7): 49 inputs to a channel, 7 to a row.
        assert reduced["conv6.weight"][5, channel, i, j] == 49 * channel + 7 * (3 * i) + 3 * j
    assert reduced["conv7.weight"][5, :, 0, 0].tolist() == list(range(0, 4096, 4))


# ---------------------------------------------------------------- the trunk


def test_layers_are_those_of_torchvisions_vgg16():
    with torch.device("meta"):
        theirs = vgg16(weights=None).features
    ours = vgg16_features()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs]
    changed = [i for i, (a, b) in enumerate(zip(ours, theirs)) if repr(a) != repr(b)]
    assert changed == [16, 30]  # pool3 and pool5


def test_layers_start_so_that_sixteen_of_them_do_not_fade():
    torch.manual_seed(0)
    for layer in vgg16_features():
        if isinstance(layer, nn.Conv2d):
            # He et al. 2015: a variance of 2 / (the number of inputs that a gradient sums up).
            spread = (2 / (9 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(spread, rel=0.05)
            assert not layer.bias.any()


def test_layers_are_made_where_torch_is_told_to_make_them():
    with torch.device("meta"):
        trunk = VGGTrunk()
    assert {tensor.device.type for tensor in trunk.state_dict().values()} == {"meta"}


def test_conv4_3_equals_torchvisions_where_no_side_is_odd():
    torch.manual_seed(0)
    trunk, images = VGGTrunk(), torch.randn(1, 3, 64, 64)
    theirs = vgg16_features()
    theirs[16] = nn.MaxPool2d(2, 2)
    theirs.load_state_dict(trunk.to_conv4_3.state_dict() | trunk.to_pool5.state_dict())
    with torch.no_grad():
        conv4_3 = theirs[:23](images)
        maps = trunk(images)
    torch.testing.assert_close(maps[0], 20 * nn.functional.normalize(conv4_3))
    assert [tuple(m.shape) for m in maps] == [(1, 512, 8, 8), (1, 1024, 4, 4)]


def test_sides_of_the_published_sizes():
    trunk = VGGTrunk().to("meta")
    for side, cells in {300: (38, 19), 512: (64, 32)}.items():
        maps = trunk(torch.empty(1, 3, side, side, device="meta"))
        assert tuple(m.shape[-1] for m in maps) == cells


def test_xavier_keeps_to_glorots_bounds():
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 32, kernel_size=3)
    xavier_init(nn.Sequential(nn.ReLU(), layer))
    bound = (6 / (9 * 64 + 9 * 32)) ** 0.5
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.bias.tolist() == [0.0] * 32


# ---------------------------------------------------------------- ImageNet's weights


def test_a_model_starts_from_imagenet(monkeypatch):
    state = vgg_state(torch.arange(25088.0)[None] / 1e4, torch.arange(4096.0)[None] / 1e4)
    monkeypatch.setattr(VGG16_Weights, "get_state_dict", lambda *_, **__: state)
    trunk = ssd300_vgg16(num_classes=3, weights="imagenet").trunk
    assert torch.equal(trunk.to_conv4_3[0].weight, state["features.0.weight"])
    assert torch.equal(trunk.to_conv4_3[21].bias, state["features.21.bias"])
    assert torch.equal(trunk.to_pool5[-3].weight, state["features.28.weight"])
    assert torch.equal(trunk.conv6.weight, reduce_vgg16(state)["conv6.weight"])
    assert trunk.l2norm.scale.tolist() == [20.0] * 512


@pytest.mark.parametrize(
    "failure",
    [URLError("no route"), RuntimeError('invalid hash value (expected "397923af", got "0")')],
)
def test_a_failed_download_says_what_to_do(monkeypatch, failure):
    def fail(*_, progress, check_hash, **__):
        assert progress
        assert check_hash
        raise failure

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fail)
    with pytest.raises(OSError, match="could not be downloaded or read") as caught:
        load_imagenet(VGGTrunk())
    message = str(caught.value)
    assert VGG16_Weights.IMAGENET1K_V1.url in message
    assert "checkpoints" in message
    assert "weights=None" in message
    assert str(failure) in message


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 and no more"])
def test_a_file_that_is_not_what_was_meant_is_named(monkeypatch, tmp_path, content):
    # A file that is already in the folder is neither downloaded nor checked.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / VGG16_Weights.IMAGENET1K_V1.url.split("/")[-1]).write_bytes(content)
    with pytest.raises(OSError, match="could not be downloaded or read") as caught:
        load_imagenet(VGGTrunk())
    assert f"put it into {folder}" in str(caught.value)
