"""What DATA means: the layouts of tools, their sets, and shares where there are none."""

import hashlib
import re
import unicodedata
from pathlib import Path

import pytest
from tool_files import (
    BOX,
    entry,
    thing,
    write_coco,
    write_coco_images,
    write_image,
    write_lists,
    write_pairs,
    write_xml,
)
from voc_files import object_xml

from ssd_annotated.data.find import find, in_share, split_data
from ssd_annotated.data.folder import AnnotatedFolder, open_data
from ssd_annotated.data.items import read_list
from ssd_annotated.data.kinds import understand

EVERY = ["a", "b", "c"]


def stems(dataset):
    return [record.image.stem for record in dataset.records]


# --- XML by name ----------------------------------------------------------------------------------

LAYOUTS = {  # images, XML, and how it is told
    "labelImg": (".", ".", "images with the XML of their name beside them"),
    "labelImg in a folder": ("photos", "photos", "images with the XML of their name beside them"),
    "annotations": ("images", "annotations", "images in images/, XML in annotations/"),
    "capitals": ("Images", "Annotations", "images in Images/, XML in Annotations/"),
    "VOC without lists": (
        "JPEGImages",
        "Annotations",
        "images in JPEGImages/, XML in Annotations/",
    ),
    "xmls": ("img", "xmls", "images in img/, XML in xmls/"),
    "labels": ("images", "labels", "images in images/, XML in labels/"),
    "in the folder itself": (
        ".",
        "annotations",
        "images in the folder itself, XML in annotations/",
    ),
    "any folders": ("photos", "boxes", "images in photos/, XML in boxes/"),
    "makesense": ("images", "labels_my-project-name_2026", "images in images/, XML in labels_my-"),
    "deep": ("a/images/2026", "a/xml/2026", "images in a/images/2026/, XML in a/xml/2026/"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_image_with_the_xml_of_its_name(tmp_path, case):
    images, texts, told = LAYOUTS[case]
    write_pairs(tmp_path / images, tmp_path / texts)
    dataset = open_data(tmp_path)
    assert stems(dataset) == EVERY
    assert dataset.class_names == ("background", "cat")
    for _, target in dataset:
        assert target["boxes"].tolist() == [pytest.approx(BOX)]
    (line,) = dataset.understood
    assert line.startswith(f"{tmp_path}: {told}")
    assert line.endswith("; taken: all (3 images)")
    assert dataset.notes == dataset.problems == []


def test_the_xml_may_be_beside_the_folder_that_is_named(tmp_path):
    write_pairs(tmp_path / "images/day", tmp_path / "annotations/day")
    assert stems(open_data(tmp_path / "images")) == EVERY


def test_names_with_dots_blanks_and_two_endings(tmp_path):
    names = ["IMG 1.2 (copy)", "cat_jpg.rf.0a1b2c", "v1.0.png"]
    for name in names:
        write_image(tmp_path / f"{name}.JPG")
        write_xml(tmp_path / f"{name}.xml")
    write_image(tmp_path / "d.png")
    write_xml(tmp_path / "d.png.xml")  # as some tools write
    assert stems(open_data(tmp_path)) == [*names[:2], "d", names[2]]


def test_images_without_annotation_are_said_and_left_out(tmp_path):
    write_pairs(tmp_path, tmp_path)
    for name in "defg":
        write_image(tmp_path / f"{name}.png")
    dataset = open_data(tmp_path)
    assert stems(dataset) == EVERY
    assert dataset.notes == ["4 images without annotation, left out: d.png, e.png, f.png, …"]
    assert dataset.problems == []


def test_images_without_annotation_are_said_whatever_their_name_and_set(tmp_path):
    write_pairs(tmp_path / "train", tmp_path / "train")
    for name in "adefg":  # an "a" has an annotation, but in another set
        write_image(tmp_path / f"valid/{name}.png")
    dataset = open_data(tmp_path)
    assert stems(dataset) == EVERY
    assert dataset.notes == ["5 images without annotation, left out: a.png, d.png, e.png, …"]
    write_pairs(tmp_path / "test", tmp_path / "test", "xy")
    assert open_data(tmp_path, wanted="train").notes == dataset.notes
    assert open_data(tmp_path, wanted="test").notes == []


def test_an_xml_file_that_says_the_ending_means_this_image(tmp_path):
    for name in ("a.jpg", "a.png"):
        write_image(tmp_path / name)
        write_xml(tmp_path / f"{name}.xml")
    dataset = open_data(tmp_path)
    pairs = {record.annotation.name: record.image.name for record in dataset.records}
    assert pairs == {"a.jpg.xml": "a.jpg", "a.png.xml": "a.png"}


@pytest.mark.parametrize("second", ["a.png.xml", "annotations/a.xml"])
def test_two_annotations_of_an_image_are_bad(tmp_path, second):
    write_pairs(tmp_path, tmp_path)
    write_xml(tmp_path / second)
    with pytest.raises(ValueError, match=r"xml: several annotations: a\.png has .*, .*a\.xml$"):
        open_data(tmp_path)
    dataset = open_data(tmp_path, on_bad="skip")
    assert stems(dataset) == ["b", "c"]
    assert {problem.file for problem in dataset.problems} == {tmp_path / "a.xml", tmp_path / second}


# One "ä" of two characters, as macOS writes it, and one of a single character.
TWO, ONE = (unicodedata.normalize(form, "Bär") for form in ("NFD", "NFC"))


@pytest.mark.parametrize(("image", "text"), [(ONE, TWO), (TWO, ONE), (TWO, TWO)])
def test_an_accent_may_be_a_character_of_its_own(tmp_path, image, text):
    assert len(TWO) == len(ONE) + 1
    write_image(tmp_path / f"flat/{image}.png")
    write_xml(tmp_path / f"flat/{text}.xml")
    write_image(tmp_path / f"flat/sub/{image}.png")  # nor is this its stem
    write_xml(tmp_path / f"flat/sub/{text}.xml")
    write_lists(tmp_path / "voc", train=f"{ONE}\n{TWO}.png\n")
    write_image(tmp_path / f"voc/JPEGImages/{image}.png")
    write_xml(tmp_path / f"voc/Annotations/{text}.xml")
    write_image(tmp_path / f"coco/images/{image}.png")
    write_coco(tmp_path / "coco/all.json", [entry(1, f"{text}.png")], [thing(1, 1)])
    assert stems(open_data(tmp_path / "flat")) == [image, image]
    assert stems(open_data(tmp_path / "coco")) == [image]
    with pytest.raises(ValueError, match="listed twice"):
        open_data(tmp_path / "voc")
    assert stems(open_data(tmp_path / "voc", on_bad="skip")) == [image]


def test_an_annotation_without_image_is_bad(tmp_path):
    write_pairs(tmp_path, tmp_path)
    write_xml(tmp_path / "lost.xml")
    expected = re.escape(f"{tmp_path}/lost.xml: no image: expected {tmp_path}/lost.jpg")
    with pytest.raises(FileNotFoundError, match=expected):
        open_data(tmp_path)
    dataset = open_data(tmp_path, on_bad="skip")
    assert stems(dataset) == EVERY
    assert [problem.file.name for problem in dataset.problems] == ["lost.xml"]


def test_two_images_of_a_name_are_bad_but_for_pictures_of_the_boxes(tmp_path):
    write_pairs(tmp_path / "JPEGImages", tmp_path / "Annotations")
    for name in "abc":  # labelme2voc's; VOC's segmentations lie likewise
        write_image(tmp_path / f"AnnotationsVisualization/{name}.jpg")
    dataset = open_data(tmp_path)
    assert {record.image.parent.name for record in dataset.records} == {"JPEGImages"}
    assert dataset.notes == []
    write_image(tmp_path / "JPEGImages/a.jpg")
    with pytest.raises(ValueError, match=r"a\.xml: several images: a\.jpg, a\.png"):
        open_data(tmp_path)


@pytest.mark.parametrize("inner", ["", "images|annotations"])
def test_folders_of_roboflow_are_sets(tmp_path, inner):
    images, _, texts = inner.partition("|")
    for folder, names in {"train": "abc", "valid": "de", "test": "fg"}.items():
        write_pairs(tmp_path / folder / images, tmp_path / folder / texts, names)
    assert stems(open_data(tmp_path)) == list("abcdefg")
    assert stems(open_data(tmp_path, wanted="train")) == EVERY
    assert stems(open_data(tmp_path, wanted="val")) == ["d", "e"]
    for name in ("val", "valid", "validation"):
        assert stems(open_data(f"{tmp_path}:{name}")) == ["d", "e"]
    told = "in train/images/, XML in train/annotations/, and so on" if inner else "beside them"
    assert find(tmp_path, "test").how.endswith(f"{told}; taken: test (2 images)")
    with pytest.raises(FileNotFoundError, match=r"no image set 'new'; there are: test, train, val"):
        find(tmp_path, "new")
    with pytest.raises(ValueError, match=r"has sets, train, val, test; .*:SET:0\.9 is a share of"):
        find(tmp_path, "0.9")
    shares = [open_data(f"{tmp_path}:train:{share}") for share in ("0.5", "-0.5")]
    assert sorted(stems(shares[0]) + stems(shares[1])) == EVERY
    assert (
        shares[0].understood[0].endswith(f"the share 0.5 of train ({len(shares[0])} of 3 images)")
    )
    assert stems(open_data(f"{tmp_path}:valid:.99")) == ["d", "e"]


def test_a_share_of_everything_is_one_of_all_sets(tmp_path):
    for folder, names in {"train": "abcdef", "test": "ghijkl"}.items():
        write_pairs(tmp_path / folder, tmp_path / folder, names)
    shares = [open_data(f"{tmp_path}:all:{share}") for share in ("0.5", "-0.5")]
    assert sorted(stems(shares[0]) + stems(shares[1])) == list("abcdefghijkl")
    assert shares[0].understood[0].endswith(f"0.5 of all ({len(shares[0])} of 12 images)")


def test_a_folder_that_is_one_set_can_be_divided(tmp_path):
    write_pairs(tmp_path / "train", tmp_path / "train", "abcdefghij")  # Roboflow, not divided
    shares = [stems(open_data(f"{tmp_path}:{share}")) for share in ("0.6", "-0.4")]
    assert sorted(shares[0] + shares[1]) == list("abcdefghij")
    for wanted in ("val", "test"):
        with pytest.raises(FileNotFoundError, match=r"there are: train\. Divide it into shares, "):
            find(tmp_path, None, wanted)


def test_what_is_taken_as_a_set_is_said(tmp_path):
    write_pairs(tmp_path, tmp_path)
    dataset = open_data(tmp_path, wanted="test")
    assert dataset.notes == [f"{tmp_path}: no sets, so all of it is taken as 'test'"]
    assert open_data(f"{tmp_path}:all", wanted="test").notes == []


def test_what_is_in_no_set_is_a_set_of_its_own(tmp_path):
    write_pairs(tmp_path / "test", tmp_path / "test", "ab")
    write_pairs(tmp_path / "more", tmp_path / "more", "cd")
    write_image(tmp_path / "test/x.png")
    write_image(tmp_path / "more/y.png")
    assert stems(open_data(tmp_path)) == ["a", "b", "c", "d"]
    assert stems(open_data(tmp_path, wanted="test")) == ["a", "b"]
    dataset = open_data(f"{tmp_path}:other")
    assert stems(dataset) == ["c", "d"]
    assert dataset.notes == ["1 image without annotation, left out: y.png"]
    with pytest.raises(FileNotFoundError, match="no image set 'train'; there are: other, test"):
        find(tmp_path, None, "train")


def test_sets_inside_the_folders_of_images(tmp_path):
    for name, names in {"train": "abc", "val": "ade"}.items():  # one "a" in each
        write_pairs(tmp_path / "images" / name, tmp_path / "annotations" / name, names)
    assert stems(open_data(tmp_path, wanted="train")) == EVERY
    dataset = open_data(tmp_path, wanted="val")
    assert stems(dataset) == ["a", "d", "e"]
    assert {r.annotation.parent.name for r in dataset.records} == {"val"}


def test_hidden_files_and_loops_of_links_are_left(tmp_path):
    write_pairs(tmp_path, tmp_path)
    write_pairs(tmp_path / ".thumbnails", tmp_path / ".thumbnails")
    write_image(tmp_path / "__MACOSX/a.png")
    (tmp_path / "._a.png").touch()
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert stems(open_data(tmp_path)) == EVERY


def test_images_behind_a_link_are_found(tmp_path):
    write_pairs(tmp_path / "disk", tmp_path / "data/annotations")
    (tmp_path / "data/images").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert stems(open_data(tmp_path / "data")) == EVERY


# --- VOC's lists ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg\nb.PNG\n",
        "JPEGImages/a.png\n./JPEGImages/b.png\n",
        "C:\\photos\\a.jpg\r\nC:\\photos\\b.jpg\r\n",
        "a.xml\nb.xml\n",
        "\n  a \n\n b\n",
    ],
)
def test_endings_and_folders_in_a_list_are_understood(tmp_path, text):
    write_lists(tmp_path, train=text)
    assert stems(open_data(tmp_path, wanted="train")) == ["a", "b"]


def test_other_files_beside_the_annotations_are_left_alone(tmp_path):
    write_lists(tmp_path, train="a\nb\n")
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder / "a.txt").write_text("a note")
    assert stems(open_data(tmp_path, wanted="train")) == ["a", "b"]


def test_a_list_from_powershell(tmp_path):
    write_lists(tmp_path)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a.jpg\r\nc.jpg\r\n", encoding="utf-16")
    assert stems(open_data(f"{tmp_path}:train")) == ["a", "c"]


def test_a_name_that_ends_like_an_image_is_taken_as_it_is(tmp_path):
    write_lists(tmp_path, train="d.png\n")
    write_image(tmp_path / "JPEGImages/d.png.png")
    write_xml(tmp_path / "Annotations/d.png.xml")
    assert stems(open_data(f"{tmp_path}:train")) == ["d.png"]


def test_of_a_class_list_the_images_with_the_class_are_taken(tmp_path):
    write_lists(tmp_path, cat_train="a  1\nb -1\nc  0\n", train="a\nb\nc\n")
    dataset = open_data(f"{tmp_path}:cat_train")
    assert stems(dataset) == ["a", "c"]
    file = tmp_path / "ImageSets/Main/cat_train.txt"
    assert dataset.notes == [f"{file}: the list of a class; taken: 2 of 3 lines, those with 1 or 0"]
    assert stems(open_data(tmp_path, wanted="train")) == EVERY


def test_names_that_look_like_a_class_list_are_names(tmp_path):
    for name in ("photo 1", "photo 0"):
        write_image(tmp_path / f"JPEGImages/{name}.png")
        write_xml(tmp_path / f"Annotations/{name}.xml")
    write_lists(tmp_path, train="photo 1\nphoto 0\n")
    dataset = open_data(f"{tmp_path}:train")
    assert stems(dataset) == ["photo 1", "photo 0"]
    assert dataset.notes == []


def test_vott_writes_class_lists_alone(tmp_path):
    write_lists(
        tmp_path,
        cat_train="a.png 1\nb.png -1",
        dog_train="a.png 1\nb.png 1",
        cat_val="c.png 1",
        dog_val="c.png -1",
    )
    dataset = open_data(tmp_path, wanted="train")
    assert stems(dataset) == ["a", "b"]
    lists = tmp_path / "ImageSets/Main/*_train.txt"
    said = "taken: the 2 images with 1 or 0 in any of 2 lists"
    assert dataset.notes == [f"{lists}: lists of classes; {said}"]
    assert stems(open_data(tmp_path, wanted="val")) == ["c"]
    assert stems(open_data(tmp_path)) == EVERY


def test_cvat_lists_everything_under_default(tmp_path):
    write_lists(tmp_path, default="sub/d\na\nb\nc\n")
    write_image(tmp_path / "JPEGImages/sub/d.png")
    write_xml(tmp_path / "Annotations/sub/d.xml")
    for wanted in ("all", "train", "test"):
        assert stems(open_data(tmp_path, wanted=wanted)) == ["d", *EVERY]
    with pytest.raises(FileNotFoundError, match=r"val.txt: no such image set; there are: default"):
        find(tmp_path, None, "val")
    shares = [stems(open_data(f"{tmp_path}:{share}")) for share in ("0.5", "-0.5")]
    assert sorted(shares[0] + shares[1]) == [*EVERY, "d"]


def test_lists_of_classes_beside_cvats_default_are_no_sets(tmp_path):
    write_lists(tmp_path, default="a\nb\nc\n", cat_default="a 1\nb -1\n", dog_default="")
    for wanted in ("train", "test"):
        assert stems(open_data(tmp_path, wanted=wanted)) == EVERY
    shares = [stems(open_data(f"{tmp_path}:{share}")) for share in ("0.5", "-0.5")]
    assert sorted(shares[0] + shares[1]) == EVERY
    assert stems(open_data(f"{tmp_path}:cat_default")) == ["a"]


def test_capitals_do_not_matter_in_the_names_of_sets(tmp_path):
    write_lists(tmp_path, Train="a\nb\n", Validation="c\n")
    for name in ("train", "Train", "training"):
        assert stems(open_data(f"{tmp_path}:{name}")) == ["a", "b"]
    assert stems(open_data(tmp_path, wanted="val")) == ["c"]


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["train", "val", "test"], ["train", "val", "test"]),
        (["train", "val", "trainval", "test", "cat_train"], ["trainval", "test"]),
        (["train"], ["train"]),
        (["train", "valid"], ["train", "valid"]),
        (["all"], ["all"]),
        (["mine"], ["mine"]),
        (["mine_train", "mine_val"], ["train", "val"]),
        (["Train", "Validation", "Test"], ["Train", "Validation", "Test"]),  # CVAT proposes these
        (["cat_Train", "cat_Test"], ["Train", "Test"]),
        (["default", "cat_default", "dog_default"], ["default"]),
    ],
)
def test_everything_is_taken_once(tmp_path, there, taken):
    write_lists(tmp_path, **dict.fromkeys(there, "a\nb\nc\n"))
    assert find(tmp_path).how.split("taken: ")[1].split(" (")[0] == ", ".join(taken)


def test_of_lists_that_nobody_knows_one_must_be_named(tmp_path):
    write_lists(tmp_path, mine="a\n", yours="b\n")
    with pytest.raises(FileNotFoundError, match=r"no such image set; there are: mine, yours$"):
        find(tmp_path)


def test_of_folders_with_lists_of_their_own_one_must_be_named(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        write_lists(tmp_path / year, train="a\n", test="b\n")
    with pytest.raises(ValueError, match=r"lists of their own; name one: .*VOC2007, .*VOC2012"):
        find(tmp_path)


def test_an_empty_class_list_is_an_empty_set(tmp_path):
    write_lists(tmp_path, cat_train="a -1\nb -1\n")
    with pytest.raises(ValueError, match=r"cat_train\.txt: the image set is empty"):
        find(tmp_path, "cat_train")
    lists = tmp_path / "ImageSets/Main"
    with pytest.raises(ValueError, match=r"train\.txt: the image set is empty"):
        read_list(lists, "train", EVERY, (".png",))


@pytest.mark.parametrize(
    "line", ["..", ".", "/", "C:\\", "a/..", "b\\..", "..jpg", "...jpg", ".. 1", ". -1\n.. 0"]
)
def test_a_line_that_no_file_can_be_named_by_is_refused(tmp_path, line):
    # Found by the fuzzer.
    lists = tmp_path / "ImageSets/Main"
    if " " in line:  # of a class: then every line is "name number"
        write_lists(tmp_path, cat_train=f"a 1\n\n{line}\n", dog_train="a 1\n")
    else:
        write_lists(tmp_path, train=f"a\n\n{line}\n")
    with pytest.raises(ValueError, match=r"/(cat_)?train\.txt: line [34] names no image: '.+'$"):
        read_list(lists, "train", EVERY, (".jpg",))


# --- Shares ---------------------------------------------------------------------------------------


def test_shares_divide_without_overlap_and_as_they_say():
    names = [f"photo{number:04}" for number in range(4000)]
    for share, rest in (("0.9", "-0.1"), (".75", "-.25"), ("0.35", "-0.65"), ("0.3", "-0.7")):
        first = {name for name in names if in_share(name, share)}
        last = {name for name in names if in_share(name, rest)}
        assert first | last == set(names)
        assert not first & last
        assert abs(len(first) / 4000 - float(share)) < 0.025  # 3 standard deviations
    nested = [{n for n in names if in_share(n, share)} for share in ("0.2", "0.5", "0.8")]
    assert nested[0] < nested[1] < nested[2]


def test_the_order_is_that_of_sha_256():
    names = ["a", "b", "c", "IMG 1"]
    for name in names:
        first = hashlib.sha256(name.encode()).hexdigest()[:16]
        assert in_share(name, "0.5") == (int(first, 16) < 2**63)


def test_only_the_name_counts():
    assert in_share("a", "0.6") == in_share("x/y/a.JPG", "0.6") == in_share("C:\\a.png", "0.6")
    for share in (".1", ".3", ".5", ".7", ".9"):
        copies = {in_share(f"cat_jpg.rf.{code}.jpg", share) for code in ("0a", "1b", "2c", "3d")}
        assert len(copies) == 1  # Roboflow's copies of one photograph stay together
        assert in_share("e\u0301", share) == in_share("\xe9", share)  # two ways to write é


def test_shares_of_a_folder_stay_when_it_grows(tmp_path):
    write_pairs(tmp_path, tmp_path, "abcdefghij")
    before = stems(open_data(f"{tmp_path}:0.7"))
    write_pairs(tmp_path, tmp_path, "klmnopqrst")
    after = stems(open_data(f"{tmp_path}:0.7"))
    assert before == [name for name in after if name in "abcdefghij"]
    rest = stems(open_data(f"{tmp_path}:-0.3"))
    assert sorted(after + rest) == list("abcdefghijklmnopqrst")
    how = find(tmp_path, "0.7").how
    assert how.endswith(f"taken: the share 0.7 ({len(after)} of 20 images)")


def test_shares_of_cocos_format_are_those_of_xml(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "xml", "abcdefghij")
    file = write_coco_images(tmp_path / "all.json", tmp_path / "images", "abcdefghij")
    for share in ("0.6", "-0.4"):
        expected = stems(open_data(f"{tmp_path / 'images'}:{share}"))
        assert stems(open_data(f"{file}:{share}")) == expected
        assert stems(open_data(f"{tmp_path / 'images'}:{file}:{share}")) == expected
        assert stems(open_data(f"{tmp_path}:{share}")) == expected
    with pytest.raises(ValueError, match=r"all\.json: 'train' is no share of it"):
        find(file, "train")


def test_an_empty_share_is_said(tmp_path):
    write_pairs(tmp_path, tmp_path, "a")
    share = "-0.5" if in_share("a", "0.5") else "0.5"
    with pytest.raises(ValueError, match=f"the share {share} is empty: none of 1 image"):
        find(tmp_path, share)
    file = write_coco_images(tmp_path / "all.json", tmp_path, "a")
    with pytest.raises(
        ValueError, match=rf"all\.json: the share {share} is empty: none of 1 image"
    ):
        find(file, share)


def test_nothing_is_validated_on_what_was_trained_on_unless_asked(tmp_path):
    write_pairs(tmp_path, tmp_path)
    root = re.escape(str(tmp_path))
    message = f"no image set 'val'; there are: none. Divide it into shares, {root}:0.9 to train on"
    with pytest.raises(FileNotFoundError, match=message):
        find(tmp_path, None, "val")
    assert stems(open_data(f"{tmp_path}:all", wanted="val")) == EVERY


# --- COCO's JSON ----------------------------------------------------------------------------------

JSONS = {  # file, images, what stands before the names
    "Roboflow": ("_annotations.coco.json", ".", ""),
    "Label Studio": ("result.json", "images", "images/"),
    "Label Studio's own disk": ("result.json", "images", "/data/local/upload/1/"),
    "Label Studio on Windows": ("result.json", "images", "images\\"),
    "labelme2coco": ("annotations.json", "JPEGImages", "JPEGImages/"),
    "CVAT": ("annotations/instances_default.json", "images", ""),
    "CVAT now": ("annotations/instances_default.json", "images/default", ""),
    "COCO": ("annotations/instances_train2017.json", "train2017", ""),
    "FiftyOne": ("labels.json", "data", ""),
    "beside its folder": ("annotations/all.json", "images", "../images/"),
    "a server": ("result.json", "images", "/data/local-files/?d=day%20one%2F"),
}


@pytest.mark.parametrize("case", JSONS)
def test_cocos_format_and_its_images_are_found(tmp_path, case):
    file, images, above = JSONS[case]
    write_coco_images(tmp_path / file, tmp_path / images, above=above)
    for data in (tmp_path, str(tmp_path / file), f"{tmp_path / images}:{tmp_path / file}"):
        dataset = open_data(data)
        assert stems(dataset) == EVERY
        assert dataset.class_names == ("background", "cat")
        assert dataset[0][1]["boxes"].tolist() == [pytest.approx(BOX)]
    taken = "train" if case == "COCO" else "all"
    held_by = tmp_path if above in ("images/", "images\\", "JPEGImages/") else tmp_path / images
    how = f"{tmp_path}: COCO's JSON in {file}; taken: {taken} (3 images in {held_by})"
    assert open_data(tmp_path).understood == [how]


def test_sets_of_cocos_format(tmp_path):
    for name, names in {"train": "abc", "valid": "de", "test": "f"}.items():
        write_coco_images(
            tmp_path / f"rf/{name}/_annotations.coco.json", tmp_path / "rf" / name, names
        )
    for name, names in {"train2017": "abc", "val2017": "de"}.items():
        file = tmp_path / f"coco/annotations/instances_{name}.json"
        write_coco_images(file, tmp_path / "coco" / name, names)
        for other in ("captions", "person_keypoints"):
            file.with_name(f"{other}_{name}.json").write_bytes(file.read_bytes())
    for root in ("rf", "coco"):
        assert stems(open_data(tmp_path / root, wanted="train")) == EVERY
        assert stems(open_data(f"{tmp_path / root}:val")) == ["d", "e"]
    assert stems(open_data(tmp_path / "rf")) == list("abcdef")
    assert stems(open_data(tmp_path / "coco")) == list("abcde")


@pytest.mark.parametrize("ending", [".json", ".png.json"])
def test_cocos_file_among_one_for_each_image_is_found(tmp_path, ending):
    names = "abcdefghijklmnopqrstuvwxyz"
    write_coco_images(tmp_path / "from_labelme.json", tmp_path, names)
    for name in names:
        (tmp_path / f"{name}{ending}").write_text('{"shapes": []}')
    assert stems(open_data(tmp_path)) == list(names)


def test_trainval_of_cocos_format_is_a_set(tmp_path):
    write_coco_images(tmp_path / "instances_trainval.json", tmp_path / "images", "abc")
    write_coco_images(tmp_path / "instances_test.json", tmp_path / "images", "d")
    everything = open_data(tmp_path)
    assert stems(everything) == [*EVERY, "d"]
    told = f"taken: trainval, test (4 images in {tmp_path / 'images'})"
    assert everything.understood[0].endswith(told)
    assert stems(open_data(f"{tmp_path}:trainval")) == EVERY


def test_of_cocos_files_those_in_no_set_are_said(tmp_path):
    for name in ("train", "val", "more"):
        write_coco_images(tmp_path / f"{name}.json", tmp_path, "ab")
    said = f"{tmp_path / 'more.json'}: in no set by its name, left out"
    assert open_data(tmp_path, wanted="train").notes == [said]
    assert open_data(tmp_path, wanted="val").notes == []
    for name in ("train", "val"):
        (tmp_path / f"{name}.json").unlink()
    assert open_data(tmp_path).notes == []


def test_home_is_understood_behind_the_colon_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_coco_images(tmp_path / "all.json", tmp_path / "images")
    assert stems(open_data(f"{tmp_path / 'images'}:~/all.json")) == EVERY
    shares = [stems(open_data(f"{tmp_path / 'images'}:~/all.json:{s}")) for s in ("0.5", "-0.5")]
    assert sorted(shares[0] + shares[1]) == EVERY


def test_the_folder_of_images_is_found_even_if_the_first_is_lost(tmp_path):
    write_coco_images(tmp_path / "all.json", tmp_path / "images")
    (tmp_path / "images/a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"image 0: no image: expected .*/images/a\.png$"):
        open_data(tmp_path)
    assert stems(open_data(tmp_path, on_bad="skip")) == ["b", "c"]


def test_a_folder_that_lacks_twenty_images_is_not_the_folder_of_images(tmp_path):
    names = "abcdefghijklmnopqrstuvwxyz"
    write_coco_images(tmp_path / "all.json", tmp_path / "images", names)
    for name in names[:19]:
        (tmp_path / f"images/{name}.png").unlink()
    assert stems(open_data(tmp_path, on_bad="skip")) == list(names[19:])
    (tmp_path / "images/t.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no folder near it holds a\.png; give IMAGES:"):
        open_data(tmp_path, on_bad="skip")


def test_one_of_several_files_must_be_named(tmp_path):
    for name in ("mine", "yours"):
        write_coco_images(tmp_path / f"{name}.json", tmp_path)
    with pytest.raises(
        ValueError, match=r"several files in COCO's format; .*mine\.json, .*yours\."
    ):
        find(tmp_path)


def test_an_empty_file_beside_cocos_is_not_taken_for_it(tmp_path):
    (tmp_path / "empty.json").touch()
    write_coco_images(tmp_path / "all.json", tmp_path / "images")
    assert stems(open_data(tmp_path)) == EVERY


def test_entries_without_a_name_lead_to_the_files_own_folder(tmp_path):
    file = write_coco(tmp_path / "all.json", [{"id": 1}, {"id": 2, "file_name": None}], [])
    with pytest.raises(ValueError, match=r"all\.json, image 1: missing key: file_name is absent"):
        open_data(file)


def test_images_that_are_nowhere_near(tmp_path):
    write_coco(tmp_path / "a/b/all.json", [entry(1, "x.png")], [thing(1, 1)])
    write_image(tmp_path / "a/b/other.png")
    with pytest.raises(FileNotFoundError, match=r"all\.json: no folder near it holds x\.png; give"):
        open_data(tmp_path / "a")


# --- Several, and none ----------------------------------------------------------------------------


def test_folders_of_all_kinds_can_be_joined(tmp_path):
    write_pairs(tmp_path / "flat", tmp_path / "flat", "xy")
    write_xml(tmp_path / "flat/x.xml", object_xml("ant", (1, 1, 9, 9)))
    write_coco_images(tmp_path / "coco/all.json", tmp_path / "coco", "a")
    categories = {"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}
    file = write_image(tmp_path / "more/m.png").with_name("all.json")
    write_coco(file, [entry(1, "m.png")], [thing(1, 1)], *categories)
    dataset = open_data(tmp_path / "coco", tmp_path / "flat", str(file))
    assert stems(dataset) == ["x", "y", "a", "m"]
    assert dataset.class_names == ("background", "ant", "cat", "dog")
    labels = [target["labels"].tolist() for _, target in dataset]
    assert labels == [[1], [2], [2], [3]]
    assert len(dataset.understood) == 3
    names = ("background", "cat", "dog", "ant")
    again = open_data(tmp_path / "coco", tmp_path / "flat", class_names=names)
    assert again.class_names == names
    assert [again.target(index)["labels"].tolist() for index in range(3)] == [[3], [1], [1]]
    with pytest.raises(ValueError, match="give at least one folder"):
        open_data()


def test_of_nothing_no_image_is_left():
    with pytest.raises(ValueError, match="no image is left"):
        AnnotatedFolder([])


def test_a_file_in_cocos_format_counts_once(tmp_path):
    file = write_coco_images(tmp_path / "all.json", tmp_path, "ab")
    with pytest.raises(ValueError, match=r"all\.json, image 0: listed twice: a\.png"):
        open_data(file, file)
    assert stems(open_data(file, file, on_bad="skip")) == ["a", "b"]


UNKNOWN = {
    "nothing": ([], FileNotFoundError, r"no image in this folder; looked for \.jpg, "),
    "XML alone": (["a.xml"], FileNotFoundError, "no image in this folder"),
    "images alone": (["a.png"], ValueError, "1 image, but no annotations: expected VOC's lists"),
    "YOLO": (["a.png", "a.txt"], ValueError, r"also 1 \.txt \(YOLO's must be converted\)"),
    "labelme": (["a.png", "a.json"], ValueError, r"also 1 \.json \(they are not COCO's; labelme"),
    "others": (["a.png", "b.png", "c.xml"], ValueError, r"1 \.xml \(none has an image's name"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_there_is_said_of_a_folder_of_no_kind(tmp_path, case):
    files, error, message = UNKNOWN[case]
    for name in files:
        if name.endswith("png"):
            write_image(tmp_path / "folder" / name)
        else:
            (tmp_path / "folder").mkdir(exist_ok=True)
            (tmp_path / "folder" / name).write_text('{"shapes": []}')
    (tmp_path / "folder").mkdir(exist_ok=True)
    with pytest.raises(error, match=f"folder: {message}|folder: .*{message}"):
        understand(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match=r"lost: no such folder$"):
        understand(tmp_path / "lost")
    (tmp_path / "export.zip").touch()
    with pytest.raises(FileNotFoundError, match=r"export\.zip: no such folder: unpack it"):
        understand(tmp_path / "export.zip")
    write_image(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"a\.png: no such folder: it is a file$"):
        understand(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a:0.9", ("a", "0.9")), ("a:-0.1", ("a", "-0.1")), ("i:a.json:0.9", ("i:a.json", "0.9"))],
)
def test_shares_are_split_off(text, parts):
    assert split_data(text) == parts


def test_a_name_with_a_colon_may_be_that_of_a_folder(tmp_path):
    folder = tmp_path / "shift:2026"
    write_pairs(folder, folder)
    for data in (folder, f"{folder}", f"{folder}:all"):
        assert stems(open_data(data)) == EVERY


def test_paths_are_not_split():
    with pytest.raises(FileNotFoundError, match=r"a:b: no such folder"):
        open_data(Path("a:b"))
