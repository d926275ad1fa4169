"""The model that ships is small, plain and as good as its documentation says."""

from pathlib import Path

import pytest
import torch

import ssd_annotated
from ssd_annotated.checkpoint import pretrained
from ssd_annotated.data.graffiti import CLASS_NAMES, GraffitiDigits
from ssd_annotated.detection import detect
from ssd_annotated.evaluation.voc import evaluate

FILE = Path(ssd_annotated.__file__).parent / "pretrained" / "tiny-graffiti.pt"
# Measured where it was trained: mAP@0.5 (area) on the first 500 test scenes with seed 0.
MEASURED = {"standard": 0.974, "crowd": 0.570, "decoys": 0.935}


def test_file_is_small_and_holds_plain_data():
    assert FILE.stat().st_size <= 3 * 1024**2
    content = torch.load(FILE, weights_only=True)
    assert set(content) == {"spec", "recipe", "state_dict"}
    assert content["recipe"]["class_names"] == CLASS_NAMES


def test_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match=r"'huge'.*tiny-graffiti"):
        pretrained("huge")


@pytest.mark.parametrize("variant", MEASURED)
def test_map_is_what_was_measured(variant):
    # 200 of the 500 scenes: the mAP of a part differs a little from that of the whole.
    test = GraffitiDigits("test", variant=variant, length=200)
    images, targets = zip(*(test[index] for index in range(len(test))))
    found = evaluate(detect(pretrained(), list(images)), list(targets), num_classes=11)
    assert found.mean_ap == pytest.approx(MEASURED[variant], abs=0.03)
