"""Fit: the forecast counts what an augmented data set shows, and fitted priors cover more."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssd_annotated.data.augment import AUGMENTATIONS, Augmented
from ssd_annotated.data.fit import fit_priors, forecast, outlook, seen_targets
from ssd_annotated.data.graffiti import CLASS_NAMES, GraffitiDigits, export_voc
from ssd_annotated.data.survey import uncovered_objects
from ssd_annotated.data.voc import VOCFolder
from ssd_annotated.priors import make_priors, rescale_priors, tiny_priors


@pytest.fixture(scope="module")
def small_digits(tmp_path_factory):
    """Objects of 6 to 18% of the side, on 40 photographs."""
    folder = tmp_path_factory.mktemp("small")
    export_voc(GraffitiDigits("train", "tiny", 40, 96), folder)
    return VOCFolder([(folder, "train")], CLASS_NAMES)


def shapes(targets):
    boxes = torch.cat([target["boxes"] for target in targets])
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()


def test_without_augmentation_the_targets_are_the_data_sets_own(small_digits):
    seen = seen_targets(small_digits, AUGMENTATIONS["none"])
    for index, target in enumerate(seen):
        torch.testing.assert_close(target["boxes"], small_digits.target(index)["boxes"])


def test_seen_targets_are_spread_over_a_large_data_set(small_digits, monkeypatch):
    monkeypatch.setattr("ssd_annotated.data.fit.MOST", 3)
    counts = [len(target["boxes"]) for target in seen_targets(small_digits, AUGMENTATIONS["none"])]
    assert counts == [len(small_digits.target(index)["boxes"]) for index in (0, 19, 39)]


def test_images_without_objects_are_passed_over(small_digits, monkeypatch):
    monkeypatch.setattr("ssd_annotated.data.fit.MOST", 3)
    data, (first, second, *_) = copy(small_digits), small_digits.records
    flags = dict.fromkeys(("difficult", "truncated", "crowd"), np.zeros(0, dtype=bool))
    empty = replace(first, boxes=first.boxes[:0], names=(), **flags)
    data.records = [empty] * 9 + [second] + [empty] * 9
    (target,) = seen_targets(data, AUGMENTATIONS["none"])
    torch.testing.assert_close(target["boxes"], small_digits.target(1)["boxes"])


@pytest.mark.parametrize("name", ["caffe", "gentle"])
def test_what_is_forecast_is_what_training_sees(small_digits, name):
    # Other dice, the same odds: the medians of some two hundred objects agree within a tenth.
    seen = seen_targets(small_digits, AUGMENTATIONS[name])
    data = Augmented(small_digits, AUGMENTATIONS[name], 64)
    shown = [data[index, epoch][1] for index in range(40) for epoch in range(3)]
    assert shapes(seen).median() == pytest.approx(shapes(shown).median().item(), rel=0.15)


def test_a_forecast_counts_pixels_and_what_no_prior_can_learn(small_digits):
    targets = [small_digits.target(index) for index in range(40)]
    spec = tiny_priors(128)
    found = forecast(targets, spec, 128)
    torch.testing.assert_close(found.sizes, shapes(targets) * 128)
    missed = uncovered_objects(targets, make_priors(spec)).double().mean()
    assert found.uncovered == pytest.approx(missed.item())


def test_fitted_priors_cover_more_than_the_presets_and_than_their_neighbours(small_digits):
    targets = [small_digits.target(index) for index in range(40)]
    spec = tiny_priors(256)
    smallest, largest = fit_priors(spec, targets)
    fitted = forecast(targets, rescale_priors(spec, smallest, largest), 256).uncovered
    assert fitted < 0.15 < 0.7 < forecast(targets, spec, 256).uncovered
    for pair in ((smallest / 1.6, largest), (smallest * 1.6, max(largest, smallest * 1.6))):
        assert fitted < forecast(targets, rescale_priors(spec, *pair), 256).uncovered


def test_the_smallest_objects_have_a_size_above_0():
    boxes = torch.tensor([[0.5, 0.5, 0.5002, 0.50025], [0.3, 0.3, 0.3002, 0.30025]])  # a pixel each
    smallest, largest = fit_priors(tiny_priors(64), [{"boxes": boxes}])
    assert (smallest, largest) == (0.001, 0.001)
    assert make_priors(rescale_priors(tiny_priors(64), smallest, largest)).isfinite().all()


def test_nothing_fits_nothing():
    with pytest.raises(ValueError, match="no object is left to fit priors to"):
        fit_priors(tiny_priors(64), [{"boxes": torch.empty(0, 4)}])


def test_for_small_objects_larger_images_and_no_expansion_are_proposed(small_digits):
    specs = {side: tiny_priors(side) for side in (128, 192, 256, 320)}
    text = outlook(small_digits, 128, specs)
    rows = {line.split()[0]: line.split() for line in text.split("\n\n")[0].splitlines()}
    assert rows["none"][1:] != rows["caffe"][1:]
    medians = {name: int(rows[name][3]) for name in ("none", "caffe", "gentle", "proposed")}
    assert medians["caffe"] < medians["none"] <= medians["gentle"] < medians["proposed"]
    shares = {name: int(rows[name][-1].rstrip("%")) for name in medians}
    assert shares["proposed"] < 25 < 70 < shares["none"]
    assert text.splitlines()[-1].startswith("proposed: --image-size 256 --augmentation gentle --s")


def test_for_large_objects_caffes_augmentation_is_proposed(tmp_path):
    export_voc(GraffitiDigits("train", "standard", 40, 96), tmp_path)
    dataset = VOCFolder([(tmp_path, "train")], CLASS_NAMES)
    proposed = outlook(dataset, 256, {256: tiny_priors(256)}).splitlines()[-1]
    assert proposed.startswith("proposed: --augmentation caffe --smallest ")
