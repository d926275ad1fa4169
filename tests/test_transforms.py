"""From photographs to tensors: pixels by hand, resizing against the three libraries that do it."""

from itertools import product

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses
from torch.nn.functional import interpolate
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.functional import normalize, resize, to_tensor

from ssd_annotated.model import Recipe
from ssd_annotated.transforms import collate, prepare

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def recipe(side, **options):
    return Recipe(image_size=side, class_names=("background", "thing"), **options)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_one_pixel_by_hand():
    # Red 255, green 51 (.2), blue 0: (1 − .5) / .25 = 2, (.2 − .4) / .1 = −2, (0 − .3) / .5 = −.6
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0, 1] = (255, 51, 0)
    pixels = prepare(image, recipe(2, mean=(0.5, 0.4, 0.3), std=(0.25, 0.1, 0.5)))
    assert pixels.shape == (3, 2, 2)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[:, 0, 1], torch.tensor([2.0, -2.0, -0.6]))
    torch.testing.assert_close(pixels[:, 1, 0], torch.tensor([-2.0, -4.0, -0.6]))


def test_the_default_recipe_is_imagenets():
    grey = np.full((8, 8, 3), 128, dtype=np.uint8)
    pixels = prepare(grey, recipe(8))[:, 0, 0]
    expected = [
        (128 / 255 - mean) / std
        for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    assert pixels.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(20, 20), (30, 17), (5, 50), (16, 40), (40, 16)])
def test_resizing_is_bilinear_without_antialiasing(shape):
    image = noise(*shape)
    ours = prepare(image, recipe(16, **PLAIN))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    expected = interpolate(pixels, (16, 16), mode="bilinear", align_corners=False)[0] / 255
    # OpenCV rounds to whole grey levels, with weights of eleven bits.
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1.5 / 255)


def test_an_image_of_the_right_size_is_not_resampled():
    image = noise(16, 16)
    pixels = prepare(image, recipe(16, **PLAIN))
    assert np.array_equal((pixels * 255).round().byte().permute(1, 2, 0).numpy(), image)


# ---------------------------------------------------------------- three ways to resize

WAYS = ("opencv", "pillow", "torch")
MEAN, STD = (0.48235, 0.45882, 0.40784), (0.2, 0.3, 0.4)
# Shrinking and growing, in both directions or one, and one side that fits already.
shapes = pytest.mark.parametrize("shape", [(40, 57), (9, 5), (50, 7), (16, 40), (40, 16)])


@shapes
def test_opencv_resizes_whole_grey_levels(shape):
    image = noise(*shape)
    levels = cv2.resize(image, (16, 16), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    expected = (levels / 255 - np.float32(MEAN)) / np.float32(STD)
    for options in ({}, {"resize": "opencv"}):
        pixels = prepare(image, recipe(16, mean=MEAN, std=STD, **options))
        torch.testing.assert_close(pixels.permute(1, 2, 0), torch.from_numpy(expected))


@shapes
def test_pillow_resizes_whole_grey_levels_and_smooths(shape):
    image = noise(*shape)
    # torchvision's functions as they are called on a photograph: Resize, ToTensor, Normalize.
    expected = normalize(to_tensor(resize(Image.fromarray(image), [16, 16])), MEAN, STD)
    pixels = prepare(image, recipe(16, mean=MEAN, std=STD, resize="pillow"))
    torch.testing.assert_close(pixels, expected)


@shapes
def test_torch_normalises_first_and_resizes_then(shape):
    image = noise(*shape)
    pixels = prepare(image, recipe(16, mean=MEAN, std=STD, resize="torch"))
    normalised = normalize(torch.from_numpy(image).permute(2, 0, 1) / 255, MEAN, STD)
    expected = interpolate(normalised[None], size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pixels, expected[0])
    transform = GeneralizedRCNNTransform(
        16, 16, MEAN, STD, size_divisible=1, fixed_size=(16, 16)
    ).eval()
    batch, _ = transform([to_tensor(image)])
    torch.testing.assert_close(pixels, batch.tensors[0])


def test_the_three_ways_differ_where_they_shrink():
    # Otherwise each of the three tests above could pass for another.
    image = noise(64, 64)
    results = [prepare(image, recipe(16, **PLAIN, resize=way)) * 255 for way in WAYS]
    opencv, pillow, plain = results
    for levels in (opencv, pillow):
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert (plain - plain.round()).abs().max() > 0.2
    # Four pixels out of every sixteen against all of them, and more: noise fades.
    assert pillow.std() < 0.6 * opencv.std()
    assert opencv.std() == pytest.approx(plain.std().item(), rel=0.01)


@pytest.mark.parametrize("way", WAYS)
def test_no_way_touches_an_image_of_the_right_size(way):
    image = noise(16, 16)
    pixels = prepare(image, recipe(16, mean=MEAN, std=STD, resize=way))
    expected = normalize(to_tensor(image), MEAN, STD)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    assert torch.equal(pixels, prepare(image, recipe(16, mean=MEAN, std=STD)))


@pytest.mark.parametrize("way", WAYS)
def test_one_colour_stays_that_colour(way):
    image = np.full((30, 50, 3), (200, 100, 50), dtype=np.uint8)
    pixels = prepare(image, recipe(16, **PLAIN, resize=way))
    expected = (torch.tensor([200, 100, 50]) / 255)[:, None, None].expand(3, 16, 16)
    torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize("way", ["bilinear", "OpenCV", None])
@pytest.mark.parametrize("side", [8, 16])
def test_an_unknown_way_to_resize_is_refused(way, side):
    # Also where there is nothing to resize.
    with refuses(f"resize must be 'opencv', 'pillow' or 'torch', not {way!r}"):
        prepare(noise(8, 8), recipe(side, resize=way))


# ---------------------------------------------------------------- what prepare leaves alone


def test_fractions_stay_where_they_are():
    # The right half of the upper half is bright, in an oblong image and in the square made of it.
    image = np.zeros((40, 120, 3), dtype=np.uint8)
    image[:20, 60:] = 255
    pixels = prepare(image, recipe(8, **PLAIN))
    expected = torch.zeros(3, 8, 8)
    expected[:, :4, 4:] = 1
    assert torch.equal(pixels, expected)


def test_views_of_any_memory_layout_are_welcome():
    image = noise(12, 12)
    views = (image[:, ::-1], image[::-1], image[..., ::-1], image.transpose(1, 0, 2), image[2:, 2:])
    for view in views:
        for side, way in product((16, len(view)), WAYS):
            expected = prepare(view.copy(), recipe(side, resize=way))
            assert torch.equal(prepare(view, recipe(side, resize=way)), expected)


@pytest.mark.parametrize("way", WAYS)
def test_the_image_is_left_as_it_was(way):
    image = noise(16, 16)
    before = image.copy()
    prepare(image, recipe(16, resize=way)).zero_()
    assert np.array_equal(image, before)


def test_collate_joins_images_and_keeps_targets():
    samples = [
        (noise(10, 20, seed), {"boxes": torch.rand(count, 4), "labels": torch.ones(count).long()})
        for seed, count in enumerate((2, 0, 5))
    ]
    images, targets = collate(samples, recipe(16))
    assert images.shape == (3, 3, 16, 16)
    for image, target, (original, true) in zip(images, targets, samples, strict=True):
        assert torch.equal(image, prepare(original, recipe(16)))
        assert target is true


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), dtype=np.uint8), r"shape \(height, width, 3\), not \(8, 8\)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"not \(3, 8, 8\)"),
        (np.zeros((8, 8, 4), dtype=np.uint8), r"not \(8, 8, 4\)"),
        (np.zeros((8, 8, 3, 2), dtype=np.uint8), r"not \(8, 8, 3, 2\)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"not \(0, 8, 3\)"),
        (np.zeros((8, 8, 3), dtype=np.float32), "must be uint8 RGB, not float32"),
        (np.zeros((8, 8, 3), dtype=np.int64), "must be uint8 RGB, not int64"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with refuses(message):
        prepare(image, recipe(8))


@pytest.mark.parametrize("resize", ["opencv", "pillow", "torch"])
def test_memory_that_may_not_be_written_is_no_matter(resize, recwarn, request):
    request.addfinalizer(lambda: torch.set_warn_always(False))
    torch.set_warn_always(True)  # torch says it only once otherwise, perhaps in an earlier test
    image = np.asarray(Image.new("RGB", (20, 10), (1, 2, 3)))
    assert not image.flags.writeable
    pixels = prepare(image, recipe(8, resize=resize))
    assert pixels.shape == (3, 8, 8)
    assert not recwarn.list
