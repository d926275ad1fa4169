"""Folders with COCO's JSON: the file is read correctly, and nothing bad passes in silence."""

import json
import pickle
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from refusals import refuses
from torchvision.datasets import CocoDetection
from voc_files import HEIGHT, WIDTH, noise

from ssd_annotated.data.augment import AUGMENTATIONS, Augmented
from ssd_annotated.data.coco import COCOFolder
from ssd_annotated.data.survey import survey
from ssd_annotated.data.voc import VOCFolder
from ssd_annotated.evaluation.voc import evaluate
from ssd_annotated.nms import Detections

BCCD = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"

# Ids with gaps and out of order, as COCO's are.
CONTENT = {
    "images": [
        {"id": 9, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
        {"id": 4, "file_name": "sub/a.png", "width": WIDTH, "height": HEIGHT},
        {"id": 12, "file_name": "c.png", "width": WIDTH, "height": HEIGHT},
    ],
    "annotations": [
        {"id": 71, "image_id": 9, "category_id": 90, "bbox": [10, 6, 20, 15], "iscrowd": 0},
        {"id": 70, "image_id": 4, "category_id": 3, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        {"id": 72, "image_id": 9, "category_id": 3, "bbox": [2.5, 3.25, 4.5, 9], "iscrowd": 0},
    ],
    "categories": [
        {"id": 90, "name": "toothbrush"},
        {"id": 3, "name": "car"},
        {"id": 13, "name": "stop sign"},
    ],
}
NAMES = ("background", "car", "stop sign", "toothbrush")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images and their file; tests spoil annotation 71 or image 9."""
    (tmp_path / "images/sub").mkdir(parents=True)
    for name in ("sub/a", "b", "c"):
        assert cv2.imwrite(str(tmp_path / f"images/{name}.png"), noise()[:, :, ::-1])
    (tmp_path / "all.json").write_text(json.dumps(CONTENT))
    return tmp_path


def read(folder: Path, *arguments, **options) -> COCOFolder:
    return COCOFolder(folder / "images", folder / "all.json", *arguments, **options)


def spoil(folder: Path, change) -> None:
    """Change the file's content by a function."""
    content = json.loads((folder / "all.json").read_text())
    change(content)
    (folder / "all.json").write_text(json.dumps(content))


# --- What is in the file comes out ----------------------------------------------------------------


def test_items_are_those_of_every_folder(folder):
    dataset = read(folder)
    assert dataset.class_names == NAMES
    assert [record.image.name for record in dataset.records] == ["a.png", "b.png", "c.png"]
    image, target = dataset[1]
    assert np.array_equal(image, noise())  # RGB
    expected = [[10 / 40, 6 / 30, 30 / 40, 21 / 30], [2.5 / 40, 3.25 / 30, 7 / 40, 12.25 / 30]]
    assert torch.equal(target["boxes"], torch.tensor(expected))
    assert target["labels"].tolist() == [3, 1]  # gaps close
    assert target["labels"].dtype == torch.int64
    assert target["difficult"].tolist() == [False, False]
    assert target["truncated"].tolist() == [False, False]
    assert dataset[0][1]["boxes"].tolist() == [[0, 0, 1, 1]]
    assert dataset[0][1]["difficult"].tolist() == [True]  # a crowd
    assert dataset[2][1]["boxes"].shape == (0, 4)
    assert dataset[0][1]["crowd"].tolist() == [True]
    assert dataset.report().splitlines() == [
        "images: 3, objects: 3, problems: 0",
        "1 crowd: left out of training, ignored in evaluation",
    ]


def test_torchvision_reads_the_same(folder):
    dataset = read(folder)
    others = CocoDetection(str(folder / "images"), str(folder / "all.json"))
    assert len(dataset) == len(others) == 3
    ids = dict(enumerate((3, 13, 90), start=1))
    for (image, target), (picture, things) in zip(dataset, others):
        assert np.array_equal(image, np.asarray(picture))
        boxes = target["boxes"] * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
        boxes[:, 2:] -= boxes[:, :2]
        expected = torch.tensor([thing["bbox"] for thing in things]).reshape(-1, 4).float()
        torch.testing.assert_close(boxes, expected, rtol=0, atol=1e-5)
        assert [ids[n] for n in target["labels"].tolist()] == [t["category_id"] for t in things]
        assert target["difficult"].tolist() == [bool(t["iscrowd"]) for t in things]


def test_names_given_decide_on_the_labels(folder):
    names = ("background", "toothbrush", "car", "bus")
    dataset = read(folder, names)
    assert dataset.class_names == names
    assert dataset[1][1]["labels"].tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"annotation 71 \(toothbrush\): unknown class: 'tooth"):
        read(folder, ("background", "car"))
    left = read(folder, ("background", "car"), on_bad="skip")
    assert [len(target["labels"]) for _, target in left] == [1, 1, 0]


def test_absent_iscrowd_says_no(folder):
    spoil(folder, lambda content: [thing.pop("iscrowd") for thing in content["annotations"]])
    assert read(folder)[0][1]["difficult"].tolist() == [False]


def test_workers_read_the_same(folder):
    dataset = pickle.loads(pickle.dumps(read(folder)))
    loader = torch.utils.data.DataLoader(dataset, batch_size=1, num_workers=1, collate_fn=list)
    for (image, target), ((found, read_target),) in zip(dataset, loader, strict=True):
        assert np.array_equal(image, found)
        assert all(torch.equal(value, read_target[key]) for key, value in target.items())


def test_crowds_are_left_out_of_training_and_ignored_in_evaluation(folder):
    dataset = read(folder)
    seen = Augmented(dataset, AUGMENTATIONS["none"], 32)
    assert [len(target["labels"]) for _, target in seen] == [0, 2, 0]
    targets = [dataset.target(index) for index in range(3)]
    whole = Detections(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0.9]), torch.tensor([1]))
    exact = Detections(targets[1]["boxes"], torch.tensor([0.8, 0.7]), targets[1]["labels"])
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    found = [whole, exact, nothing]  # on the crowd, on the objects, and nowhere
    assert evaluate(found, targets, len(NAMES)).ap[1] == 1
    kept = [read(folder, crowds="keep").target(index) for index in range(3)]
    assert evaluate(found, kept, len(NAMES)).ap[1] == 1
    assert evaluate([nothing, *found[1:]], targets, len(NAMES)).ap[1] == 1
    assert evaluate([nothing, *found[1:]], kept, len(NAMES)).ap[1] == 0.5  # the crowd is missed


def test_crowds_may_be_kept(folder):
    dataset = read(folder, crowds="keep")
    assert dataset[0][1]["difficult"].tolist() == dataset[0][1]["crowd"].tolist() == [False]
    assert dataset.notes == []
    assert len(Augmented(dataset, AUGMENTATIONS["none"], 32)[0][1]["labels"]) == 1


IDS = {
    "strings": (str, str),
    "UUIDs": (lambda n: f"5f1c-{n:04x}", lambda n: f"5f1c-{n:04x}"),
    "strings and numbers": (str, int),
    "numbers and strings": (int, str),
    "floats": (float, int),
}


@pytest.mark.parametrize("case", IDS)
def test_ids_are_only_keys(folder, case):
    own, other = IDS[case]
    before = read(folder)

    def change(content):
        for kind, key in (("images", "id"), ("annotations", "id"), ("categories", "id")):
            for one in content[kind]:
                one[key] = own(one[key])
        for one in content["annotations"]:
            one.update({key: other(one[key]) for key in ("image_id", "category_id")})

    spoil(folder, change)
    dataset = read(folder)
    assert dataset.class_names == before.class_names  # numbers as strings are sorted as numbers
    assert [r.image for r in dataset.records] == [r.image for r in before.records]
    for index in range(3):
        after = dataset.target(index)
        assert all(torch.equal(v, after[k]) for k, v in before.target(index).items())


def test_a_string_with_zeros_is_an_id_of_its_own(folder):
    spoil(folder, lambda content: content["images"][0].update(id="004"))
    spoil(folder, lambda content: [t.update(image_id="004") for t in content["annotations"][::2]])
    dataset = read(folder)
    assert [record.image.name for record in dataset.records] == ["a.png", "c.png", "b.png"]
    assert [len(dataset.target(index)["labels"]) for index in range(3)] == [1, 0, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"bbox": ["10", "6.0", "20", "15"]},
        {"bbox": None, "segmentation": [[10, 6, 30, 6, 30, 21, 10, 21]]},
        {"bbox": [], "segmentation": [[10, 6, 20, 7], [30, 21, 12, 20]]},
        {"bbox": None, "segmentation": [10, 21, 30, 6]},
        {"bbox": [None] * 4, "segmentation": [10, 21, 30, 6]},  # VIA 3
        {"iscrowd": None},
        {"iscrowd": "0"},
        {"iscrowd": False},
    ],
)
def test_what_tools_write_differently_is_understood(folder, changes):
    expected = read(folder).target(1)
    spoil(folder, lambda content: content["annotations"][0].update(changes))
    found = read(folder).target(1)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"counts": "abc", "size": [30, 40]}, "bbox, and segmentation is no polygon: {'counts'"),
        ([[1, 2, 3]], "missing key: bbox, and segmentation is no polygon"),
        ([[1, 2, "x", 4]], "not a number: segmentation is"),
        ([[]], "missing key: bbox is absent, and segmentation empty"),
        ([[5, 5, 9, 5]], "degenerate box: left 5, top 5, right 9, bottom 5 of its polygon"),
    ],
)
def test_what_is_no_polygon_is_named(folder, segmentation, message):
    changes = {"bbox": None, "segmentation": segmentation}
    spoil(folder, lambda content: content["annotations"][0].update(changes))
    with pytest.raises(ValueError, match=rf"all\.json, annotation 71 \(toothbrush\): .*{message}"):
        read(folder)


@pytest.mark.parametrize(
    "size",
    [
        {},
        {"width": None, "height": None},
        {"width": 0, "height": 0},
        {"width": -1, "height": -1},  # VIA 3
    ],
)
def test_without_a_size_the_image_knows_it(folder, size):
    expected = read(folder).target(1)

    def change(content):
        for key in ("width", "height"):
            content["images"][0].pop(key)
        content["images"][0].update(size)

    spoil(folder, change)
    dataset = read(folder)
    assert "1 annotation without a size: the image's own is taken" in dataset.notes
    assert torch.equal(dataset.target(1)["boxes"], expected["boxes"])


def test_sizes_may_be_strings_and_names_have_blanks_around(folder):
    spoil(folder, partial(change, kind="images", width="40", height="30.0", file_name=" b.png"))
    spoil(folder, partial(change, kind="categories", name=" toothbrush\n"))
    dataset = read(folder)
    assert dataset.class_names == NAMES
    assert dataset.records[1].image.name == "b.png"


def test_the_group_above_roboflows_classes_is_no_class(folder):
    def change(content):
        for one in content["categories"]:
            one["supercategory"] = "things"
        content["categories"].append({"id": 0, "name": "things", "supercategory": "none"})

    spoil(folder, change)
    assert read(folder).class_names == NAMES
    spoil(folder, lambda content: content["annotations"][0].update(category_id=0))
    assert read(folder).class_names == ("background", "things", *NAMES[1:])  # somebody used it


def test_roboflows_group_may_have_the_name_of_its_only_class(folder):
    def change(content):
        (kept,) = (one for one in content["categories"] if one["name"] == "car")
        group = {"id": 0, "name": "car", "supercategory": "none"}
        content["categories"] = [group, kept | {"supercategory": "car"}]
        for one in content["annotations"]:
            one["category_id"] = kept["id"]

    spoil(folder, change)
    assert read(folder).class_names == ("background", "car")
    spoil(folder, lambda content: content["annotations"][0].update(category_id=0))
    with pytest.raises(ValueError, match=r"two have the same name: \('car', 'car'\)"):
        read(folder)


def test_survey(folder):
    found = survey(read(folder), torch.tensor([[0.5, 0.5, 1, 1]]))
    assert found.objects == {"car": 2, "stop sign": 0, "toothbrush": 1}
    assert (found.images, found.empty, found.difficult) == (3, 1, 1)
    assert found.uncovered == {"car": 0.5, "toothbrush": 1.0}


@pytest.mark.parametrize(
    ("bbox", "pixels"),
    [
        ([-1, -0.5, 21, 20.5], (0, 0, 20, 20)),
        ([20, 10, 21, 21], (20, 10, 40, 30)),
        ([20, 10, 20.004, 20.004], (20, 10, 40, 30)),  # what rounding does
        ([39.98, 0, 0.02, 30], (39.98, 0, 40, 30)),  # thin, but a box
        ([-5, 6, 20, 15], (0, 6, 15, 21)),
    ],
)
def test_what_sticks_out_is_cut_off(folder, bbox, pixels):
    spoil(folder, lambda content: content["annotations"][0].update(bbox=bbox))
    dataset = read(folder)
    found = dataset[1][1]["boxes"][0] * torch.tensor([40, 30, 40, 30])
    torch.testing.assert_close(found, torch.tensor(pixels).float(), rtol=0, atol=1e-5)
    excess = -min(*bbox[:2], 40 - bbox[0] - bbox[2], 30 - bbox[1] - bbox[3])
    cut = f"1 box cut at the border, the furthest by {excess:g} px"
    assert (cut in dataset.notes) == (excess > 0.1)


# --- Bad annotations ------------------------------------------------------------------------------

BAD_ANNOTATIONS = {
    "no width": ({"bbox": [10, 6, 0, 5]}, "degenerate box: x 10, y 6, width 0, height 5"),
    "no height": ({"bbox": [29.65, 8, 1.03, 0.0]}, "degenerate box: x 29.65, y 8, .*height 0"),
    "negative": ({"bbox": [10, 6, 5, -2]}, "degenerate box: x 10, y 6, width 5, height -2"),
    "lost in rounding": ({"bbox": [30, 6, 1e-7, 5]}, "degenerate box: x 30"),
    "left": ({"bbox": [-5, 6, 5, 5]}, "box outside the image: x -5, .*is 40 × 30"),
    "top": ({"bbox": [5, -9, 5, 5]}, "box outside the image: .*y -9"),
    "just outside": ({"bbox": [40, 6, 0.5, 5]}, "box outside the image: x 40, .*width 0.5"),
    "mostly": ({"bbox": [5, 25, 5, 11]}, "box mostly outside the image: .*; 45% of it lies in"),
    "three numbers": ({"bbox": [5, 6, 7]}, r"not four numbers: bbox is \[5, 6, 7\]"),
    "word": ({"bbox": [5, 6, 7, "8 px"]}, r"not four numbers: bbox is \[5, 6, 7, '8 px'\]"),
    "true": ({"bbox": [5, 6, 7, True]}, r"not four numbers: bbox is \[5, 6, 7, True\]"),
    "nan": ({"bbox": [5, 6, 7, float("nan")]}, r"not four numbers: bbox is \[5, 6, 7, nan\]"),
    "infinite": ({"bbox": [5, 6, 7, float("inf")]}, "not four numbers: bbox is .*inf"),
    "huge": ({"bbox": [5, 6, 7, 10**400]}, "not four numbers: bbox is .*1000"),
    "object": ({"bbox": {"x": 5}}, "not four numbers: bbox is {'x': 5}"),
    "null": ({"bbox": None}, "missing key: bbox is absent or null"),
    "crowd": ({"iscrowd": 2}, "neither 0 nor 1: iscrowd is 2"),
    "crowds": ({"iscrowd": [1]}, r"neither 0 nor 1: iscrowd is \[1\]"),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_a_bad_annotation_is_named_or_left_out(folder, case):
    changes, message = BAD_ANNOTATIONS[case]
    spoil(folder, lambda content: content["annotations"][0].update(changes))
    with pytest.raises(ValueError, match=rf"all\.json, annotation 71 \(toothbrush\): {message}"):
        read(folder)
    dataset = read(folder, on_bad="skip")
    assert [len(target["labels"]) for _, target in dataset] == [1, 1, 0]
    ((where, thing, what),) = dataset.problems
    assert (where, thing) == (folder / "all.json", "annotation 71 (toothbrush)")
    assert dataset.report().splitlines()[2:] == [
        f"1 × {what.partition(':')[0]}",
        f"- {where}, {thing}: {what}",
    ]
    assert dataset.class_names == NAMES  # a label does not depend on what is left


def drop(content: dict, kind: str, key: str) -> None:
    del content[kind][0][key]


def change(content: dict, kind: str, **changes: object) -> None:
    content[kind][0].update(changes)


def append(content: dict, kind: str, entry: object) -> None:
    content[kind].append(entry)


AGAIN = {"id": 71, "image_id": 4, "category_id": 3, "bbox": [1, 1, 9, 9]}
INCOMPLETE = {
    "no image": (partial(drop, key="image_id"), "annotation 71: missing key: image_id", 2),
    "no category": (partial(drop, key="category_id"), "annotation 71: missing key: category_id", 2),
    "no id": (partial(drop, key="id"), "annotation number 1 of the list: missing key: id", 2),
    "no box": (partial(drop, key="bbox"), r"annotation 71 \(toothbrush\): missing key: bbox", 2),
    "half an id": (
        partial(change, image_id=9.5),
        "annotation 71: neither a whole number nor a string: image_id is 9.5",
        2,
    ),
    "a list as id": (
        partial(change, image_id=[9]),
        "annotation 71: neither a whole number nor a string: image_id",
        2,
    ),
    "true as id": (
        partial(change, image_id=True),
        "annotation 71: neither a whole number nor a string: image_id",
        2,
    ),
    "lost image": (partial(change, image_id=5), "annotation 71: unknown image: image_id is 5", 2),
    "lost category": (
        partial(change, category_id=4),
        r"annotation 71 \(of no category\): unknown class: there is no category 4",
        2,
    ),
    "twice": (partial(append, entry=AGAIN), "annotation 71: listed twice", 3),
    "no object": (partial(append, entry=7), "annotation number 4 of the list: not an object: 7", 3),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_incomplete_annotations_are_named_or_left_out(folder, case):
    change, message, left = INCOMPLETE[case]
    spoil(folder, partial(change, kind="annotations"))
    with pytest.raises(ValueError, match=rf"all\.json, {message}"):
        read(folder)
    dataset = read(folder, on_bad="skip")
    assert len(dataset) == 3
    assert sum(len(target["labels"]) for _, target in dataset) == left
    assert len(dataset.problems) == 1


# --- Bad images -----------------------------------------------------------------------------------


def on_file(spoil_file):
    return lambda folder: spoil_file(folder / "images/b.png")


def on_entry(**changes):
    return lambda folder: spoil(folder, partial(change, kind="images", **changes))


def without(key):
    return lambda folder: spoil(folder, partial(drop, kind="images", key=key))


BAD_IMAGES = {
    "no file": (on_file(Path.unlink), FileNotFoundError, "no image: expected .*images.b.png"),
    "a folder": (on_entry(file_name="sub"), FileNotFoundError, "no image: expected .*images.sub"),
    "no picture": (
        on_file(lambda file: file.write_text("lost")),
        ValueError,
        "corrupt image: b.png: ",
    ),
    "another size": (on_entry(width=41), ValueError, "wrong size: .*41 × 30, .*b.png is 40 × 30"),
    "negative size": (on_entry(width=-40), ValueError, "impossible size: -40 × 30"),
    "half a pixel": (on_entry(height=30.5), ValueError, "impossible size: 40 × 30.5"),
    "words": (on_entry(height="30 px"), ValueError, "not a number: height is '30 px'"),
    "no name": (without("file_name"), ValueError, "missing key: file_name is absent or null"),
    "a number": (on_entry(file_name=9), ValueError, "not a name: file_name is 9"),
    "a list": (on_entry(file_name=["b.png"]), ValueError, "not a name: file_name is"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_named_or_left_out(folder, case):
    damage, error, message = BAD_IMAGES[case]
    damage(folder)
    with pytest.raises(error, match=rf"all\.json, image 9: {message}"):
        read(folder)
    dataset = read(folder, on_bad="skip")
    assert [record.image.name for record in dataset.records] == ["a.png", "c.png"]
    assert [(file.name, thing) for file, thing, _ in dataset.problems] == [("all.json", "image 9")]


def test_an_image_counts_once(folder):
    again = {"id": 13, "file_name": "b.png", "width": WIDTH, "height": HEIGHT}
    spoil(folder, partial(append, kind="images", entry=again))
    with pytest.raises(ValueError, match=r"all\.json, image 13: listed twice: b\.png"):
        read(folder)
    dataset = read(folder, on_bad="skip")
    assert [record.image.name for record in dataset.records] == ["a.png", "b.png", "c.png"]
    assert [(thing, what) for _, thing, what in dataset.problems] == [
        ("image 13", "listed twice: b.png")
    ]
    spoil(folder, lambda content: content["images"][-1].update(id=9, file_name="d.png"))
    with pytest.raises(ValueError, match=r"all\.json, image 9: listed twice"):
        read(folder)
    dataset = read(folder, on_bad="skip")
    assert [record.image.name for record in dataset.records] == ["a.png", "b.png", "c.png"]
    assert len(dataset[1][1]["labels"]) == 2


def test_images_without_an_id_lose_their_annotations(folder):
    spoil(folder, partial(drop, kind="images", key="id"))
    with pytest.raises(ValueError, match="image number 1 of the list: missing key: id"):
        read(folder)
    dataset = read(folder, on_bad="skip")
    assert len(dataset) == 2
    assert [problem.object for problem in dataset.problems] == [
        "image number 1 of the list",
        "annotation 71",
        "annotation 72",
    ]


def test_images_that_end_early_are_found(folder):
    picture = folder / "images/b.png"
    picture.write_bytes(picture.read_bytes()[:-300])
    dataset = read(folder)  # the header is all right
    with pytest.raises(ValueError, match=r"b\.png: corrupt image"):
        dataset.verify()
    left = read(folder, on_bad="skip")
    assert len(left) == 2
    assert [problem.file.name for problem in left.problems] == ["b.png"]


# --- Bad files and bad questions: errors whatever on_bad says -------------------------------------


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "malformed JSON"),
        (json.dumps(CONTENT)[:-30], "malformed JSON"),
        ("[" * 100_000, "malformed JSON"),
        ("[]", "not COCO's format: it must have lists of images, annotations, categories"),
        ('{"images": [], "annotations": {}, "categories": []}', "not COCO's format"),
        (json.dumps(CONTENT | {"annotations": None}), "not COCO's format"),
        (json.dumps(CONTENT | {"categories": [{"id": 1}]}), "categories: missing key: name"),
        (json.dumps(CONTENT | {"categories": []}), "categories: there are none"),
        (json.dumps(CONTENT | {"categories": ["car"]}), "categories: not an object: 'car'"),
        (
            json.dumps(CONTENT | {"categories": [{"id": 3, "name": n} for n in ("car", "bus")]}),
            r"categories: two have the same id: \(3, 3\)",
        ),
        (
            json.dumps(CONTENT | {"categories": [{"id": n, "name": "car"} for n in (3, 4)]}),
            r"categories: two have the same name: \('car', 'car'\)",
        ),
    ],
)
def test_bad_files_are_named(folder, text, message, on_bad):
    (folder / "all.json").write_text(text)
    with pytest.raises(ValueError, match=rf"all\.json: {message}"):
        read(folder, on_bad=on_bad)


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_folder_and_file_must_be_there(folder, on_bad):
    with pytest.raises(FileNotFoundError, match="pictures: no such folder"):
        COCOFolder(folder / "pictures", folder / "all.json", on_bad=on_bad)
    with pytest.raises(FileNotFoundError, match=r"some\.json: no such file"):
        COCOFolder(folder / "images", folder / "some.json", on_bad=on_bad)


def test_something_must_be_left(folder):
    (folder / "all.json").write_text(json.dumps(CONTENT | {"images": [], "annotations": []}))
    with pytest.raises(ValueError, match="no image is left:\nimages: 0, objects: 0, problems: 0"):
        read(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_bad": "ignore"}, "on_bad must be 'raise' or 'skip', not 'ignore'"),
        ({"crowds": "drop"}, "crowds must be 'ignore' or 'keep', not 'drop'"),
        ({"class_names": ("car", "bus")}, "class_names must be 'background' and then"),
    ],
)
def test_senseless_arguments_are_named(folder, options, message):
    with refuses(message):
        read(folder, **options)


@pytest.mark.parametrize("name", ["background", "_background_"])  # the latter is labelme's
def test_a_category_called_background_is_no_class(folder, name):
    zero = {"id": 0, "name": name}
    spoil(folder, partial(append, kind="categories", entry=zero))
    assert read(folder).class_names == NAMES
    spoil(folder, partial(change, kind="annotations", category_id=0))
    with pytest.raises(ValueError, match=f"'{name}' means that there is no object"):
        read(folder)


def test_no_extra_is_needed(folder, monkeypatch):
    for name in ("pycocotools", "pycocotools.coco"):  # also if it was imported before
        monkeypatch.setitem(sys.modules, name, None)
    assert len(read(folder)) == 3


# --- A real data set, in both formats -------------------------------------------------------------


def as_coco(dataset: VOCFolder) -> dict:
    """What COCO's file would say of a folder in VOC's layout."""
    content = {"images": [], "annotations": [], "categories": []}
    for number, name in enumerate(dataset.class_names[1:]):
        append(content, "categories", {"id": 10 * number, "name": name})
    for number, record in enumerate(dataset.records):
        width, height = record.size
        image = {"id": number, "file_name": record.image.name, "width": width, "height": height}
        append(content, "images", image)
        boxes = np.round(record.boxes * np.tile(record.size, 2), 2)
        for name, (x0, y0, x1, y1) in zip(record.names, boxes.tolist()):
            thing = {
                "id": len(content["annotations"]),
                "image_id": number,
                "category_id": 10 * (dataset.class_names.index(name) - 1),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
            }
            append(content, "annotations", thing)
    return content


@pytest.mark.skipif(not BCCD.is_dir(), reason="the BCCD data set is not here")
def test_bccd_is_the_same_in_both_formats(tmp_path):
    voc = VOCFolder([(BCCD, "test")])
    (tmp_path / "test.json").write_text(json.dumps(as_coco(voc)))
    coco = COCOFolder(BCCD / "JPEGImages", tmp_path / "test.json")
    assert coco.class_names == voc.class_names
    assert len(coco) == len(voc)
    for index in range(len(voc)):
        expected, found = voc.target(index), coco.target(index)
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-6)
        assert torch.equal(found["labels"], expected["labels"])
    assert np.array_equal(coco[3][0], voc[3][0])
