"""Augmentation: what holds for every plan, the odds, and the data set that draws plans."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from lots import CAFFE, many_cases, noise, objects
from refusals import refuses, unchecked
from torch.utils.data import DataLoader, Dataset, Subset

from ssd_annotated.boxes import pairwise_iou
from ssd_annotated.data.augment import (
    AUGMENTATIONS,
    Augmentation,
    Augmented,
    sample,
    sample_canvas,
    sample_crop,
    sample_distortion,
)
from ssd_annotated.data.warp import INTERPOLATIONS, Distortion, apply, move

PRESETS = pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS)


# ----------------------------------------------------------------- what holds of whatever is drawn


@PRESETS
def test_the_crop_meets_one_of_its_options(augmentation):
    least = [option for option in augmentation.crop_options if option is not None]
    for _, target, plan in many_cases(200, augmentation):
        g = plan.geometry
        left, top, right, bottom = g.crop
        assert 0 <= left < right <= g.canvas[0]
        assert 0 <= top < bottom <= g.canvas[1]
        if g.crop == (0, 0, *g.canvas):
            continue
        assert len(target["boxes"])
        boxes = target["boxes"] * torch.tensor(g.source * 2) + torch.tensor(g.place * 2)
        crop = torch.tensor([g.crop], dtype=torch.float64)
        assert pairwise_iou(crop, boxes).max() >= min(least)


@pytest.mark.parametrize("least", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("keep_one", [False, True])
def test_the_least_iou_holds(least, keep_one):
    found = 0
    chosen = replace(CAFFE, crop_options=(least,), keep_one=keep_one, crop_trials=300)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        boxes = rng.uniform([0, 0, 70, 60], [50, 40, 120, 100], (2, 4))
        crop = sample_crop(rng, chosen, (120, 100), boxes)
        if crop == (0, 0, 120, 100):
            continue
        found += 1
        iou = pairwise_iou(torch.tensor([crop]).double(), torch.from_numpy(boxes))[0]
        x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
        centred = (crop[0] <= x) & (x <= crop[2]) & (crop[1] <= y) & (y <= crop[3])
        assert ((iou.numpy() >= least) & (centred | (not keep_one))).any()
    assert found > 20


def test_any_crop_may_miss_all_objects_in_caffe_only():
    boxes = np.array([[0.0, 0, 10, 10]])
    lost = Counter()
    for keep_one in (False, True):
        chosen = replace(CAFFE, crop_options=(0,), keep_one=keep_one)
        for seed in range(200):
            left, top, *_ = sample_crop(np.random.default_rng(seed), chosen, (100, 100), boxes)
            lost[keep_one] += left > 5 or top > 5
    assert lost[False] > 100
    assert lost[True] == 0


@PRESETS
def test_an_image_without_objects_is_never_cropped(augmentation):
    rng = np.random.default_rng(0)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    for _ in range(50):
        plan = sample(rng, augmentation, (50, 40), empty["boxes"], 32)
        assert plan.geometry.crop == (0, 0, *plan.geometry.canvas)
        image, target = apply(noise(40, 50), empty, plan)
        assert image.shape == (32, 32, 3)
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].shape == (0,)


# --------------------------------------------------------------------------------------- the odds


def share(values):
    return pytest.approx(np.mean(values), abs=0.035)  # of 2000: more than three standard deviations


def test_odds_of_the_colours():
    rng = np.random.default_rng(0)
    drawn = [sample_distortion(rng, CAFFE) for _ in range(2000)]
    ranges = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5)}
    for name, (low, high) in {**ranges, "hue": (-36, 36)}.items():
        neutral = getattr(Distortion(), name)
        values = np.array([getattr(d, name) for d in drawn])
        changed = values[values != neutral]
        assert share(values != neutral) == 0.5
        assert low <= changed.min() < low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) < changed.max() <= high
        assert share((changed - low) / (high - low)) == 0.5
    assert share([d.contrast_first for d in drawn]) == 0.5
    assert {d.channels for d in drawn} == {(0, 1, 2)}
    assert {d.brightness_factor for d in drawn} == {1}
    both = [d.contrast != 1 and d.saturation != 1 for d in drawn]
    assert share(both) == 0.25


def test_odds_of_channels():
    rng = np.random.default_rng(0)
    chosen = AUGMENTATIONS["ssd.pytorch"]
    orders = Counter(sample_distortion(rng, chosen).channels for _ in range(2000))
    assert len(orders) == 6
    assert orders.pop((0, 1, 2)) / 2000 == pytest.approx(0.5 + 0.5 / 6, abs=0.04)
    assert all(count / 2000 == pytest.approx(0.5 / 6, abs=0.02) for count in orders.values())


def test_odds_of_canvas_flips_and_interpolations():
    rng, size = np.random.default_rng(0), (500, 375)
    canvases = [sample_canvas(rng, CAFFE, size) for _ in range(2000)]
    ratios = np.array([canvas[0] / 500 for canvas, _ in canvases if canvas != size])
    assert share([canvas != size for canvas, _ in canvases]) == 0.5
    assert ratios.min() >= 1
    assert ratios.max() <= 4
    assert share((ratios - 1) / 3) == 0.5
    free = np.array([(np.array(c) - size, place) for c, place in canvases if c[0] > 600])
    assert (free[:, 1] <= free[:, 0]).all()
    assert (free[:, 1] >= 0).all()
    for axis in (0, 1):
        assert share(free[:, 1, axis] / free[:, 0, axis]) == 0.5
    plans = [sample(rng, CAFFE, size, torch.zeros(0, 4), 300).geometry for _ in range(2000)]
    assert share([g.flips[0] for g in plans]) == 0.5
    assert not any(g.flips[1] for g in plans)
    names = Counter(g.interpolation for g in plans)
    assert set(names) == set(INTERPOLATIONS)
    assert all(count / 2000 == pytest.approx(0.2, abs=0.03) for count in names.values())


def test_odds_of_crops():
    # An object at 200 × 100 of 400 × 300 lets all options but the highest succeed nearly always.
    boxes = np.array([[100.0, 50, 300, 250]])
    rng = np.random.default_rng(0)
    crops = np.array([sample_crop(rng, CAFFE, (400, 300), boxes) for _ in range(2000)])
    whole = (crops == (0, 0, 400, 300)).all(axis=1)
    assert 1 / 7 - 0.03 < whole.mean() < 1 / 4
    size = (crops[:, 2:] - crops[:, :2])[~whole] / (400, 300)
    scale = np.sqrt(size.prod(axis=1))
    aspect = size[:, 0] / size[:, 1]
    assert scale.min() > 0.29
    assert scale.max() <= 1
    assert aspect.min() > 0.48
    assert aspect.max() < 2.05


def crop_sides(rng, augmentation, count):
    boxes = np.array([[0.0, 0, 1000, 1000]])
    whole = replace(augmentation, crop_options=(0,), keep_one=False)
    crops = np.array([sample_crop(rng, whole, (1000, 1000), boxes) for _ in range(count)])
    return crops, (crops[:, 2:] - crops[:, :2]) / 1000


def test_sides_of_caffes_crops():
    crops, sides = crop_sides(np.random.default_rng(0), CAFFE, 2000)
    scale = np.sqrt(sides.prod(axis=1))
    assert share((scale - 0.3) / 0.7) == 0.5
    # By hand: s ~ U(.3, 1), a ~ U(.5, 2) kept within [s², 1/s²].
    rng = np.random.default_rng(1)
    s, a = rng.uniform(0.3, 1, 100_000), rng.uniform(0.5, 2, 100_000)
    a = np.minimum(np.maximum(a, s * s), 1 / (s * s))
    expected = np.array([s * np.sqrt(a), s / np.sqrt(a)])
    for ours, theirs in zip(sides.T, expected, strict=True):
        np.testing.assert_allclose(
            np.quantile(ours, [0.1, 0.3, 0.5, 0.7, 0.9]),
            np.quantile(theirs, [0.1, 0.3, 0.5, 0.7, 0.9]),
            atol=0.03,
        )
    room = 1 - sides
    assert share((crops[:, :2] / 1000)[room > 0.1] / room[room > 0.1]) == 0.5


def test_sides_of_other_peoples_crops():
    _, sides = crop_sides(np.random.default_rng(0), AUGMENTATIONS["torchvision"], 2000)
    assert sides.min() >= 0.3 - 1e-3
    ratio = sides[:, 0] / sides[:, 1]
    assert ratio.min() >= 0.5
    assert ratio.max() <= 2
    w, h = np.random.default_rng(1).uniform(0.3, 1, (2, 100_000))
    legal = (w / h >= 0.5) & (w / h <= 2)
    deciles = np.linspace(0.1, 0.9, 5)
    np.testing.assert_allclose(
        np.quantile(sides[:, 0], deciles), np.quantile(w[legal], deciles), atol=0.03
    )


WHOLE = (0, 0, 100, 100)
OBLONG = (60.0, 20.0, 75.0, 90.0)  # options of much overlap fail often


def test_first_success_in_random_order_is_caffes_lottery():
    # Caffe, literally: every option has its trials, and one of the successes is picked.
    boxes = np.array([OBLONG])
    few = replace(CAFFE, crop_trials=5)
    rng = np.random.default_rng(0)
    literal = []
    single = [replace(few, crop_options=(option,)) for option in few.crop_options]
    with unchecked():
        for _ in range(2000):
            crops = [sample_crop(rng, option, (100, 100), boxes) for option in single]
            successes = [WHOLE, *(crop for crop in crops if crop != WHOLE)]
            literal.append(successes[rng.integers(len(successes))])
        ours = [sample_crop(rng, few, (100, 100), boxes) for _ in range(2000)]
    for statistic in (whole_share, mean_side, overlapping_share):
        assert statistic(ours) == pytest.approx(statistic(literal), abs=0.035)
    assert 0.2 < whole_share(ours) < 0.5


def whole_share(crops):
    return np.mean([crop == WHOLE for crop in crops])


def mean_side(crops):
    return np.mean([crop[2] - crop[0] for crop in crops]) / 100


def overlapping_share(crops):
    box = torch.tensor([OBLONG], dtype=torch.float64)
    return (pairwise_iou(torch.tensor(crops).double(), box) > 0.25).double().mean().item()


# ------------------------------------------------------------------------------------- the presets


def test_presets_say_what_others_do():
    assert Augmentation() == AUGMENTATIONS["caffe"]
    assert set(AUGMENTATIONS) == {
        "none",
        "caffe",
        "torchvision",
        "ssd.pytorch",
        "lufficc",
        "sgrvinod",
        "tf2",
        "gentle",
    }
    degrees = {name: a.hue[1] for name, a in AUGMENTATIONS.items()}
    assert degrees["caffe"] == 2 * 18
    assert degrees["torchvision"] == 0.05 * 360
    assert degrees["ssd.pytorch"] == degrees["lufficc"] == 18
    assert degrees["sgrvinod"] == pytest.approx(25.4, abs=0.02)
    assert AUGMENTATIONS["torchvision"].brightness_factor == (0.875, 1.125)
    assert AUGMENTATIONS["torchvision"].crop_trials == 40
    assert AUGMENTATIONS["sgrvinod"].brightness_factor == (0.5, 1.5)
    assert AUGMENTATIONS["sgrvinod"].channel_swap_probability == 0
    assert 0.5 not in AUGMENTATIONS["lufficc"].crop_options
    assert max(o or 0 for o in AUGMENTATIONS["ssd.pytorch"].crop_options) == 0
    five = [name for name, a in AUGMENTATIONS.items() if len(a.interpolations) == 5]
    assert five == ["caffe", "gentle"]
    anywhere = [name for name, a in AUGMENTATIONS.items() if not a.keep_one]
    assert anywhere == ["none", "caffe", "tf2"]
    flips = {name: a.vertical_flip_probability for name, a in AUGMENTATIONS.items()}
    assert {name: p for name, p in flips.items() if p} == {"tf2": 0.2}
    still = [name for name, a in AUGMENTATIONS.items() if a.expand_probability == 0]
    assert still == ["none", "tf2", "gentle"]


def test_the_posts_patches_come_every_other_time_and_have_the_shape_of_the_photograph():
    rng, boxes = np.random.default_rng(0), objects(np.random.default_rng(1), 2)["boxes"]
    plans = [sample(rng, AUGMENTATIONS["tf2"], (400, 200), boxes, 64) for _ in range(600)]
    crops = np.array([plan.geometry.crop for plan in plans])
    sides = crops[:, 2:] - crops[:, :2]
    cut = (sides < (400, 200)).any(axis=1)
    assert cut.mean() == pytest.approx(0.5, abs=0.06)
    np.testing.assert_allclose(sides[:, 0], 2 * sides[:, 1], atol=2)
    assert sides[:, 0].min() == pytest.approx(0.3 * 400, abs=8)
    upside = np.mean([plan.geometry.flips[1] for plan in plans])
    assert upside == pytest.approx(0.2, abs=0.05)
    assert {plan.distortion.channels for plan in plans} == {(0, 1, 2)}
    assert len({plan.distortion for plan in plans}) <= 2, "no colour is changed"


def test_gentle_never_shrinks_and_keeps_an_object():
    rng, boxes = np.random.default_rng(0), objects(np.random.default_rng(1), 3)["boxes"]
    for _ in range(200):
        geometry = sample(rng, AUGMENTATIONS["gentle"], (300, 200), boxes, 300).geometry
        matrix = geometry.matrix
        assert abs(matrix[0, 0]) >= 1
        assert abs(matrix[1, 1]) >= 1.5
        assert len(move({"boxes": boxes}, geometry)["boxes"]) >= 1


# ------------------------------------------------------------------------------------ the data set


class Noises(Dataset):
    """Six images of noise of different sizes; the third without objects."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if not 0 <= index < 6:
            raise AssertionError("an index that does not exist")
        rng = np.random.default_rng(index)
        count = 0 if index == 2 else index + 1
        return noise(30 + index, 40 - index, index), objects(rng, count, torch.float32)


def augmented(seed=0, augmentation=CAFFE):
    return Augmented(Noises(), augmentation, 24, seed)


def digest(samples):
    return [
        (image.tobytes(), [(name, thing.tolist()) for name, thing in target.items()])
        for image, target in samples
    ]


def test_same_seed_same_bytes():
    assert len(augmented()) == 6
    once = digest(augmented())
    assert digest(augmented()) == once
    assert digest(augmented()[index] for index in (5, 4, 3, 2, 1, 0)) == once[::-1]
    assert digest([augmented()[-1]]) == once[-1:]
    assert all(a != b for a, b in zip(digest(augmented(seed=1)), once))


def test_another_epoch_is_another_view_and_index_alone_is_epoch_0():
    data = augmented()
    epochs = [digest(data[index, epoch] for index in range(6)) for epoch in (1, 0, 2)]
    assert epochs[1] == digest(data)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert all(a != b for a, b in zip(epochs[one], epochs[other]))
    assert digest([data[-1, 2]]) == epochs[2][-1:]
    assert digest([data[3, 1]]) != digest([augmented(seed=1)[3, 0]])


def test_every_item_and_every_epoch_throws_its_own_dice():
    never_plain = replace(CAFFE, distort_probability=1, expand_probability=0)
    same = Augmented(Subset(Noises(), [5] * 6), never_plain, 24)
    views = [digest([same[index, epoch]]) for index in range(6) for epoch in range(6)]
    assert all(a != b for i, a in enumerate(views) for b in views[:i])


def test_what_was_asked_for_before_does_not_matter():
    keys = [(index, epoch) for index in range(6) for epoch in (0, 1, 7)]
    data = augmented()
    in_order = {key: digest([data[key]]) for key in keys}
    for key in np.random.default_rng(0).permutation(keys).tolist():
        assert digest([data[tuple(key)]]) == in_order[tuple(key)]


def test_the_global_generators_neither_matter_nor_move():
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    once = digest(augmented())
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
    np.random.seed(2)  # noqa: NPY002
    assert digest(augmented()) == once


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    data = augmented()
    keys = [(4, 0), (1, 0), (5, 0), (0, 0), (1, 1), (4, 1), (5, 1), (4, 2)]  # straddling epochs
    loader = DataLoader(data, batch_size=None, sampler=keys, num_workers=workers)
    assert digest((as_array(i), t) for i, t in loader) == digest(data[key] for key in keys)


def as_array(image):
    return np.asarray(image)


def test_a_data_set_of_the_same_seed_throws_other_dice():
    rng = np.random.default_rng((0, 0, 1))
    image, target = Noises()[1]
    plan = sample(rng, CAFFE, image.shape[1::-1], target["boxes"], 24)
    assert digest([apply(image, target, plan)]) != digest([augmented()[1]])


def test_an_index_outside_ends_the_iteration():
    for key in (6, -7, (6, 0), (-7, 3)):
        with refuses("index (6|-7) is outside a data set of 6 items", IndexError):
            augmented()[key]
    assert len(list(augmented())) == 6


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("3", "a key must be an index or .index, epoch., not '3'"),
        (1.5, "not 1.5"),
        (None, "not None"),
        ((1, 0.5), r"not \(1, 0.5\)"),
        ((1,), r"not \(1,\)"),
        ((1, 0, 0), r"not \(1, 0, 0\)"),
        (slice(0, 2), r"not slice\(0, 2, None\)"),
    ],
)
def test_what_is_no_key_is_refused(key, message):
    with refuses(message, TypeError):
        augmented()[key]


def test_whole_numbers_of_numpy_and_torch_are_keys():
    data = augmented()
    with unchecked():
        for key in (np.int64(2), torch.tensor(2), (np.int64(2), torch.tensor(0))):
            assert digest([data[key]]) == digest([data[2]])


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip_probability": 1.5}, r"flip_probability must lie in \[0, 1\], not 1.5"),
        ({"expand_probability": -0.1}, r"expand_probability must lie in \[0, 1\], not -0.1"),
        ({"distort_probability": float("nan")}, "distort_probability .* not nan"),
        ({"channel_swap_probability": 2}, "channel_swap_probability .* not 2"),
        ({"vertical_flip_probability": 2}, "vertical_flip_probability .* not 2"),
        ({"contrast": (1.5, 0.5)}, r"contrast must be a range .* not \(1.5, 0.5\)"),
        ({"contrast": (-1, 1)}, r"contrast .* not \(-1, 1\)"),
        ({"saturation": (0, float("inf"))}, r"saturation .* not \(0, inf\)"),
        ({"brightness": (float("nan"), 1)}, r"brightness .* not \(nan, 1\)"),
        ({"brightness_factor": (2, 1)}, r"brightness_factor .* not \(2, 1\)"),
        ({"hue": (-200, 0)}, r"hue .* between -180 and 180, not \(-200, 0\)"),
        ({"expand_ratio": (0.5, 2)}, r"expand_ratio .* not \(0.5, 2\)"),
        ({"crop_scale": (0, 1)}, r"crop_scale .* not \(0, 1\)"),
        ({"crop_scale": (0.5, 1.1)}, r"crop_scale .* not \(0.5, 1.1\)"),
        ({"crop_aspect": (2, 0.5)}, r"crop_aspect .* not \(2, 0.5\)"),
        ({"crop_options": ()}, "crop_options must not be empty"),
        ({"crop_options": (None, 1.1)}, r"crop_options must lie in \[0, 1\], not 1.1"),
        ({"crop_trials": 0}, "crop_trials must be at least 1, not 0"),
        ({"hue": 18}, "hue must be a range .* not 18"),
        ({"contrast": (1, 1, 1)}, r"contrast .* not \(1, 1, 1\)"),
        ({"fill": (0, 0)}, r"fill must be three levels, RGB, not \(0, 0\)"),
        ({"fill": (0, 256, 0)}, r"fill must lie in \[0, 255\], not 256"),
        ({"interpolations": ()}, "interpolations must not be empty"),
        ({"interpolations": ("linear", "bilinear")}, "must be among linear, .*, not 'bilinear'"),
    ],
)
def test_impossible_numbers_are_refused(options, message):
    with refuses(message):
        Augmentation(**options)


def test_no_array_is_refused():
    with refuses("must be a NumPy array, not NoneType", TypeError):
        Augmented([(None, {"boxes": torch.zeros(0, 4)})], CAFFE, 8)[0]


def test_boxes_in_pixels_are_refused():
    pixels = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 8.0, 4.0]])
    with refuses(r"boxes\[1\] = \[0.0, 0.0, 8.0, 4.0\] must be fractions"):
        sample(np.random.default_rng(0), CAFFE, (8, 8), pixels, 8)


def test_impossible_sizes_seeds_and_epochs_are_refused():
    with refuses("image_size must be at least 1 pixel, not 0"):
        sample(np.random.default_rng(0), CAFFE, (8, 8), torch.zeros(0, 4), 0)
    with refuses("image_size must be at least 1, not 0"):
        Augmented(Noises(), CAFFE, 0)
    with refuses(r"seed must lie in \[0, \d+\], not -1"):
        Augmented(Noises(), CAFFE, 8, -1)
    with refuses("epoch must be at least 0, not -1"):
        augmented()[0, -1]


class Crowd(Dataset):
    """One image with three objects, of which the second is a crowd."""

    boxes = torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 1, 1], [0.5, 0.5, 1, 1]])

    def __len__(self):
        return 1

    def __getitem__(self, _index):
        crowd = torch.tensor([False, True, False])
        rows = {"boxes": self.boxes, "labels": torch.tensor([1, 2, 3]), "crowd": crowd}
        return np.zeros((40, 40, 3), np.uint8), rows | {"id": 7}


def test_crowds_are_no_examples():
    _, seen = Augmented(Crowd(), AUGMENTATIONS["none"], 40)[0]
    assert (set(seen), seen["id"]) == ({"boxes", "labels", "id"}, 7)
    assert seen["labels"].tolist() == [1, 3]
    assert torch.equal(seen["boxes"], Crowd.boxes[[0, 2]])
