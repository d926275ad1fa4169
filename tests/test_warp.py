"""A plan carried out at once, against a literal reference that takes one step at a time."""

import colorsys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lots import CAFFE, STILL, many_cases, noise, objects
from refusals import refuses

from ssd_annotated.data.augment import AUGMENTATIONS, sample, sample_distortion
from ssd_annotated.data.warp import (
    Distortion,
    Geometry,
    Plan,
    apply,
    distort,
    level_table,
    move,
    warp,
)

# How far from the true levels a lookup may end, in noise and so at worst. OpenCV 5 looks up
# the exact place. OpenCV 4 rounds it to 1/32 of a pixel: it is off by up to 1/64 across and down,
# and from one pixel to the next a bilinear value changes by up to 255 levels. A bicubic one
# (a = -3/4) changes 3/2 times as fast, times up to 11/8, the other axis' weights without sign.
OFF = 0 if int(cv2.__version__.split(".")[0]) >= 5 else 2 * 255 / 64

PRESETS = pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
seeds = st.integers(0, 2**32 - 1)


# -------------------------------------------------------- the reference: one literal step at a time


def canvas_by_hand(image, plan):
    width, height = plan.geometry.canvas
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    canvas[:] = plan.geometry.fill
    x, y = plan.geometry.place
    canvas[y : y + len(image), x : x + image.shape[1]] = image
    return canvas


def warp_by_hand(image, plan, interpolation=cv2.INTER_LINEAR):
    """A canvas, a slice, a mirror, a resize."""
    left, top, right, bottom = plan.geometry.crop
    result = canvas_by_hand(image, plan)[top:bottom, left:right]
    across, down = plan.geometry.flips
    result = result[:, ::-1] if across else result
    result = result[::-1] if down else result
    side = plan.geometry.image_size
    return cv2.resize(np.ascontiguousarray(result), (side, side), interpolation=interpolation)


def boxes_by_hand(boxes, plan):
    """Rows kept and their boxes, in the fractions of each step's own result."""
    g = plan.geometry
    (width, height), (wide, high), (x, y) = g.source, g.canvas, g.place
    left, top, right, bottom = g.crop
    rows, result = [], []
    for row, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        x0, x1 = ((x0 * width + x) / wide, (x1 * width + x) / wide)
        y0, y1 = ((y0 * height + y) / high, (y1 * height + y) / high)
        if not left / wide <= (x0 + x1) / 2 <= right / wide:
            continue
        if not top / high <= (y0 + y1) / 2 <= bottom / high:
            continue
        x0, x1 = ((v * wide - left) / (right - left) for v in (x0, x1))
        y0, y1 = ((v * high - top) / (bottom - top) for v in (y0, y1))
        x0, y0, x1, y1 = (min(max(v, 0), 1) for v in (x0, y0, x1, y1))
        if g.flips[0]:
            x0, x1 = 1 - x1, 1 - x0
        if g.flips[1]:
            y0, y1 = 1 - y1, 1 - y0
        rows.append(row)
        result.append((x0, y0, x1, y1))
    return rows, torch.tensor(result, dtype=torch.float64).reshape(-1, 4)


def level(value):
    """A level of 8 bits."""
    return np.clip(np.rint(value), 0, 255)


def colours_by_hand(image, d):
    """Caffe's order, step by step, rounded to 8 bits; HSV by the formula, pixel by pixel."""

    def contrast(pixels):
        return level(pixels * d.contrast)

    pixels = level(image.astype(np.float64) * d.brightness_factor + d.brightness)
    if d.contrast_first:
        pixels = contrast(pixels)
    if d.saturation != 1 or d.hue != 0:
        pixels = np.apply_along_axis(hsv_by_hand, 2, pixels, d)
    if not d.contrast_first:
        pixels = contrast(pixels)
    return pixels[..., list(d.channels)].astype(np.uint8)


def hsv_by_hand(pixel, d):
    hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
    hue = np.rint(180 * hue) % 180 + np.rint(d.hue / 2)
    hue = hue if d.wrap_hue else max(hue, 0)
    saturation = level(level(255 * saturation) * d.saturation) / 255
    return level(255 * np.array(colorsys.hsv_to_rgb(hue % 180 / 180, saturation, value)))


def interior(plan, margin):
    """Pixels of the result whose neighbourhood lies in the crop, and off the image's edge."""
    g = plan.geometry
    inside = np.zeros(g.canvas[::-1], dtype=np.uint8)
    left, top, right, bottom = g.crop
    inside[top + margin : bottom - margin, left + margin : right - margin] = 255
    return warp_by_hand(np.repeat(inside[..., None], 3, 2), as_canvas(plan))[..., 0] == 255


def as_canvas(plan):
    """The same plan for an image that fills the canvas."""
    geometry = replace(plan.geometry, source=plan.geometry.canvas, place=(0, 0))
    return plan._replace(geometry=geometry)


# -------------------------------------------------------------------- one warp equals all the steps


@PRESETS
def test_boxes_equal_the_steps(augmentation):
    lost = 0
    for _, target, plan in many_cases(300, augmentation):
        moved = move(target, plan.geometry)
        rows, boxes = boxes_by_hand(target["boxes"], plan)
        assert moved["number"].tolist() == rows
        torch.testing.assert_close(moved["boxes"], boxes, rtol=0, atol=1e-9)
        lost += len(target["boxes"]) - len(rows)
    assert (lost > 0) == (augmentation is not STILL)


def test_the_matrix_takes_every_point_where_the_steps_take_it():
    for _, target, plan in many_cases(200):
        g, points = plan.geometry, target["boxes"].numpy().reshape(-1, 2)
        left, top, right, bottom = g.crop
        by_hand = points * g.source + g.place - (left, top)
        size = np.array([right - left, bottom - top])
        by_hand = np.where(g.flips, size - by_hand, by_hand) / size * g.image_size
        by_matrix = np.c_[points * g.source, np.ones(len(points))] @ g.matrix.T
        np.testing.assert_allclose(by_matrix[:, :2], by_hand, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(g.matrix[2], (0, 0, 1))
        assert list(g.steps) == ["expand", "crop", "flip", "resize"]


def test_pixels_equal_the_steps():
    compared = total = 0
    for image, _, plan in many_cases(200, replace(CAFFE, interpolations=("linear",))):
        ours, expected = warp(image, plan.geometry), warp_by_hand(image, plan)
        inner = interior(plan, margin=1)
        difference = np.abs(ours.astype(int) - expected)[inner]
        assert difference.max(initial=0) <= 2 + OFF
        compared += difference.size
        total += difference.sum()
    assert compared > 500_000
    assert total / compared < 1  # whatever is rounded is rounded both ways


def test_without_a_crop_or_a_canvas_the_very_edge_is_equal_too():
    shrunk_and_grown = replace(CAFFE, expand_probability=0, crop_options=(None,))
    for image, _, plan in many_cases(50, replace(shrunk_and_grown, interpolations=("linear",))):
        difference = warp(image, plan.geometry).astype(int) - warp_by_hand(image, plan)
        assert np.abs(difference).max() <= 2 + OFF


@pytest.mark.parametrize(
    ("name", "flag", "margin", "tolerance"),
    [
        ("area", cv2.INTER_LINEAR, 1, 2 + OFF),
        ("cubic", cv2.INTER_CUBIC, 2, 2 + OFF * 3 / 2 * 11 / 8),
        ("lanczos4", cv2.INTER_LANCZOS4, 4, 16),  # its weights stand in a table of 1/32 pixels
    ],
)
def test_other_interpolations_equal_the_steps(name, flag, margin, tolerance):
    compared = 0
    for image, _, plan in many_cases(100, replace(CAFFE, interpolations=(name,))):
        difference = warp(image, plan.geometry).astype(int) - warp_by_hand(image, plan, flag)
        inner = interior(plan, margin)
        assert np.abs(difference[inner]).max(initial=0) <= tolerance
        compared += inner.sum()
    assert compared > 50_000


def test_the_nearest_pixel_is_the_one_of_the_steps():
    equal = []
    for image, _, plan in many_cases(100, replace(CAFFE, interpolations=("nearest",))):
        expected = warp_by_hand(image, plan, cv2.INTER_NEAREST_EXACT)
        equal += (warp(image, plan.geometry) == expected).all(axis=2).ravel().tolist()
    assert np.mean(equal) > 0.95  # midway between two pixels, either is the nearest


def test_half_a_pixel_matters():
    # Twice as large: the centre of the result's first pixel is a quarter into the source's first.
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[:, 1] = 200
    plan = Geometry((2, 2), (2, 2), (0, 0), (0, 0, 2, 2), (False, False), 4)
    assert warp(image, plan)[0, :, 0].tolist() == [0, 50, 150, 200]


def test_an_expanded_image_by_hand():
    image = noise(3, 4)
    plan = Geometry((4, 3), (8, 6), (3, 1), (2, 0, 8, 6), (True, False), 6, fill=(9, 8, 7))
    result = warp(image, plan)
    expected = np.full((6, 6, 3), (9, 8, 7), dtype=np.uint8)
    expected[1:4, 1:5] = image  # columns 3 to 6 of the canvas, 1 to 4 of the crop
    assert np.array_equal(result, expected[:, ::-1])
    moved = move({"boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]])}, plan)
    torch.testing.assert_close(moved["boxes"] * 6, torch.tensor([[1.0, 1, 5, 4]]))


def test_a_crop_that_sees_nothing_of_the_image_is_fill():
    plan = Geometry((4, 3), (16, 12), (0, 0), (8, 6, 16, 12), (False, False), 5, "cubic", (1, 2, 3))
    assert (warp(noise(3, 4), plan) == (1, 2, 3)).all()


# -------------------------------------------------------------------------------------- the colours


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(-255, 255)), max_size=3),
    st.integers(0, 255),
)
def test_a_table_is_the_steps_on_every_level(steps, value):
    expected = float(value)
    for factor, addend in steps:
        expected = min(max(round(expected * factor + addend), 0), 255)
    assert level_table(steps)[value] == expected


@given(seeds, st.booleans(), st.booleans())
def test_brightness_and_contrast_equal_the_steps(seed, early, swap):
    drawn = replace(CAFFE, distort_probability=1, channel_swap_probability=swap)
    drawn = sample_distortion(np.random.default_rng(seed), drawn)
    d = replace(drawn, saturation=1.0, hue=0.0, contrast_first=early)
    image = noise(9, 7, seed)
    assert np.array_equal(distort(image, d), colours_by_hand(image, d))


@pytest.mark.parametrize("wrap", [False, True])
def test_saturation_and_hue_equal_the_formula(wrap):
    chosen = replace(CAFFE, distort_probability=1, wrap_hue=wrap, channel_swap_probability=0.5)
    differences = []
    for seed in range(40):
        d = sample_distortion(np.random.default_rng(seed), chosen)
        image = noise(8, 8, seed)
        difference = np.abs(distort(image, d).astype(int) - colours_by_hand(image, d))
        differences.append(difference.max(axis=2).ravel())
    # A hue midway between two of the 180 may go to either: 2° are 1/30 of 255 levels, times 1.5.
    assert np.max(differences) <= 13
    assert (np.array(differences) <= 2).mean() > 0.97
    assert (np.array(differences) == 0).mean() > 0.75


def test_caffes_hue_stops_at_red_and_others_come_round():
    red = np.array([[[255, 0, 0]]], dtype=np.uint8)
    violet = np.array([[[255, 0, 9]]], dtype=np.uint8)  # 358°, the last of 180 hues
    for wrap, expected in ((False, [255, 0, 0]), (True, [255, 0, 153])):  # 324°: .6 of blue
        assert distort(red, Distortion(hue=-36, wrap_hue=wrap))[0, 0].tolist() == expected
        turned = distort(violet, Distortion(hue=36, wrap_hue=wrap))[0, 0]
        assert turned.tolist() == pytest.approx([255, 34 / 60 * 255, 0], abs=1)  # 34°
    blue = np.array([[[0, 0, 255]]], dtype=np.uint8)
    down, up = (distort(blue, Distortion(hue=hue))[0, 0] for hue in (-36, 36))
    assert down.tolist() == [0, 153, 255]
    assert up.tolist() == [153, 0, 255]


@given(seeds)
def test_grey_stays_grey(seed):
    d = sample_distortion(np.random.default_rng(seed), replace(CAFFE, distort_probability=1))
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    result = distort(grey, d)
    assert (result == result[..., :1]).all()
    assert np.array_equal(distort(grey, Distortion(saturation=1.5)), grey)


def test_a_distortion_that_does_nothing_does_nothing():
    image = noise(30, 20)
    assert np.array_equal(distort(image, Distortion()), image)
    assert np.array_equal(distort(image, Distortion(contrast_first=False)), image)


def test_contrast_early_and_late_differ():
    image = noise(20, 20)
    d = Distortion(contrast=1.5, saturation=0.5)
    assert not np.array_equal(distort(image, d), distort(image, replace(d, contrast_first=False)))


def test_channels_change_places():
    image = noise(5, 6)
    result = distort(image, Distortion(channels=(2, 0, 1)))
    assert np.array_equal(result, image[..., [2, 0, 1]])


# ------------------------------------------------------------------ what holds of whatever is drawn


@PRESETS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_objects_stay_valid_and_keep_what_is_theirs(augmentation, dtype):
    for image, target, plan in many_cases(100, augmentation, dtype):
        result, moved = apply(image, target, plan)
        side = plan.geometry.image_size
        assert result.shape == (side, side, 3)
        assert result.dtype == np.uint8
        boxes = moved["boxes"]
        assert boxes.dtype == dtype
        assert boxes.shape == (len(moved["number"]), 4)
        assert ((boxes >= 0) & (boxes <= 1)).all()
        assert (boxes[:, :2] < boxes[:, 2:]).all()
        for name in ("labels", "difficult"):
            assert torch.equal(moved[name], target[name][moved["number"]])


def test_an_object_stays_with_its_centre():
    # The crop ends at pixel 50: a centre at 50 is on its edge and stays, one at 50.5 goes.
    plan = Geometry((100, 100), (100, 100), (0, 0), (0, 0, 50, 100), (False, False), 50)
    boxes = torch.tensor([[0.4, 0.2, 0.6, 0.4], [0.41, 0.2, 0.6, 0.4]], dtype=torch.float64)
    moved = move({"boxes": boxes, "labels": torch.tensor([3, 4])}, plan)
    assert moved["labels"].tolist() == [3]
    expected = torch.tensor([[0.8, 0.2, 1.0, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(moved["boxes"], expected)


def test_an_object_without_area_goes():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.9], [0.1, 0.1, 0.2, 0.2]])
    moved = move({"boxes": boxes}, sample(np.random.default_rng(0), STILL, (9, 9), boxes, 9)[1])
    torch.testing.assert_close(moved["boxes"], boxes[1:])


def test_other_things_of_a_target_are_kept():
    target = {
        "boxes": torch.tensor([[0.0, 0.0, 0.1, 0.1], [0.6, 0.6, 0.9, 0.9]]),
        "points": torch.arange(12).reshape(2, 3, 2),
        "image_id": torch.tensor(7),
        "name": "cat.jpg",
    }
    plan = Geometry((100, 100), (100, 100), (0, 0), (50, 50, 100, 100), (False, False), 50)
    moved = move(target, plan)
    assert torch.equal(moved["points"], target["points"][1:])
    assert moved["image_id"] == 7
    assert moved["name"] == "cat.jpg"
    assert len(target["boxes"]) == 2


@pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)])
def test_flipping_twice_is_nothing(flips):
    image, target = noise(32, 32), objects(np.random.default_rng(1), 5)
    plan = Plan(Distortion(), Geometry((32, 32), (32, 32), (0, 0), (0, 0, 32, 32), flips, 32))
    once, moved = apply(image, target, plan)
    axes = tuple(axis for axis, flip in ((1, flips[0]), (0, flips[1])) if flip)
    assert np.array_equal(once, np.flip(image, axes))
    twice, back = apply(once, moved, plan)
    assert np.array_equal(twice, image)
    torch.testing.assert_close(back["boxes"], target["boxes"])


def test_a_box_follows_its_pixels():
    # A white rectangle on black is still where its box says after any geometry.
    seen = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        image = np.zeros((60, 80, 3), dtype=np.uint8)
        image[15:45, 20:64] = 255
        target = {"boxes": torch.tensor([[20 / 80, 15 / 60, 64 / 80, 45 / 60]])}
        chosen = replace(CAFFE, fill=(0, 0, 0), vertical_flip_probability=0.5)
        plan = sample(rng, chosen, (80, 60), target["boxes"], 100)
        result, moved = apply(image, target, plan._replace(distortion=Distortion()))
        if len(moved["boxes"]) == 0:
            continue
        rows, columns = np.nonzero(result[..., 0] > 127)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found == pytest.approx((moved["boxes"][0] * 100).tolist(), abs=1.51)
        seen += 1
    assert seen > 150


def test_the_original_is_left_as_it_was():
    for image, target, plan in many_cases(20):
        before, boxes = image.copy(), target["boxes"].clone()
        result, moved = apply(image, target, plan)
        result[:] = 0
        moved["boxes"].zero_()
        assert np.array_equal(image, before)
        assert torch.equal(target["boxes"], boxes)


def test_none_is_a_resize():
    # A third and half: every place is a whole pixel or midway, which any version finds exactly.
    image, target = noise(40, 60), objects(np.random.default_rng(0), 4)
    plan = sample(np.random.default_rng(0), STILL, (60, 40), target["boxes"], 20)
    result, moved = apply(image, target, plan)
    expected = cv2.resize(image, (20, 20), interpolation=cv2.INTER_LINEAR)
    assert np.abs(result.astype(int) - expected).max() <= 1
    torch.testing.assert_close(moved["boxes"], target["boxes"])


def test_the_canvas_is_not_distorted():
    image, target = noise(10, 10), {"boxes": torch.zeros(0, 4)}
    geometry = Geometry((10, 10), (20, 20), (0, 0), (0, 0, 20, 20), (False, False), 20)
    result, _ = apply(image, target, Plan(Distortion(brightness=30, saturation=0.5), geometry))
    assert (result[11:] == geometry.fill).all()
    assert np.array_equal(
        result[:10, :10], distort(image, Distortion(brightness=30, saturation=0.5))
    )


def test_views_are_welcome():
    image = noise(24, 24)
    plan = sample(np.random.default_rng(3), CAFFE, (24, 24), torch.zeros(0, 4), 20)
    for view in (image[:, ::-1], image[..., ::-1], image.transpose(1, 0, 2)):
        ours, _ = apply(view, {"boxes": torch.zeros(0, 4)}, plan)
        expected, _ = apply(view.copy(), {"boxes": torch.zeros(0, 4)}, plan)
        assert np.array_equal(ours, expected)
        assert np.array_equal(warp(view, plan.geometry), warp(view.copy(), plan.geometry))


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), dtype=np.uint8), r"shape \(height, width, 3\), not \(8, 8\)"),
        (np.zeros((8, 8, 4), dtype=np.uint8), r"not \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"not \(0, 8, 3\)"),
        (np.zeros((8, 8, 3), dtype=np.float32), "must be uint8 RGB, not float32"),
        (np.zeros((7, 8, 3), dtype=np.uint8), r"\(width, height\) = \(8, 8\), not \(8, 7\)"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    boxes = torch.zeros(0, 4)
    plan = sample(np.random.default_rng(0), CAFFE, (8, 8), boxes, 8)
    with refuses(message):
        apply(image, {"boxes": boxes}, plan)


def test_no_array_is_refused():
    plan = sample(np.random.default_rng(0), CAFFE, (8, 8), torch.zeros(0, 4), 8)
    with refuses("must be a NumPy array, not NoneType", TypeError):
        apply(None, {"boxes": torch.zeros(0, 4)}, plan)


def test_what_is_no_target_is_refused():
    still = sample(np.random.default_rng(0), STILL, (8, 8), torch.zeros(0, 4), 8).geometry
    pixels = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 8.0, 4.0]])
    with refuses(r"boxes\[1\] = \[0.0, 0.0, 8.0, 4.0\] must be fractions"):
        move({"boxes": pixels}, still)
    with refuses(r"boxes\[0\] = .* must be finite xyxy"):
        move({"boxes": torch.tensor([[0.5, 0.0, 0.4, 1.0]])}, still)
    with refuses("labels has 3 rows for 2 boxes"):
        move({"boxes": pixels / 8, "labels": torch.ones(3)}, still)
