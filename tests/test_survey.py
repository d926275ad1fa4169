"""Surveys: they count what was written, and the table shows it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from voc_files import edit, object_xml, write, write_two

from ssd_annotated.boxes import xyxy_to_cxcywh
from ssd_annotated.data.graffiti import GraffitiDigits
from ssd_annotated.data.survey import survey, survey_table
from ssd_annotated.data.voc import VOCFolder
from ssd_annotated.priors import PRESETS, make_priors

BCCD = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"
needs_bccd = pytest.mark.skipif(not BCCD.is_dir(), reason="the BCCD data set is not here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_two(tmp_path)


def test_survey_counts_and_measures(folder):
    write(folder, "c", object_xml("dog", (1, 1, 20, 30), "<difficult>1</difficult>"))
    write(folder, "d")
    edit(folder / "Annotations/a.xml", "<difficult>0", "<truncated>1</truncated><difficult>0")
    found = survey(VOCFolder([(folder, "train")], ["background", "dog", "owl", "cat"]))
    assert (found.images, found.empty, found.undecided) == (4, 1, 0)
    assert found.objects == {"dog": 2, "owl": 0, "cat": 2}
    assert (found.difficult, found.truncated) == (1, 1)
    assert found.per_image[0] == 0
    assert found.per_image[3] == 1
    assert found.per_image[-1] == 2
    # Fractions: the cats fill the image, one dog a quarter by a half, the other half the width.
    np.testing.assert_allclose(found.sizes[0], np.sqrt(0.25 * 0.5), rtol=1e-6)
    assert found.sizes[-1] == 1
    np.testing.assert_allclose((found.ratios[0], found.ratios[-1]), (0.5, 1), rtol=1e-6)
    assert found.uncovered is None


def test_survey_of_nothing(tmp_path):
    write(tmp_path, "a")
    found = survey(VOCFolder([(tmp_path, "train")], ["background", "cat"]), torch.rand(3, 4))
    assert found.objects == {"cat": 0}
    assert found.per_image == (0,) * 7
    assert found.sizes == found.ratios == ()
    assert found.uncovered == {}


def test_survey_tells_what_the_priors_miss(folder):
    write(folder, "c", object_xml("dog", (21, 16, 40, 30)))
    dataset = VOCFolder([(folder, "train")])
    dog = xyxy_to_cxcywh(dataset[1][1]["boxes"][:1])
    assert survey(dataset, dog).uncovered == {"cat": 1.0, "dog": 0.5}
    everything = torch.tensor([[0.5, 0.5, 1, 1]])
    assert survey(dataset, torch.cat([dog, everything])).uncovered == {"cat": 0.0, "dog": 0.5}
    half = torch.tensor([[0.25, 0.5, 0.5, 1]])  # IoU with the cats exactly ½: covered
    assert survey(dataset, half).uncovered["cat"] == 0


def test_no_image_is_decoded(folder):
    dataset = VOCFolder([(folder, "train")])
    for picture in (folder / "JPEGImages").iterdir():
        picture.unlink()
    assert survey(dataset).objects == {"cat": 2, "dog": 1}


class Plain(list, torch.utils.data.Dataset):
    """The smallest possible data set."""

    class_names = ("background", "cat", "dog")


def test_any_data_set_will_do(folder):
    target = {"boxes": torch.tensor([[0, 0, 0.5, 0.25]]), "labels": torch.tensor([2])}
    image = np.zeros((4, 4, 3), np.uint8)
    found = survey(Plain([(image, target)] * 3), torch.tensor([[0.25, 0.125, 0.5, 0.25]]))
    assert (found.images, found.undecided, found.difficult, found.truncated) == (3, 0, 0, 0)
    assert found.objects == {"cat": 0, "dog": 3}
    assert found.shapes["dog"].tolist() == [[0.5, 0.25]] * 3
    assert found.uncovered == {"dog": 0.0}
    assert found.problems == ()
    dataset = VOCFolder([(folder, "train")])
    as_items = survey(Plain(dataset))
    assert all(torch.equal(as_items.shapes[n], s) for n, s in survey(dataset).shapes.items())


def test_images_that_nobody_can_turn_are_counted():
    dataset = Plain()
    dataset.undecided = 7
    assert survey(dataset).undecided == 7
    assert "7 of unclear orientation" in survey_table(survey(dataset))


# --- The table ------------------------------------------------------------------------------------


def test_the_table_says_it_all(folder):
    write(folder, "c", object_xml("dog", (1, 1, 20, 30), "<difficult>1</difficult>"))
    write(folder, "d", object_xml("cow", (4, 4, 2, 2)))
    dataset = VOCFolder([(folder, "train")], ["background", "dog", "owl", "cat"], on_bad="skip")
    lines = survey_table(survey(dataset, torch.tensor([[0.5, 0.5, 1, 1]]))).splitlines()
    assert lines[:3] == [
        "images          4   1 without objects, 0 of unclear orientation",
        "objects         4   1 difficult, 0 truncated",
        "problems        1   left out",
    ]
    # Areas 1/8, 1/2, 1 and 1: square roots .354, .707, 1, 1, whose median is half-way.
    assert lines[3:8] == [
        "",
        "                  least     5%    25%    50%    75%    95%   most",
        "objects an image      0      0      1      1      1      2      2",
        "size √(w·h)       0.354  0.407  0.619  0.854  1.000  1.000  1.000",
        "ratio w / h        0.50   0.50   0.50   0.75   1.00   1.00   1.00",
    ]
    assert lines[8:13] == [
        "",
        "class  objects  share  median size  median w / h  no prior's IoU ≥ ½",
        "dog          2  50.0%        0.530          0.50               50.0%",
        "owl          0   0.0%",
        "cat          2  50.0%        1.000          1.00                0.0%",
    ]
    assert lines[13:15] == ["", "1 × unknown class"]
    assert " ".join(line.strip() for line in lines[15:]) == f"- {dataset.problems[0]}"


def test_the_table_of_nothing(tmp_path):
    write(tmp_path, "a")
    table = survey_table(survey(VOCFolder([(tmp_path, "train")], ["background", "cat"])))
    assert table.splitlines()[1:3] == [
        "objects         0   0 difficult, 0 truncated",
        "problems        0",
    ]
    assert table.splitlines()[-1].split() == ["cat", "0", "0.0%"]


def test_lines_stay_below_100_columns_and_paths_whole(tmp_path):
    root = tmp_path / ("long" * 20)
    write(root, "a", *[object_xml("emu", (7, 7, 9, 9))] * 30)
    names = ["background", *(f"class{n}" for n in range(30))]
    lines = survey_table(survey(VOCFolder([(root, "train")], names, "skip")), most=4).splitlines()
    assert "30 × unknown class" in lines
    assert lines[-1] == "- and 26 more"
    assert sum(str(root / "Annotations/a.xml") in line for line in lines) == 4
    assert 90 < max(len(line) for line in lines if str(root) not in line) < 100


# --- A real data set ------------------------------------------------------------------------------


def test_graffiti_has_names_of_its_own():
    scenes = GraffitiDigits("test", length=4, image_size=64)
    labels = torch.cat([target["labels"] for _, target in scenes])
    assert survey(scenes).objects == {str(d): int((labels == d + 1).sum()) for d in range(10)}


@needs_bccd
def test_bccd():
    dataset = VOCFolder([(BCCD, "trainval"), (BCCD, "test")], on_bad="skip")
    found = survey(dataset, make_priors(PRESETS["paper"]))
    assert (found.images, found.empty, found.undecided) == (364, 0, 0)
    assert found.objects == {"Platelets": 361, "RBC": 4153, "WBC": 372}
    assert (found.difficult, found.truncated) == (0, 1131)
    assert found.uncovered["RBC"] < 0.01 < 0.4 < found.uncovered["Platelets"] < 0.5
    lines = survey_table(found).splitlines()
    assert "2 × degenerate box" in lines
    # The lines with a path are as long as the path.
    assert max(len(line) for line in lines if "BloodImage" not in line) < 100
