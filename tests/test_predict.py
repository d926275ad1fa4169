"""Detection from images: the same as its steps by hand, whatever the batch."""

import copy
import inspect
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from refusals import refuses

from ssd_annotated.model import tiny_ssd
from ssd_annotated.nms import postprocess
from ssd_annotated.predict import detect
from ssd_annotated.transforms import prepare

# Layers this small are one thread's work; more threads only wait for each other.
torch.set_num_threads(1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = tiny_ssd(num_classes=4, image_size=64, widths=(4, 4, 8, 8, 8, 8))
    # Untrained, it scores every class alike; louder heads make it choose.
    with torch.no_grad():
        for head in model.confidence_heads:
            head.weight *= 10
    return model.eval()


def photographs(count, seed=0):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(20, 120, (count, 2))
    return [generator.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_detect_is_prepare_predict_postprocess(model):
    images = photographs(3)
    expected = []
    with torch.no_grad():
        for image in images:
            predictions = model(prepare(image, model.recipe)[None])
            expected += postprocess(predictions, model.priors)
    found = detect(model, images)
    assert all(len(one.boxes) for one in found)
    assert_same(found, expected)


@pytest.mark.parametrize(
    "change",
    [
        {"score_threshold": 0.4},
        {"top_k": 2},
        {"nms_threshold": 0.1},
        {"max_detections": 3},
        {"variances": (0.3, 0.5)},
        {"max_log_size": 0.01},
        {"clip": True},
        {"class_agnostic": True},
        {"mean": (0.1, 0.9, 0.5), "std": (0.5, 0.4, 0.3)},
    ],
)
def test_every_part_of_the_recipe_counts(model, change):
    images = photographs(1)
    usual = detect(model, images)[0]
    model.recipe = replace(model.recipe, **change)
    (found,) = detect(model, images)
    settings = {
        field.name: getattr(model.recipe, field.name)
        for field in fields(model.recipe)
        if field.name in inspect.signature(postprocess).parameters
    }
    with torch.no_grad():
        predictions = model(prepare(images[0], model.recipe)[None])
    assert_same([found], postprocess(predictions, model.priors, **settings))
    assert len(found.scores) != len(usual.scores) or not torch.equal(found.boxes, usual.boxes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_after_a_network_of_half_precision_all_is_single(model, dtype):
    # Scores of eight bits tie, and the first of them would suppress the best.
    images = photographs(2)
    half = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        batch = torch.stack([prepare(image, model.recipe) for image in images])
        offsets, logits = half(batch.to(dtype))
    expected = postprocess((offsets.float(), logits.float()), half.priors.float())
    found = detect(half, images)
    assert {values.dtype for one in found for values in one} == {torch.float32, torch.int64}
    assert_same(found, expected)


def test_double_precision_stays(model):
    (found,) = detect(model.double(), photographs(1))
    assert found.boxes.dtype == found.scores.dtype == torch.float64


@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
def test_the_batch_size_changes_nothing(model, batch_size):
    images = photographs(5)
    assert_same(detect(model, images, batch_size), [detect(model, [one])[0] for one in images])


def test_best_first(model):
    (found,) = detect(model, photographs(1))
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    assert found.labels.min() >= 1


def test_no_images_no_detections(model):
    assert detect(model, []) == []


def test_a_model_in_training_is_used_in_eval_mode_and_given_back(model):
    images = photographs(3)
    expected = detect(model, images)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = detect(model.train(), images)
    assert model.training
    assert_same(found, expected)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not found[0].scores.requires_grad


def test_a_model_in_training_is_given_back_after_an_error_too(model):
    model.train()
    with refuses("must be uint8 RGB, not float32"):
        detect(model, [*photographs(1), np.zeros((8, 8, 3), dtype=np.float32)])
    assert model.training


def test_a_part_that_was_frozen_stays_frozen(model):
    model.train()
    model.trunk.eval()
    detect(model, photographs(1))
    assert model.training
    assert not model.trunk.training


def test_a_file_that_could_not_be_read_is_no_image(model):
    with refuses("an image must be a NumPy array, not NoneType", TypeError):
        detect(model, [None])


def test_one_array_is_no_list_of_images(model):
    with refuses(r"images must be a list of arrays, not one array of shape \(8, 8, 3\)"):
        detect(model, np.zeros((8, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(model, batch_size):
    with refuses(f"batch_size must be at least 1, not {batch_size}"):
        detect(model, photographs(1), batch_size)
