"""Boxes: against exact fractions, against torchvision, and by hand."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses
from torchvision.ops import box_iou

from ssd_annotated.boxes import area, check_boxes, cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh

# Corners on a grid of sixteenths are exact in binary, and meet, nest and vanish often.
GRID = 16
interval = st.tuples(st.integers(0, GRID), st.integers(0, GRID)).map(sorted)
grid_box = st.tuples(interval, interval).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))
grid_boxes = st.lists(grid_box, max_size=6)

coordinate = st.floats(-2, 2, width=32)
float_interval = st.tuples(coordinate, coordinate).map(sorted)
float_box = st.tuples(float_interval, float_interval).map(
    lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1])
)
float_boxes = st.lists(float_box, min_size=1, max_size=6)


def tensor(boxes, dtype=torch.float32):
    return torch.tensor(boxes, dtype=dtype).reshape(-1, 4)


def exact_iou(a, b):
    """Count cells of the grid, in whole numbers."""
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both = wide * high
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return Fraction(both, either) if either else Fraction(0)


# ---------------------------------------------------------------- formats and area


def test_both_formats_of_one_box_by_hand():
    # From x .1 to .5 and y .2 to .8: the centre is (.3, .5), the size .4 by .6, the area .24.
    corners, centre = torch.tensor([0.1, 0.2, 0.5, 0.8]), torch.tensor([0.3, 0.5, 0.4, 0.6])
    torch.testing.assert_close(xyxy_to_cxcywh(corners), centre)
    torch.testing.assert_close(cxcywh_to_xyxy(centre), corners)
    torch.testing.assert_close(area(corners), torch.tensor(0.24))


@given(grid_boxes)
def test_formats_are_each_others_inverse(boxes):
    # Sixteenths and their halves are exact, so both ways home end exactly where they began.
    corners = tensor(boxes) / GRID
    assert torch.equal(cxcywh_to_xyxy(xyxy_to_cxcywh(corners)), corners)
    assert torch.equal(xyxy_to_cxcywh(cxcywh_to_xyxy(corners)), corners)


@pytest.mark.parametrize("function", [xyxy_to_cxcywh, cxcywh_to_xyxy, area])
def test_leading_dimensions_and_the_dtype_stay(function):
    boxes = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    whole = function(boxes)
    assert whole.dtype == torch.float64
    assert whole.shape[:3] == (2, 3, 5)
    assert torch.equal(whole[1, 2], function(boxes[1, 2]))


# ---------------------------------------------------------------- IoU


@pytest.mark.parametrize(
    ("side", "iou"),
    [
        # Both boxes shifted by 4 px along the diagonal share a square of side - 4.
        (16, 144 / 368),  # 12² / (2 · 16² − 12²) = 144 / 368 = .391
        (200, 38416 / 41584),  # 196² / (2 · 200² − 196²) = 38416 / 41584 = .924
    ],
)
def test_four_pixels_cost_a_small_box_more(side, iou):
    a, b = tensor([0, 0, side, side]), tensor([4, 4, side + 4, side + 4])
    assert pairwise_iou(a, b).item() == pytest.approx(iou)


@given(grid_boxes, grid_boxes)
def test_iou_is_that_of_exact_fractions(a, b):
    table = [[float(exact_iou(one, other)) for other in b] for one in a]
    expected = torch.tensor(table, dtype=torch.float64)
    iou = pairwise_iou(tensor(a, torch.float64) / GRID, tensor(b, torch.float64) / GRID)
    assert iou.shape == (len(a), len(b))
    torch.testing.assert_close(iou, expected.reshape(len(a), len(b)), rtol=1e-14, atol=0)


@given(float_boxes, float_boxes)
def test_iou_is_symmetric_and_between_0_and_1(a, b):
    a, b = tensor(a), tensor(b)
    iou = pairwise_iou(a, b)
    assert torch.equal(iou, pairwise_iou(b, a).T)
    assert ((iou >= 0) & (iou <= 1)).all()


@given(float_boxes)
def test_a_box_overlaps_itself_wholly_unless_it_is_empty(boxes):
    boxes = tensor(boxes)
    itself = pairwise_iou(boxes, boxes).diagonal()
    assert torch.equal(itself, (area(boxes) > 0).to(itself))


def test_iou_is_torchvisions():
    torch.manual_seed(0)
    a = cxcywh_to_xyxy(torch.rand(50, 4, dtype=torch.float64))
    b = cxcywh_to_xyxy(torch.rand(70, 4, dtype=torch.float64))
    torch.testing.assert_close(pairwise_iou(a, b), box_iou(a, b))


def test_degenerate_boxes_overlap_nothing():
    point, line = [0.5, 0.5, 0.5, 0.5], [0.2, 0.5, 0.8, 0.5]
    whole = [0.0, 0.0, 1.0, 1.0]
    iou = pairwise_iou(tensor([point, line]), tensor([point, line, whole]))
    assert torch.equal(iou, torch.zeros(2, 3))


def test_boxes_that_only_touch_do_not_overlap():
    left, right = tensor([0, 0, 0.5, 1]), tensor([0.5, 0, 1, 1])
    assert pairwise_iou(left, right).item() == 0


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_no_boxes_give_an_empty_table(n, m):
    assert pairwise_iou(torch.zeros(n, 4), torch.zeros(m, 4)).shape == (n, m)


def test_a_batch_of_tables_equals_table_by_table():
    torch.manual_seed(0)
    a, b = (cxcywh_to_xyxy(torch.rand(3, n, 4, dtype=torch.float64)) for n in (5, 7))
    tables = torch.stack([pairwise_iou(one, other) for one, other in zip(a, b, strict=True)])
    assert torch.equal(pairwise_iou(a, b), tables)
    assert tables.dtype == torch.float64


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.zeros(3, 5), r"objects must have shape \(N, 4\), not \(3, 5\)"),
        (torch.zeros(4), r"objects must have shape \(N, 4\), not \(4,\)"),
        (torch.zeros(2, 4, 4), r"not \(2, 4, 4\)"),
        (torch.zeros(2, 4, dtype=torch.int64), "objects must be floats .* not torch.int64"),
        (tensor([[0, 0, 1, 1], [0.75, 0, 0.5, 1]]), r"objects\[1\] = \[0.75, 0.0, 0.5, 1.0\]"),
        (tensor([[0, 0.75, 1, 0.5]]), r"objects\[0\] = .*xmin <= xmax and ymin <= ymax"),
        (tensor([[0, 0, torch.nan, 1]]), r"objects\[0\] = .*nan.*finite"),
        (tensor([[0, 0, torch.inf, 1]]), r"objects\[0\] = .*inf.*finite"),
    ],
)
def test_what_is_no_box_is_refused_by_name_row_and_value(boxes, message):
    with refuses(message):
        check_boxes(boxes, "objects")


@pytest.mark.parametrize("boxes", [torch.zeros(0, 4), tensor([0.5, 0.5, 0.5, 0.5])])
def test_no_boxes_and_empty_boxes_are_boxes(boxes):
    check_boxes(boxes)
