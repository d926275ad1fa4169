"""Coding: the paper's equation (2) in plain Python, torchvision's coder, and there and back."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder

from ssd_annotated.boxes import cxcywh_to_xyxy
from ssd_annotated.coding import VARIANCES, check_predictions, decode, encode

PRIOR = torch.tensor([[0.5, 0.5, 0.2, 0.4]])


def random_rows(count, seed=0, dtype=torch.float64):
    """Boxes or priors: centres in the image, sides from .05 to 1."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(count, 4, generator=generator, dtype=dtype)
    rows[:, 2:] = 0.05 + 0.95 * rows[:, 2:]
    return rows


def literal_offsets(box, prior, variances):
    """Equation (2) for one pair, both given by their corners and centre in turn."""
    g_cx, g_cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    g_w, g_h = box[2] - box[0], box[3] - box[1]
    d_cx, d_cy, d_w, d_h = prior
    return [
        (g_cx - d_cx) / d_w / variances[0],
        (g_cy - d_cy) / d_h / variances[0],
        math.log(g_w / d_w) / variances[1],
        math.log(g_h / d_h) / variances[1],
    ]


def test_the_variances_are_caffes():
    assert VARIANCES == (0.1, 0.2)


def test_one_box_by_hand():
    # The box's centre is (.6, .4), its size .4 by .2; the prior's (.5, .5) and .2 by .4.
    # Centre: (.6 − .5) / .2 / .1 = 5 and (.4 − .5) / .4 / .1 = −2.5.
    # Size: ln(.4 / .2) / .2 = 5 ln 2 = 3.4657 and ln(.2 / .4) / .2 = −3.4657.
    box = torch.tensor([[0.4, 0.3, 0.8, 0.5]])
    offsets = torch.tensor([[5.0, -2.5, 3.4657359, -3.4657359]])
    torch.testing.assert_close(encode(box, PRIOR), offsets)
    torch.testing.assert_close(decode(offsets, PRIOR), box)


@pytest.mark.parametrize("variances", [(0.1, 0.2), (1.0, 1.0), (0.3, 0.05)])
def test_encode_is_equation_2(variances):
    boxes, priors = cxcywh_to_xyxy(random_rows(40)), random_rows(40, seed=1)
    expected = [
        literal_offsets(box, prior, variances)
        for box, prior in zip(boxes.tolist(), priors.tolist(), strict=True)
    ]
    offsets = encode(boxes, priors, variances)
    torch.testing.assert_close(offsets, torch.tensor(expected, dtype=torch.float64))


def test_both_ways_are_torchvisions():
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))  # one over the variances
    boxes, priors = cxcywh_to_xyxy(random_rows(100)), random_rows(100, seed=1)
    offsets = coder.encode_single(boxes, cxcywh_to_xyxy(priors))
    torch.testing.assert_close(encode(boxes, priors), offsets)
    # Five standard deviations: e⁵ is far below the 62.5 at which torchvision stops growing.
    offsets = torch.randn(100, 4, generator=torch.Generator().manual_seed(2)).double()
    torch.testing.assert_close(
        decode(offsets, priors), coder.decode_single(offsets, cxcywh_to_xyxy(priors))
    )


LIMIT = math.log(1000 / 16)  # ln 62.5: no box grows beyond 62.5 times its prior


def test_limited_decoding_is_torchvisions():
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    priors = random_rows(200, seed=1)
    # Log sizes between −12 and 12 (before the division by 5: ± 60), a limit of 4.135.
    offsets = 120 * random_rows(200, seed=2) - 60
    limited = decode(offsets, priors, max_log_size=LIMIT)
    torch.testing.assert_close(limited, coder.decode_single(offsets, cxcywh_to_xyxy(priors)))
    free = decode(offsets, priors)
    grown = (offsets[:, 2:] / 5 > LIMIT).any(dim=1)
    assert 50 < grown.sum() < 200
    assert torch.equal(limited[~grown], free[~grown])
    assert (limited[grown] != free[grown]).any(dim=1).all()


@pytest.mark.parametrize(
    ("log_size", "growth"),
    [(LIMIT - 0.01, 62.5 * math.exp(-0.01)), (LIMIT, 62.5), (LIMIT + 0.01, 62.5), (80, 62.5)],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_the_limit_itself(log_size, growth, axis):
    # A prior of a hundredth of the image, its other side left as it is.
    prior = torch.tensor([[0.5, 0.5, 0.01, 0.01]], dtype=torch.float64)
    offsets = torch.zeros(1, 4, dtype=torch.float64)
    offsets[0, 2 + axis] = log_size / 0.2
    box = decode(offsets, prior, max_log_size=LIMIT)
    sides = (box[0, 2:] - box[0, :2]).tolist()
    assert sides[axis] == pytest.approx(growth / 100)
    assert sides[1 - axis] == pytest.approx(0.01)
    theirs = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(offsets, cxcywh_to_xyxy(prior))
    torch.testing.assert_close(box, theirs, rtol=0, atol=1e-15)


def test_the_limit_is_one_of_log_sizes_not_of_offsets():
    # ln 2 with variance 1 is an offset of .693, with .2 one of 3.47: the same box, cut alike.
    offsets = torch.tensor([[0.0, 0.0, 50.0, -50.0]])
    for variance in (0.2, 1.0):
        box = decode(offsets, PRIOR, (0.1, variance), max_log_size=math.log(2))
        assert (box[0, 2] - box[0, 0]).item() == pytest.approx(0.4)
        assert (box[0, 3] - box[0, 1]).item() < 1e-4  # shrinking has no limit


def test_there_is_no_limit_by_default():
    offsets = torch.tensor([[0.0, 0.0, 0.0, 10 / 0.2]], dtype=torch.float64)
    box = decode(offsets, PRIOR.double())
    assert (box[0, 3] - box[0, 1]).item() == pytest.approx(0.4 * math.exp(10))


@given(st.integers(0, 2**31), st.floats(0.05, 1), st.floats(0.05, 1))
def test_there_and_back(seed, first, second):
    boxes, priors = cxcywh_to_xyxy(random_rows(20, seed)), random_rows(20, seed + 1)
    variances = (first, second)
    torch.testing.assert_close(decode(encode(boxes, priors, variances), priors, variances), boxes)
    offsets = random_rows(20, seed + 2) * 10 - 5
    torch.testing.assert_close(
        encode(decode(offsets, priors, variances), priors, variances), offsets
    )


def test_there_and_back_in_single_precision():
    boxes = cxcywh_to_xyxy(random_rows(500, dtype=torch.float32))
    priors = random_rows(500, seed=1, dtype=torch.float32)
    torch.testing.assert_close(decode(encode(boxes, priors), priors), boxes, rtol=0, atol=2e-6)


def test_offsets_of_zero_are_the_prior_itself():
    priors = random_rows(30)
    corners = cxcywh_to_xyxy(priors)
    torch.testing.assert_close(encode(corners, priors), torch.zeros(30, 4).double())
    assert torch.equal(decode(torch.zeros(30, 4).double(), priors), corners)


def test_decoded_boxes_are_neither_clipped_nor_limited():
    # ln 100 / .2: a hundred times the prior's width, 20 images wide, half of it left of the middle.
    offsets = torch.tensor([[0.0, 0.0, math.log(100) / 0.2, 0.0]])
    torch.testing.assert_close(decode(offsets, PRIOR), torch.tensor([[-9.5, 0.3, 10.5, 0.7]]))


def test_a_batch_equals_image_by_image():
    boxes, priors = cxcywh_to_xyxy(random_rows(24)).reshape(4, 6, 4), random_rows(6, seed=1)
    offsets = encode(boxes, priors)
    assert offsets.dtype == torch.float64
    assert torch.equal(offsets, torch.stack([encode(image, priors) for image in boxes]))
    decoded = torch.stack([decode(image, priors) for image in offsets])
    assert torch.equal(decode(offsets, priors), decoded)


def test_no_boxes_have_no_offsets():
    assert encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
    assert decode(torch.zeros(2, 0, 4), torch.zeros(0, 4)).shape == (2, 0, 4)


@pytest.mark.parametrize(
    ("offsets", "logits", "message"),
    [
        ((2, 5, 4), (2, 5, 3), None),
        ((2, 5, 4), (2, 5, 1), None),
        ((5, 4), (2, 5, 3), r"offsets have shape \(5, 4\), expected \(B, 5, 4\): one row for each"),
        ((2, 6, 4), (2, 6, 3), r"offsets have shape \(2, 6, 4\), expected \(B, 5, 4\)"),
        ((2, 5, 5), (2, 5, 3), r"offsets have shape \(2, 5, 5\)"),
        ((5, 4, 1, 1), (2, 5, 3), r"offsets have shape \(5, 4, 1, 1\)"),
        ((2, 5, 4), (2, 5), r"logits have shape \(2, 5\), expected \(2, 5, C\) to match"),
        ((2, 5, 4), (3, 5, 3), r"logits have shape \(3, 5, 3\), expected \(2, 5, C\)"),
        ((2, 5, 4), (2, 6, 3), r"logits have shape \(2, 6, 3\), expected \(2, 5, C\)"),
        ((2, 5, 4), (2, 5, 3, 1), r"logits have shape \(2, 5, 3, 1\)"),
    ],
)
def test_predictions_for_other_priors_are_refused_by_their_shapes(offsets, logits, message):
    expected = pytest.raises(ValueError, match=message) if message else nullcontext()
    with expected:
        check_predictions(torch.zeros(offsets), torch.zeros(logits), 5)
