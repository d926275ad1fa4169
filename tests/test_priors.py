"""Priors: each published layout written out again from its own source's rules, in plain loops."""

import math
from dataclasses import replace
from itertools import product

import plain_targets as plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from ssd_annotated.boxes import cxcywh_to_xyxy
from ssd_annotated.priors import (
    PRESETS,
    PriorSpec,
    make_priors,
    paper_scales,
    rescale_priors,
    tiny_priors,
)

MAPS = (38, 19, 10, 5, 3, 1)
VOC_PX, COCO_PX = (30, 60, 111, 162, 213, 264, 315), (21, 45, 99, 153, 207, 261, 315)
RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
COUNT = 8732


def as_priors(rows):
    return torch.tensor(rows, dtype=torch.float64)


def assert_same(preset, rows):
    priors = make_priors(PRESETS[preset], dtype=torch.float64)
    assert priors.shape == (len(rows), 4)
    torch.testing.assert_close(priors, as_priors(rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_all_at_once_or_one_by_one_to_the_bit(preset):
    priors = make_priors(PRESETS[preset], dtype=torch.float64)
    assert torch.equal(priors, plain.make_priors(PRESETS[preset]))


# ---------------------------------------------------------------- one literal layout per source


def caffe_rows(sizes_px):
    """In pixels: min size, √(min · max), then each ratio followed by its inverse."""
    rows = []
    for k, (cells, step) in enumerate(zip(MAPS, (8, 16, 32, 64, 100, 300), strict=True)):
        smallest, largest = sizes_px[k], sizes_px[k + 1]
        shapes = [(smallest, smallest), (math.sqrt(smallest * largest),) * 2]
        for ratio in RATIOS[k]:
            for aspect in (ratio, 1 / ratio):
                shapes.append((smallest * math.sqrt(aspect), smallest / math.sqrt(aspect)))
        for y, x in product(range(cells), range(cells)):
            for w, h in shapes:
                rows.append([(x + 0.5) * step / 300, (y + 0.5) * step / 300, w / 300, h / 300])
    return rows


def limit(value):
    return min(max(value, 0.0), 1.0)


def inserted_square_rows(scales, third):
    """Ratios 1, 2, 3, ½, ⅓ in this order, the extra square slipped in after the 1; all clipped."""
    many, few = (1, 2, 3, 0.5, third), (1, 2, 0.5)
    rows = []
    for k, cells in enumerate(MAPS):
        for i, j in product(range(cells), range(cells)):
            cx, cy = (j + 0.5) / cells, (i + 0.5) / cells
            for ratio in many if k in (1, 2, 3) else few:
                rows.append([cx, cy, scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)])
                if ratio == 1:
                    extra = math.sqrt(scales[k] * scales[k + 1]) if k + 1 < len(MAPS) else 1.0
                    rows.append([cx, cy, extra, extra])
    return [[limit(value) for value in row] for row in rows]


def paper_rows():
    """conv4_3 at .1, then equation (4) for m = 5; no clipping, ratios in Caffe's order."""
    scales = [0.1] + [0.2 + (0.9 - 0.2) / (5 - 1) * (k - 1) for k in range(1, 6)] + [None]
    rows = []
    for k, cells in enumerate(MAPS):
        extra = 1.0 if k == 5 else math.sqrt(scales[k] * scales[k + 1])
        for i, j in product(range(cells), range(cells)):
            shapes = [(scales[k], scales[k]), (extra, extra)]
            for ratio in RATIOS[k]:
                wide, narrow = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
                shapes += [(wide, narrow), (narrow, wide)]
            rows += [[(j + 0.5) / cells, (i + 0.5) / cells, w, h] for w, h in shapes]
    return rows


def d2l_rows():
    """Every size with ratio 1, then the first size with ratios 2 and ½; maps of 32 ... 1 cells."""
    sizes = ((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961))
    rows = []
    for cells, (first, second) in zip((32, 16, 8, 4, 1), sizes, strict=True):
        shapes = [(first, 1), (second, 1), (first, 2), (first, 0.5)]
        for i, j in product(range(cells), range(cells)):
            for s, r in shapes:
                rows.append(
                    [(j + 0.5) / cells, (i + 0.5) / cells, s * math.sqrt(r), s / math.sqrt(r)]
                )
    return rows


def tf2_rows():
    """s_k = .2 + .14 (k − 1) from k = 0 on; x outermost; √(s_k s_k+1) first; clipped twice."""
    rows = []
    for k, cells in enumerate(MAPS):
        this, following = 0.2 + 0.14 * (k - 1), 0.2 + 0.14 * k
        shapes = [(math.sqrt(this * following),) * 2, (this, this)]
        for ratio in RATIOS[k]:
            for aspect in (ratio, 1 / ratio):
                shapes.append((this * math.sqrt(aspect), this / math.sqrt(aspect)))
        for column in range(cells):
            for row in range(cells):
                for w, h in shapes:
                    rows.append([(column + 0.5) / cells, (row + 0.5) / cells, w, h])
    clipped = []
    for row in rows:
        cx, cy, w, h = map(limit, row)
        left, right = limit(cx - w / 2), limit(cx + w / 2)
        top, bottom = limit(cy - h / 2), limit(cy + h / 2)
        clipped.append([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
    return clipped


@pytest.mark.parametrize(("preset", "pixels"), [("caffe-voc", VOC_PX), ("caffe-coco", COCO_PX)])
def test_caffe(preset, pixels):
    assert_same(preset, caffe_rows(pixels))


@pytest.mark.parametrize(
    ("preset", "percents"),
    # VOC: 7, then 15 to 105 in steps of 15; COCO: 4, then 10 to 106 in steps of 16.
    [
        ("caffe-voc-512", (7, 15, 30, 45, 60, 75, 90, 105)),
        ("caffe-coco-512", (4, 10, 26, 42, 58, 74, 90, 106)),
    ],
)
def test_caffe_512(preset, percents):
    """The same rules over 512 pixels, on seven maps; one more of them has six priors in a cell."""
    rows = []
    for k, cells in enumerate((64, 32, 16, 8, 4, 2, 1)):
        smallest, largest = 512 * percents[k] / 100, 512 * percents[k + 1] / 100
        shapes = [(smallest, smallest), (math.sqrt(smallest * largest),) * 2]
        for ratio in (2, 3) if 1 <= k <= 4 else (2,):
            for aspect in (ratio, 1 / ratio):
                shapes.append((smallest * math.sqrt(aspect), smallest / math.sqrt(aspect)))
        step = (8, 16, 32, 64, 128, 256, 512)[k]
        for y, x in product(range(cells), range(cells)):
            for w, h in shapes:
                rows.append([(x + 0.5) * step / 512, (y + 0.5) * step / 512, w / 512, h / 512])
    assert_same(preset, rows)


def test_512_is_a_multiple_of_every_step():
    # Unlike 300: the centres of (j + ½) · step are those of (j + ½) / cells.
    for preset in ("caffe-voc-512", "caffe-coco-512"):
        spec = PRESETS[preset]
        torch.testing.assert_close(make_priors(spec), make_priors(replace(spec, centres="fmap")))
        assert spec.steps == tuple(1 / cells for cells in spec.feature_maps)


@pytest.mark.parametrize(
    ("preset", "first", "last"),
    # 7 % and 4 % of 512 px; √(90 · 105) = 97.21 % and √(90 · 106) = 97.67 % of them.
    [("caffe-voc-512", 35.84, 497.72), ("caffe-coco-512", 20.48, 500.09)],
)
def test_smallest_and_largest_square_of_512(preset, first, last):
    priors = make_priors(PRESETS[preset]) * 512
    assert priors[0, 2:].tolist() == pytest.approx([first] * 2, abs=0.01)
    assert priors[-3, 2:].tolist() == pytest.approx([last] * 2, abs=0.01)


def test_torchvision_literally():
    rows = [[cx, cy, limit(w), limit(h)] for cx, cy, w, h in caffe_rows(COCO_PX)]
    assert_same("torchvision", rows)


@pytest.mark.parametrize("preset", ["ssd.pytorch", "lufficc"])
def test_the_two_that_clip_centres_too(preset):
    assert_same(preset, [[limit(value) for value in row] for row in caffe_rows(VOC_PX)])


def test_sgrvinod():
    assert_same("sgrvinod", inserted_square_rows((0.1, 0.2, 0.375, 0.55, 0.725, 0.9), 0.333))


def test_annotated_post():
    assert_same("annotated", inserted_square_rows((0.1, 0.26, 0.42, 0.58, 0.74, 0.9), 0.33))


def test_paper():
    assert_same("paper", paper_rows())


def test_d2l():
    assert_same("d2l", d2l_rows())


def test_tf2():
    assert_same("tf2", tf2_rows())


def test_torchvision_itself():
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    generator = DefaultBoxGenerator(
        [list(ratios) for ratios in RATIOS], scales=scales, steps=[8, 16, 32, 64, 100, 300]
    )
    images = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    (anchors,) = generator(images, [torch.zeros(1, 1, side, side) for side in MAPS])
    corners = cxcywh_to_xyxy(make_priors(PRESETS["torchvision"]))
    torch.testing.assert_close(corners, anchors / 300, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- numbers known by heart


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_counts(preset):
    spec = PRESETS[preset]
    # 4 (38² + 3² + 1²) + 6 (19² + 10² + 5²) = 4 · 1454 + 6 · 486 = 5816 + 2916 = 8732
    # 4 (32² + 16² + 8² + 4² + 1²) = 4 · 1361 = 5444
    # 4 (64² + 2² + 1²) + 6 (32² + 16² + 8² + 4²) = 4 · 4101 + 6 · 1360 = 24,564
    expected = {"d2l": 5444, "caffe-voc-512": 24_564, "caffe-coco-512": 24_564}.get(preset, COUNT)
    assert make_priors(spec).shape == (expected, 4)
    assert sum(spec.counts) == expected
    assert len(PRESETS) == 12


def test_counts_of_each_map():
    assert PRESETS["paper"].boxes_per_cell == (4, 6, 6, 6, 4, 4)
    assert PRESETS["paper"].counts == (5776, 2166, 600, 150, 36, 4)
    for preset in ("caffe-voc-512", "caffe-coco-512"):
        assert PRESETS[preset].boxes_per_cell == (4, 6, 6, 6, 6, 4, 4)
        assert PRESETS[preset].counts == (16384, 6144, 1536, 384, 96, 16, 4)
    assert PRESETS["d2l"].boxes_per_cell == (4, 4, 4, 4, 4)
    assert PRESETS["d2l"].counts == (4096, 1024, 256, 64, 4)


@pytest.mark.parametrize(
    ("preset", "changed", "centres", "sizes"),
    [
        ("torchvision", 2, 0, 2),
        ("ssd.pytorch", 134, 114, 20),
        ("lufficc", 134, 114, 20),
        ("sgrvinod", 20, 0, 20),
        ("annotated", 70, 0, 70),
        ("paper", 0, 0, 0),
        ("caffe-voc", 0, 0, 0),
        ("caffe-coco", 0, 0, 0),
        ("caffe-voc-512", 0, 0, 0),
        ("caffe-coco-512", 0, 0, 0),
        ("d2l", 0, 0, 0),
    ],
)
def test_how_many_priors_clipping_changes(preset, changed, centres, sizes):
    spec = PRESETS[preset]
    moved = make_priors(spec) != make_priors(replace(spec, clip="none"))
    assert moved.any(dim=1).sum() == changed
    assert moved[:, :2].any(dim=1).sum() == centres
    assert moved[:, 2:].any(dim=1).sum() == sizes


@pytest.mark.parametrize(
    ("preset", "pixels"),
    # √(264 · 315) = 288.37 and √(261 · 315) = 286.73
    [("caffe-voc", 288.37), ("caffe-coco", 286.73), ("sgrvinod", 300), ("paper", 300)],
)
def test_the_last_extra_square(preset, pixels):
    last = make_priors(PRESETS[preset])[-4:]  # the four priors of the last map's only cell
    assert (last[1, 2:] * 300).tolist() == pytest.approx([pixels] * 2, abs=0.01)


def test_steps_move_centres_by_up_to_19_pixels():
    steps = make_priors(PRESETS["caffe-voc"])
    cells = make_priors(replace(PRESETS["caffe-voc"], centres="fmap"))
    shift = (steps - cells)[:, :2].abs().max(dim=1).values * 300
    per_map = [part.max().item() for part in shift.split(PRESETS["caffe-voc"].counts)]
    # 38²: the last centre at 37.5 · 8 = 300 against 37.5 / 38 · 300 = 296.05
    # 19²: 18.5 · 16 = 296 against 292.11; 10²: 304 against 285; 5²: 288 against 270
    assert per_map == pytest.approx([3.947, 3.895, 19, 18, 0, 0], abs=1e-3)


def test_order_in_a_cell():
    # The first cell of the second map, sides 60 px and √(60 · 111) = 81.6 px: w / h of the rest.
    def ratios(preset):
        rows = make_priors(replace(PRESETS[preset], clip="none"))[5776:5782]
        return (rows[:, 2] / rows[:, 3]).tolist(), (rows[:2, 2] * 300).tolist()

    caffe, squares = ratios("caffe-voc")
    assert caffe == pytest.approx([1, 1, 2, 1 / 2, 3, 1 / 3])
    assert squares == pytest.approx([60, 81.609], abs=1e-3)
    assert ratios("sgrvinod")[0] == pytest.approx([1, 1, 2, 3, 1 / 2, 0.333])
    assert ratios("annotated")[0] == pytest.approx([1, 1, 2, 3, 1 / 2, 0.33])
    tf2, squares = ratios("tf2")
    assert tf2 == pytest.approx([1, 1, 2, 1 / 2, 3, 1 / 3])
    assert squares == pytest.approx([78.23, 60], abs=1e-2)  # √(.2 · .34) · 300, then .2 · 300


def test_order_of_cells():
    rows = make_priors(PRESETS["paper"])[::4]  # the first prior of each cell of the first map
    assert rows[1, 0] > rows[0, 0], "row by row: the second cell lies right of the first"
    assert rows[1, 1] == rows[0, 1]
    columns = make_priors(replace(PRESETS["tf2"], clip="none"))[::4]
    assert columns[1, 1] > columns[0, 1], "column by column: the second cell lies below the first"
    assert columns[1, 0] == columns[0, 0]


# ---------------------------------------------------------------- any spec

ratio_lists = st.lists(st.sampled_from([1.5, 2.0, 3.0]), max_size=3, unique=True).map(tuple)


@st.composite
def options(draw):
    """Keywords for a PriorSpec of one to three small maps."""
    count = draw(st.integers(1, 3))
    numbers = st.floats(0.05, 1.5)
    pairs = draw(st.booleans())
    return {
        "feature_maps": tuple(draw(st.integers(1, 4)) for _ in range(count)),
        "sizes": tuple(
            (draw(numbers), draw(numbers)) if pairs else draw(numbers) for _ in range(count)
        ),
        "ratios": tuple(draw(ratio_lists) for _ in range(count)),
        "last_extra": None if pairs else draw(numbers),
        "order": draw(st.sampled_from(["caffe", "sgrvinod", "tf2"])),
        "clip": draw(st.sampled_from(["none", "wh", "cxcywh", "corners"])),
    }


@given(options())
def test_rows_and_counts_agree(chosen):
    spec = PriorSpec(**chosen)
    assert torch.equal(make_priors(spec, torch.float64), plain.make_priors(spec))
    assert len(make_priors(spec)) == sum(spec.counts)
    assert [len(ratios) * 2 + 2 for ratios in spec.ratios] == list(spec.boxes_per_cell)


@given(options())
def test_every_shape_but_the_extra_square_covers_s_squared(chosen):
    spec = PriorSpec(**(chosen | {"clip": "none"}))
    priors = make_priors(spec, dtype=torch.float64).split(spec.counts)
    extra = 0 if spec.order == "tf2" else 1
    for rows, per_cell, size in zip(priors, spec.boxes_per_cell, spec.sizes, strict=True):
        side = size[0] if isinstance(size, tuple) else size
        shapes = rows.reshape(-1, per_cell, 4)
        areas = shapes[..., 2] * shapes[..., 3]
        others = areas[:, [k for k in range(per_cell) if k != extra]]
        torch.testing.assert_close(others, torch.full_like(others, side**2))


@given(options())
def test_clip_wh_limits_sizes_only(chosen):
    spec = PriorSpec(**(chosen | {"clip": "wh"}))
    free, clipped = make_priors(replace(spec, clip="none")), make_priors(spec)
    assert torch.equal(clipped[:, :2], free[:, :2])
    assert torch.equal(clipped[:, 2:], free[:, 2:].clamp(max=1))


@given(options())
def test_clip_corners_keeps_what_lies_in_the_image(chosen):
    spec = PriorSpec(**(chosen | {"clip": "corners"}))
    free = cxcywh_to_xyxy(make_priors(replace(spec, clip="none"), dtype=torch.float64))
    clipped = cxcywh_to_xyxy(make_priors(spec, dtype=torch.float64))
    torch.testing.assert_close(clipped, free.clamp(0, 1), rtol=0, atol=1e-12)


def test_dtype_is_as_asked():
    assert make_priors(PRESETS["d2l"]).dtype == torch.float32
    assert make_priors(PRESETS["d2l"], dtype=torch.float64).dtype == torch.float64


# ---------------------------------------------------------------- scales and TinySSD's maps


def test_equation_4():
    # Six maps: .2 and steps of .7 / 5 = .14. Five: steps of .7 / 4 = .175.
    assert paper_scales(6) == pytest.approx([0.2, 0.34, 0.48, 0.62, 0.76, 0.9])
    assert paper_scales(5) == pytest.approx([0.2, 0.375, 0.55, 0.725, 0.9])
    assert paper_scales(3, smallest=0.1, largest=0.5) == pytest.approx([0.1, 0.3, 0.5])
    assert PRESETS["paper"].sizes[1:] == pytest.approx(paper_scales(5))


def test_equation_4_needs_two_maps():
    with refuses("num_maps must be at least 2 .*not 1"):
        paper_scales(1)


@pytest.mark.parametrize(
    ("image_size", "maps"),
    [
        (256, (32, 16, 8, 4, 1)),
        (128, (16, 8, 4, 2, 1)),
        (100, (12, 6, 3, 1, 1)),
        (64, (8, 4, 2, 1, 1)),
        (16, (2, 1, 1, 1, 1)),
    ],
)
def test_tiny_maps(image_size, maps):
    spec = tiny_priors(image_size)
    assert spec.feature_maps == maps
    assert spec.sizes == PRESETS["d2l"].sizes
    assert sum(spec.counts) == 4 * sum(side**2 for side in maps)


def test_tiny_needs_a_cell():
    with refuses("at least 16 pixels, not 15"):
        tiny_priors(15)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": "rgb"}, "order must be .* not 'rgb'"),
        ({"centres": "cells"}, "centres must be .* not 'cells'"),
        ({"clip": True}, "clip must be .* not True"),
        ({"sizes": (0.1, 0.2)}, "2 sizes for 3 feature maps"),
        ({"ratios": ((2.0,),)}, "1 ratios for 3 feature maps"),
        ({"centres": "steps"}, "0 steps for 3 feature maps"),
        ({"centres": "steps", "steps": (0.1, 0.2)}, "2 steps for 3 feature maps"),
        ({"last_extra": None}, "last_extra.* is missing"),
        ({"feature_maps": (4, 0, 1)}, "positive and finite, not 0"),
        ({"sizes": (0.1, -0.2, 0.3)}, "-0.2"),
        ({"sizes": (0.1, math.nan, 0.3)}, "positive and finite, not nan"),
        ({"last_extra": math.inf}, "positive and finite, not inf"),
        ({"ratios": ((2.0,), (-3.0,), ())}, "positive and finite, not -3.0"),
        ({"centres": "steps", "steps": (0.1, 0.2, -1.0)}, "positive and finite, not -1.0"),
        ({"feature_maps": (), "sizes": (), "ratios": ()}, "at least one feature map"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(change, message):
    good = {
        "feature_maps": (4, 2, 1),
        "sizes": (0.2, 0.5, 0.8),
        "ratios": ((2.0,), (2.0, 3.0), ()),
        "last_extra": 1.0,
    }
    PriorSpec(**good)
    with refuses(message):
        PriorSpec(**(good | change))


# ---------------------------------------------------------------- what other detectors have


def literal_rows(maps):
    """From (rows, columns, step down, step across, shapes in a cell) of each map."""
    return torch.tensor(
        [
            [(j + 0.5) * across, (i + 0.5) * down, *shape]
            for rows, columns, down, across, shapes in maps
            for i in range(rows)
            for j in range(columns)
            for shape in shapes
        ],
        dtype=torch.float64,
    )


def test_three_priors_on_the_first_map():
    # The SSDs of TensorFlow's model zoo: .1 at ratio 1, .2 at ratios 2 and 1/2; then as usual.
    wide, tall = (0.2 * math.sqrt(2), 0.2 / math.sqrt(2)), (0.2 / math.sqrt(2), 0.2 * math.sqrt(2))
    usual = [(0.35, 0.35), (0.42, 0.42), (0.35 * 2**0.5, 0.35 / 2**0.5)]
    usual += [usual[-1][::-1]]
    spec = PriorSpec((3, 2), sizes=((0.1, wide, tall), (0.35, 0.42)), ratios=((), (2.0,)))
    expected = [
        (3, 3, 1 / 3, 1 / 3, [(0.1, 0.1), wide, tall]),
        (2, 2, 1 / 2, 1 / 2, usual),
    ]
    torch.testing.assert_close(make_priors(spec, torch.float64), literal_rows(expected))
    assert (spec.boxes_per_cell, spec.counts) == ((3, 4), (27, 16))


def test_squares_alone_on_an_image_that_is_not_square():
    # The 320 x 240 face detectors: squares of 10 ... 256 pixels, three or two in a cell, and maps
    # of ceil(240 / stride) x ceil(320 / stride) cells with centres at multiples of the stride.
    squares = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
    strides, maps = (8, 16, 32, 64), ((30, 40), (15, 20), (8, 10), (4, 5))
    spec = PriorSpec(
        maps,
        sizes=tuple(tuple((px / 320, px / 240) for px in some) for some in squares),
        ratios=((),) * 4,
        centres="steps",
        steps=tuple((stride / 240, stride / 320) for stride in strides),
    )
    expected = [
        (rows, columns, px / 240, px / 320, [(side / 320, side / 240) for side in some])
        for (rows, columns), px, some in zip(maps, strides, squares, strict=True)
    ]
    torch.testing.assert_close(make_priors(spec, torch.float64), literal_rows(expected))
    assert sum(spec.counts) == 4420


@pytest.mark.parametrize("order", ["caffe", "tf2"])
def test_maps_that_are_not_square(order):
    spec = PriorSpec(((2, 3), 1), sizes=(0.3, 0.6), ratios=((), ()), last_extra=1.0, order=order)
    priors = make_priors(spec, torch.float64)[:12].reshape(-1, 2, 4)[:, 0]
    cells = [(1 / 6, 1 / 4), (1 / 2, 1 / 4), (5 / 6, 1 / 4)]
    cells += [(x, 3 / 4) for x, _ in cells]
    cells = sorted(cells) if order == "tf2" else cells
    torch.testing.assert_close(priors[:, :2], torch.tensor(cells, dtype=torch.float64))


def test_a_shape_that_cannot_be_is_refused():
    with refuses("positive and finite, not 0"):
        PriorSpec((2,), sizes=(((0.1, 0),),), ratios=((),))
    with refuses("positive and finite, not -1"):
        PriorSpec(((2, -1),), sizes=((0.1,),), ratios=((),))


# ---------------------------------------------------------------- rescaled


def test_rescaled_to_d2ls_own_ends_gives_d2l():
    rescaled = rescale_priors(tiny_priors(256), 0.2, 0.88)
    for found, published in zip(rescaled.square_sizes, PRESETS["d2l"].square_sizes):
        assert found == pytest.approx(published, abs=6e-4)  # the book prints three digits


def test_rescaling_keeps_everything_but_the_sizes():
    spec = PRESETS["ssd.pytorch"]
    rescaled = rescale_priors(spec, 0.05, 0.5)
    assert replace(rescaled, sizes=spec.sizes, last_extra=spec.last_extra) == spec
    assert rescaled.sizes == pytest.approx((0.05, 0.14, 0.23, 0.32, 0.41, 0.5))
    assert rescaled.last_extra == pytest.approx(math.sqrt(0.5 * 0.59))


@pytest.mark.parametrize("ends", [(0, 0.5), (-0.1, 0.5), (0.5, 0.4), (math.nan, 0.5)])
def test_sizes_that_do_not_rise_are_refused(ends):
    with refuses(f"not from {ends[0]} to {ends[1]}"):
        rescale_priors(PRESETS["paper"], *ends)
