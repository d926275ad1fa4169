"""The paper's network on real images, from the folder to detections, as far as a test has time."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from ssd_annotated.checkpoint import load_model
from ssd_annotated.data.augment import AUGMENTATIONS, Augmented
from ssd_annotated.data.graffiti import GraffitiDigits
from ssd_annotated.data.voc import VOCFolder
from ssd_annotated.detection import detect
from ssd_annotated.model import ssd300_vgg16
from ssd_annotated.training.run import run
from ssd_annotated.training.settings import Settings

BCCD = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"


def graffiti() -> Dataset:
    return GraffitiDigits("train", length=4, image_size=300)


def bccd() -> Dataset:
    if not BCCD.is_dir():
        pytest.skip("the BCCD data set is not here")
    return VOCFolder([(BCCD, "train")], on_bad="skip")


@pytest.mark.parametrize("data", [bccd, graffiti])
def test_ssd300_trains_from_end_to_end(data, tmp_path):
    torch.manual_seed(0)
    dataset = data()
    names = dataset.class_names
    model = ssd300_vgg16(len(names), class_names=names)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    seen = Augmented(dataset, AUGMENTATIONS["caffe"], model.recipe.image_size)
    settings = Settings(steps=2, batch_size=2)
    outcome = run(model, seen, tmp_path, settings, progress=False)
    assert (outcome.steps, outcome.stopped_by) == (2, None)
    # run() itself refuses a loss that is not finite. (A crop may hold no object: then it is 0.)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1]
    assert any(min(record["localization"], record["confidence"]) > 0 for record in records)
    # Biases do not decay: what moves has been taught. Not every map has an object to learn from.
    still = {name for name, weight in model.named_parameters() if weight.equal(before[name])}
    assert not {name for name in still if name.startswith("trunk")}
    for heads in ("localization_heads", "confidence_heads"):
        assert {f"{heads}.{k}.bias" for k in range(6)} - still
    loaded = load_model(tmp_path / "last.pt")
    assert loaded.recipe.class_names == names
    (found,) = detect(loaded, [dataset[0][0]])
    assert len(found.boxes) > 0
    assert found.scores.isfinite().all()
    assert set(found.labels.tolist()) <= set(range(1, len(names)))
