"""Folders in VOC's layout: the files are read correctly, and nothing bad passes in silence."""

import pickle
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses
from voc_files import CAT, DOG, HEIGHT, WIDTH, edit, noise, object_xml, write, write_two

from ssd_annotated.data import pixels
from ssd_annotated.data.annotation import Problem
from ssd_annotated.data.graffiti import CLASS_NAMES as DIGITS
from ssd_annotated.data.graffiti import GraffitiDigits, export_voc
from ssd_annotated.data.pixels import read_orientation
from ssd_annotated.data.voc import VOCFolder
from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.model import Recipe
from ssd_annotated.transforms import collate

BCCD = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"
needs_bccd = pytest.mark.skipif(not BCCD.is_dir(), reason="the BCCD data set is not here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_two(tmp_path)


# --- What is in the files comes out ---------------------------------------------------------------


def test_an_item_is_an_image_and_a_target(folder):
    flags = "<difficult>1</difficult><truncated>True</truncated>"
    write(
        folder, "c", object_xml("dog", (1, 1, 20, 30), flags), object_xml("emu", (1, 1, 9, 9), "")
    )
    dataset = VOCFolder([(folder, "train")])
    assert dataset.class_names == ("background", "cat", "dog", "emu")
    assert len(dataset) == 3
    image, target = dataset[1]
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert np.array_equal(image, noise())  # RGB
    assert target["boxes"].dtype == torch.float32
    expected = [[10 / 40, 6 / 30, 20 / 40, 21 / 30], [0, 0, 1, 1]]
    assert torch.equal(target["boxes"], torch.tensor(expected))
    assert target["labels"].tolist() == [2, 1]
    assert target["labels"].dtype == torch.int64
    assert target["difficult"].tolist() == [False, False]
    assert dataset[-1][1]["difficult"].tolist() == [True, False]
    assert dataset[-1][1]["truncated"].tolist() == [True, False]
    assert dataset[-1][1]["truncated"].dtype == torch.bool
    assert dataset.report() == "images: 3, objects: 5, problems: 0"


def test_exported_digits_come_back_exactly(tmp_path):
    digits = GraffitiDigits("test", "tiny", length=4)
    export_voc(digits, tmp_path)
    dataset = VOCFolder([(str(tmp_path), "test")], DIGITS)
    assert len(dataset) == 4
    for (image, target), (read, found) in zip(digits, dataset):
        assert abs(read.astype(int) - image).mean() < 6  # JPEG
        assert ((found["boxes"] - target["boxes"]).abs() * 128 < 0.5).all()
        assert torch.equal(found["boxes"], target["boxes"])  # these lie on whole pixels
        assert torch.equal(found["labels"], target["labels"])
        assert torch.equal(found["difficult"], target["difficult"])


def test_several_roots_and_sets(folder, tmp_path):
    other = tmp_path / "other"
    write(other, "a", object_xml("ape", (1, 1, 5, 5)))
    (other / "ImageSets/Main/val.txt").write_text("z\r\n\r\n")
    write(other, "z")
    (other / "ImageSets/Main/train.txt").write_text("\ufeffa\n", encoding="utf-8")
    dataset = VOCFolder([(folder, "train"), (other, "train"), (other, "val")])
    assert [record.image.stem for record in dataset.records] == ["a", "b", "a", "z"]
    assert dataset.class_names == ("background", "ape", "cat", "dog")
    target = dataset[3][1]  # an image without objects
    assert target["boxes"].shape == (0, 4)
    assert [target[key].shape for key in ("labels", "difficult", "truncated")] == [(0,)] * 3


def test_names_given_keep_their_order(folder):
    names = ["background", "dog", "bird", "cat"]
    dataset = VOCFolder([(folder, "train")], names)
    assert dataset.class_names == tuple(names)
    assert dataset[1][1]["labels"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((0, 0, 20, 15), (0, 0, 20, 15)),  # from 0: the border
        ((1, 1, 20, 15), (0, 0, 20, 15)),
        ((0.5, 1.5, 40, 29.5), (0, 0.5, 40, 29.5)),  # VOC 2012 has such boxes
        ((39, 29, 40, 30), (38, 28, 40, 30)),
    ],
)
def test_boxes_count_from_one(tmp_path, box, pixels):
    write(tmp_path, "a", object_xml("cat", box))
    found = VOCFolder([(tmp_path, "train")])[0][1]["boxes"] * torch.tensor([40, 30, 40, 30])
    torch.testing.assert_close(found, torch.tensor([pixels], dtype=torch.float32))


@pytest.mark.parametrize(
    ("box", "pixels", "excess"),
    [
        ((11, 7, 41, 21), (10, 6, 40, 21), "1 px"),  # the fault of one pixel
        ((-5, 7, 20, 21), (0, 6, 20, 21), "5 px"),
        ((11, -0.5, 20, 21), (10, 0, 20, 21), "0.5 px"),
        ((11, 7, 20, 33.5), (10, 6, 20, 30), "3.5 px"),
        ((-20, 7, 20, 21), (0, 6, 20, 21), "20 px"),  # half of it is left: just enough
        ((0, 0, 40.05, 30.05), (0, 0, 40, 30), None),  # rounding
    ],
)
def test_a_box_that_sticks_out_is_cut_and_counted(tmp_path, box, pixels, excess):
    write(tmp_path, "a", object_xml("cat", box))
    dataset = VOCFolder([(tmp_path, "train")])
    found = dataset[0][1]["boxes"] * torch.tensor([40, 30, 40, 30])
    torch.testing.assert_close(found, torch.tensor([pixels], dtype=torch.float32))
    said = [] if excess is None else [f"1 box cut at the border, the furthest by {excess}"]
    assert dataset.notes == said


def test_cut_boxes_are_counted_together_and_are_no_problem(folder):
    for number, box in enumerate([(-5, 1, 20, 9), (1, 1, 41, 9), (30, 20, 42, 31)]):
        write(folder, f"cut{number}", object_xml("cat", box))
    dataset = VOCFolder([(folder, "train")])
    assert dataset.report().splitlines() == [
        "images: 5, objects: 6, problems: 0",
        "3 boxes cut at the border, the furthest by 5 px",
    ]


NO_SIZE = {
    "no tag": ("<size><width>40</width><height>30</height><depth>3</depth></size>", ""),
    "0 × 0": ("<width>40</width><height>30<", "<width>0</width><height>0<"),
    "0 × 30": ("<width>40<", "<width>0<"),
    "empty": ("<width>40</width><height>30<", "<width/><height><"),
}


@pytest.mark.parametrize("case", NO_SIZE)
def test_without_a_size_the_image_knows_it(folder, case):
    before = VOCFolder([(folder, "train")]).target(1)
    for name in "ab":
        edit(folder / f"Annotations/{name}.xml", *NO_SIZE[case])
    dataset = VOCFolder([(folder, "train")])
    assert [record.size for record in dataset.records] == [(40, 30)] * 2
    assert torch.equal(dataset.target(1)["boxes"], before["boxes"])
    assert dataset.notes == ["2 annotations without a size: the image's own is taken"]


def test_without_a_size_nobody_can_tell_which_way_up(tmp_path):
    write(tmp_path, "a", object_xml("cat", (1, 1, 9, 9)))
    edit(tmp_path / "Annotations/a.xml", *NO_SIZE["0 × 0"])
    with_orientation(tmp_path / "JPEGImages/a.png", 6)
    dataset = VOCFolder([(tmp_path, "train")])
    assert np.array_equal(dataset[0][0], noise())  # as stored
    assert dataset.undecided == 1


def test_parts_of_objects_are_no_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
    write(tmp_path, "a", object_xml("cat", (3, 4, 20, 15), part))
    dataset = VOCFolder([(tmp_path, "train")])
    assert dataset.class_names == ("background", "cat")
    assert dataset[0][1]["boxes"][0, 0] == torch.tensor(2 / 40)


def test_moving_a_box_moves_it_once(folder):
    dataset = VOCFolder([(folder, "train")])
    before = dataset[0][1]["boxes"].clone()
    dataset[0][1]["boxes"].zero_()
    assert torch.equal(dataset[0][1]["boxes"], before)


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_workers_read_the_same(folder, on_bad):
    dataset = pickle.loads(pickle.dumps(VOCFolder([(folder, "train")], on_bad=on_bad)))
    loader = torch.utils.data.DataLoader(dataset, batch_size=1, num_workers=2, collate_fn=list)
    items = [batch[0] for batch in loader]
    assert len(items) == 2
    for (image, target), (read, found) in zip(dataset, items):
        assert np.array_equal(image, read)
        assert all(torch.equal(value, found[key]) for key, value in target.items())


def test_items_fit_the_collation_and_the_loss(folder):
    dataset = VOCFolder([(folder, "train")])
    images, targets = collate(list(dataset), Recipe(16, dataset.class_names))
    assert images.shape == (2, 3, 16, 16)
    priors = torch.tensor([[0.5, 0.5, 1, 1], [0.4, 0.4, 0.3, 0.5]])
    predictions = torch.zeros(2, 2, 4), torch.zeros(2, 2, 3)
    assert MultiBoxLoss(priors)(predictions, targets).num_positives == 3


# --- XML as tools write it ------------------------------------------------------------------------


NAMES = "<folder>x</folder><filename>{name}</filename><path>{path}</path>"
WRITTEN = {  # what stands before the size, and how it is encoded
    "byte order mark": (NAMES, "utf-8-sig", None),
    "UTF-16": (NAMES, "utf-16", "utf-16"),
    "UTF-16 that says UTF-8": (NAMES, "utf-16", "utf-8"),
    "GBK": (NAMES.format(name="图.jpg", path="D:\\图片\\图.jpg"), "gbk", "gbk"),
    "GBK that says UTF-8": (NAMES.format(name="图.jpg", path="D:\\图片"), "gbk", "utf-8"),
    "Latin-1 that says nothing": (NAMES.format(name="Müll.jpg", path="C:\\Müll"), "latin-1", None),
    "ampersand": (NAMES.format(name="salt & pepper.jpg", path="a&b&amp;c&#100;"), "utf-8", "utf-8"),
    "Windows": (NAMES.format(name="C:\\a.JPG", path="..\\images\\other.jpg"), "utf-8", "utf-8"),
}


@pytest.mark.parametrize("before", ["", "\n  "])
@pytest.mark.parametrize("case", WRITTEN)
def test_encodings_and_paths_of_other_machines(folder, case, before):
    head, encoding, declared = WRITTEN[case]
    file = folder / "Annotations/b.xml"
    expected = VOCFolder([(folder, "train")]).target(1)
    text = file.read_text().replace("<annotation>", f"<annotation>{head}")
    declaration = f"<?xml version='1.0' encoding='{declared}'?>\n" if declared else ""
    file.write_bytes((before + declaration + text).encode(encoding))
    found = VOCFolder([(folder, "train")]).target(1)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_a_class_that_cannot_be_decoded_is_no_class(folder):
    file = folder / "Annotations/b.xml"
    file.write_bytes(file.read_text().replace("dog", "Hündin").encode("latin-1"))
    with pytest.raises(ValueError, match=r"b\.xml, object 1 \(H.ndin\): wrong encoding: <name> is"):
        VOCFolder([(folder, "train")])
    text = '<?xml version="1.0" encoding="latin-1"?>' + file.read_bytes().decode("latin-1")
    file.write_bytes(text.encode("latin-1"))
    assert VOCFolder([(folder, "train")]).class_names == ("background", "Hündin", "cat")


def test_what_tools_write_into_an_object(tmp_path):
    flags = "<truncated>Unspecified</truncated><difficult>Unspecified</difficult>"  # makesense.ai
    polygon = "<polygon><x1>12</x1><y1>8</y1></polygon><occluded>0</occluded>"  # Roboflow
    attributes = (
        "<attributes><attribute><name>track_id</name><value>1</value></attribute></attributes>"
    )
    write(
        tmp_path,
        "a",
        object_xml(" cat \n", ("11.0", " 7 ", "20.0", "2.1e1"), flags),
        object_xml("cat", DOG[1], polygon),
        object_xml("cat", DOG[1], attributes),  # CVAT
        size=("40.0", " 30 "),
    )
    dataset = VOCFolder([(tmp_path, "train")])
    assert dataset.class_names == ("background", "cat")
    expected = [10 / 40, 6 / 30, 20 / 40, 21 / 30]
    assert dataset[0][1]["boxes"].tolist() == [pytest.approx(expected)] * 3
    assert dataset[0][1]["difficult"].tolist() == [False] * 3


def test_an_object_without_a_box_is_named(folder):
    thing = "<object><name>dog</name></object>"
    edit(folder / "Annotations/b.xml", "</annotation>", thing + "</annotation>")
    with pytest.raises(
        ValueError, match=r"object 3 \(dog\): missing tag: <bndbox><xmin> is absent"
    ):
        VOCFolder([(folder, "train")])
    assert len(VOCFolder([(folder, "train")], on_bad="skip")[1][1]["labels"]) == 2


def test_cocos_format_is_read_by_another_class(tmp_path):
    for name in ("a.png", "all.json"):
        (tmp_path / name).write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(
        ValueError, match=r"COCO's JSON in all\.json.*: no XML; read it with COCOFo"
    ):
        VOCFolder([(tmp_path, "all")])


# --- Images of every kind -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("L", ".png"),
        ("L", ".jpg"),
        ("I;16", ".png"),
        ("CMYK", ".JPG"),
        ("RGBA", ".png"),
        ("P", ".bmp"),
    ],
)
def test_every_kind_becomes_8_bit_rgb(tmp_path, mode, suffix):
    write(tmp_path, "a", object_xml(*CAT))
    (tmp_path / "JPEGImages/a.png").unlink()
    colour = Image.fromarray(noise())
    grey = np.asarray(colour.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    picture = deep if mode == "I;16" else colour.convert(mode)
    expected = np.stack([grey] * 3, axis=2) if mode in ("L", "I;16") else noise()
    picture.save(tmp_path / f"JPEGImages/a{suffix}")
    image, _ = VOCFolder([(tmp_path, "train")])[0]
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    assert abs(image.astype(int) - expected).mean() < (20 if mode == "P" else 5)


def with_orientation(file: Path, orientation: int, width: int = WIDTH) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(width)).save(file, exif=exif)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize(
    ("orientation", "size", "turns", "undecided"),
    [
        (1, (40, 30), 0, 0),
        (6, (40, 30), 0, 0),  # the tool ignored the orientation, as VOC's own code does
        (6, (30, 40), 3, 0),  # the tool turned the photograph
        (8, (30, 40), 1, 0),
        (3, (40, 30), 0, 1),  # upside down or not: the size is the same
        (9, (40, 30), 0, 0),  # no orientation at all
    ],
)
def test_the_size_says_which_way_up(tmp_path, orientation, size, turns, undecided, suffix):
    write(tmp_path, "a", object_xml("cat", (1, 1, 9, 9)), size=size)
    (tmp_path / "JPEGImages/a.png").unlink()
    with_orientation(tmp_path / f"JPEGImages/a{suffix}", orientation)
    dataset = VOCFolder([(tmp_path, "train")])
    found = dataset[0][0].astype(int)
    assert abs(found - np.rot90(noise(), turns)).mean() < 3
    assert dataset.undecided == undecided
    dataset.verify()


def test_a_square_cannot_say_which_way_up(tmp_path):
    write(tmp_path, "a", object_xml("cat", (1, 1, 9, 9)), size=(30, 30))
    with_orientation(tmp_path / "JPEGImages/a.png", 6, width=30)
    dataset = VOCFolder([(tmp_path, "train")])
    assert np.array_equal(dataset[0][0], noise(30))
    assert dataset.undecided == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "block", [None, b"", b"Exif\0\0", b"Exif\0\0MM\0*", b"MM\0*\0\0\0\x08\0\x01\x01", b"?" * 9]
)
def test_nonsense_in_exif_is_no_orientation(block):
    assert read_orientation(block) == 1


# --- Bad objects ----------------------------------------------------------------------------------


def spoilt_box(**sides: object):
    """An edit of the dog's box, 11, 7, 20, 21."""
    box = dict(zip(("xmin", "ymin", "xmax", "ymax"), DOG[1]))

    def spoil(file: Path) -> None:
        for side, value in sides.items():
            edit(file, f"<{side}>{box[side]}<", f"<{side}>{value}<")

    return spoil


BAD_OBJECTS = {
    "one column": (spoilt_box(xmax=11), "degenerate box: xmin 11, ymin 7, xmax 11, ymax 21"),
    "one row": (spoilt_box(ymax=7), "degenerate box: xmin 11, ymin 7, xmax 20, ymax 7"),
    "upside down": (spoilt_box(ymax=6), "degenerate box: xmin 11, ymin 7, xmax 20, ymax 6"),
    "left": (spoilt_box(xmin=-9, xmax=0), "box outside the image: xmin -9, .*image is 40 × 30"),
    "top": (spoilt_box(ymin=-9.5, ymax=-1), "box outside the image: .*ymin -9.5"),
    "right": (spoilt_box(xmin=41, xmax=50), "box outside the image: xmin 41"),
    "below": (spoilt_box(ymin=31, ymax=40), "box outside the image: .*ymin 31"),
    "mostly left": (
        spoilt_box(xmin=-30),
        "box mostly outside the image: xmin -30, .*; 40% of it lies in the image of 40 × 30",
    ),
    "mostly below": (spoilt_box(ymax=55), "box mostly outside the image: .*; 49% of it"),
    "word": (spoilt_box(xmin="ten"), "not a number: <bndbox><xmin> is 'ten'"),
    "nan": (spoilt_box(ymax="nan"), "not a number: <bndbox><ymax> is 'nan'"),
    "infinite": (spoilt_box(ymax="inf"), "not a number: <bndbox><ymax> is 'inf'"),
    "empty": (spoilt_box(ymin=""), "missing tag: <bndbox><ymin> is absent or empty"),
    "no side": (partial(edit, old="<xmin>11</xmin>", new=""), "missing tag: <bndbox><xmin>"),
    "flag": (partial(edit, old="lt>0<", new="lt>2<"), "neither 0 nor 1: <difficult> is '2'"),
    "class": (partial(edit, old="dog", new="dgo"), "unknown class: 'dgo' is none of cat, dog"),
    "nothing": (partial(edit, old="dog", new="background"), "unknown class: 'background'"),
    "no class": (partial(edit, old="<name>dog</name>", new=""), "missing tag: <name>"),
    "blank class": (partial(edit, old="dog", new="  "), "missing tag: <name> is absent or empty"),
}


NAMED = {"class": "dgo", "nothing": "background"} | dict.fromkeys(
    ("no class", "blank class"), "without a name"
)


@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_a_bad_object_is_named_or_left_out(folder, case):
    spoil, message = BAD_OBJECTS[case]
    file = folder / "Annotations/b.xml"
    spoil(file)
    names = ("background", "cat", "dog")
    who = NAMED.get(case, "dog")
    with pytest.raises(ValueError, match=rf"b\.xml, object 1 \({who}\): {message}"):
        VOCFolder([(folder, "train")], names)
    dataset = VOCFolder([(folder, "train")], names, on_bad="skip")
    assert len(dataset) == 2
    assert dataset[1][1]["labels"].tolist() == [1]
    ((where, thing, what),) = dataset.problems
    assert where == file
    assert thing == f"object 1 ({who})"
    assert dataset.report().splitlines() == [
        "images: 2, objects: 2, problems: 1",
        f"1 × {what.partition(':')[0]}",
        f"- {file}, {thing}: {what}",
    ]


def test_background_is_no_class_to_discover(folder):
    edit(folder / "Annotations/b.xml", "dog", "background")
    with pytest.raises(ValueError, match="'background' means that there is no object"):
        VOCFolder([(folder, "train")])


# --- Bad images -----------------------------------------------------------------------------------


def cut(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


def annotation(spoil):
    return lambda folder: spoil(folder / "Annotations/b.xml")


def picture(spoil):
    return lambda folder: spoil(folder / "JPEGImages/b.png")


WIDE = partial(edit, old="<width>40<", new="<width>41<")
BOMB = '<!DOCTYPE annotation [<!ENTITY a "ha">]><annotation>&a;</annotation>'
BAD_IMAGES = {
    "no annotation": (annotation(Path.unlink), FileNotFoundError, "no such annotation file"),
    "half an annotation": (annotation(partial(cut, share=0.5)), ValueError, "malformed XML"),
    "empty annotation": (annotation(partial(cut, share=0)), ValueError, "malformed XML"),
    "entities": (annotation(lambda f: f.write_text(BOMB)), ValueError, "malformed XML: Entities"),
    "encoding": (
        annotation(lambda f: f.write_text('<?xml version="1.0" encoding="utf-5"?><annotation/>')),
        ValueError,
        "malformed XML: unknown encoding: utf-5",
    ),
    "another XML": (
        annotation(lambda f: f.write_text("<svg/>")),
        ValueError,
        "no annotation: .*svg",
    ),
    "CVAT's XML": (
        annotation(lambda f: f.write_text("<annotations><version>1.1</version></annotations>")),
        ValueError,
        "no annotation: the outermost tag is <annotations> .CVAT's own format: export as Pascal",
    ),
    "negative size": (
        annotation(partial(edit, old="<width>40<", new="<width>-40<")),
        ValueError,
        "impossible size: -40 × 30",
    ),
    "half a pixel": (
        annotation(partial(edit, old="<width>40<", new="<width>40.5<")),
        ValueError,
        "impossible size: 40.5 × 30",
    ),
    "wrong size": (annotation(WIDE), ValueError, r"wrong size: .*41 × 30, .*b\.png is 40 × 30"),
    "no image": (
        picture(Path.unlink),
        FileNotFoundError,
        r"no image: expected .*JPEGImages.b\.jpg",
    ),
    "two images": (
        picture(lambda f: shutil.copy(f, f.with_suffix(".jpg"))),
        ValueError,
        r"several images: b\.jpg, b\.png",
    ),
    "no picture": (
        picture(lambda f: f.write_text("lost")),
        ValueError,
        r"corrupt image: b\.png: ",
    ),
    "empty picture": (picture(partial(cut, share=0)), ValueError, r"corrupt image: b\.png: "),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_named_or_left_out(folder, case):
    spoil, error, message = BAD_IMAGES[case]
    spoil(folder)
    with pytest.raises(error, match=rf"Annotations.b\.xml: {message}"):
        VOCFolder([(folder, "train")])
    dataset = VOCFolder([(folder, "train")], on_bad="skip")
    assert [record.image.stem for record in dataset.records] == ["a"]
    assert [(file.name, thing) for file, thing, _ in dataset.problems] == [("b.xml", "")]
    assert dataset.class_names == ("background", "cat")


@pytest.mark.parametrize("again", [["train"], ["train", "val"]])
def test_an_id_counts_once(folder, again):
    listing = folder / f"ImageSets/Main/{again[-1]}.txt"
    listing.write_text("a\nb\nb\n" if again == ["train"] else "b\n")
    sets = [(folder, name) for name in again]
    with pytest.raises(ValueError, match=rf"{again[-1]}\.txt: listed twice: b"):
        VOCFolder(sets)
    dataset = VOCFolder(sets, on_bad="skip")
    assert [record.image.stem for record in dataset.records] == ["a", "b"]
    assert dataset.problems == [Problem(listing, "", "listed twice: b")]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_images_that_end_early_are_found(folder, suffix):
    file = write(folder, "c", object_xml("eel", (1, 1, 5, 5)), suffix=suffix)
    cut(folder / f"JPEGImages/c{suffix}", 0.8)
    dataset = VOCFolder([(folder, "train")])  # the header is all right
    with pytest.raises(ValueError, match=rf"c{suffix}: corrupt image: OpenCV cannot decode it"):
        dataset[2]
    with pytest.raises(ValueError, match=rf"c{suffix}: corrupt image"):
        dataset.verify()
    assert len(dataset) == 3
    left = VOCFolder([(folder, "train")], on_bad="skip")
    assert len(left) == 2
    assert left.class_names == ("background", "cat", "dog")  # the eel's only image is gone
    assert [problem.file.name for problem in left.problems] == [f"c{suffix}"]
    assert file.exists()


def test_images_that_change_or_vanish_later_are_named(folder):
    dataset = VOCFolder([(folder, "train")], on_bad="skip")
    assert cv2.imwrite(str(folder / "JPEGImages/a.png"), noise(9))
    (folder / "JPEGImages/b.png").unlink()
    with pytest.raises(ValueError, match=r"a\.png: wrong size: 9 × 30, expected 40 × 30"):
        dataset[0]
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        dataset[1]
    (folder / "JPEGImages/b.png").touch()
    with pytest.raises(ValueError, match=r"b\.png: corrupt image"):
        dataset[1]
    (folder / "JPEGImages/b.png").unlink()
    dataset.verify()
    assert len(dataset) == 0
    assert [problem.file.name for problem in dataset.problems] == ["a.png", "b.png"]


def test_an_image_that_grows_later_is_refused(folder, monkeypatch):
    dataset = VOCFolder([(folder, "train")])
    monkeypatch.setattr(pixels, "MOST_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(ValueError, match=r"a\.png: too large: 40 × 30"):
        dataset[0]


def test_a_long_report_is_cut(folder):
    (folder / "ImageSets/Main/train.txt").write_text("a\nc\nb\n" + "b\n" * 5 + "d\n")
    lines = VOCFolder([(folder, "train")], on_bad="skip").report(most=3).splitlines()
    assert lines[:3] == [
        "images: 2, objects: 3, problems: 7",
        "5 × listed twice",
        "2 × no such annotation file",
    ]
    assert len(lines) == 7
    assert lines[-1] == "- and 4 more"


# --- Bad questions: errors whatever on_bad says ---------------------------------------------------


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_sets_and_folders_must_be_there(folder, on_bad):
    with pytest.raises(FileNotFoundError, match=r"test\.txt: no such image set; there are: train"):
        VOCFolder([(folder, "test")], on_bad=on_bad)
    edit(folder / "Annotations/a.xml", "cat", "background")  # this file is not even read
    with pytest.raises(FileNotFoundError, match="no such image set"):
        VOCFolder([(folder, "train"), (folder, "test")], on_bad=on_bad)
    with pytest.raises(FileNotFoundError, match="lost: no such folder"):
        VOCFolder([(folder / "lost", "test")], on_bad=on_bad)
    (folder / "ImageSets/Main/none.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"none\.txt: the image set is empty"):
        VOCFolder([(folder, "none")], on_bad=on_bad)
    shutil.rmtree(folder / "JPEGImages")
    with pytest.raises(FileNotFoundError, match="JPEGImages: no such folder"):
        VOCFolder([(folder, "train")], on_bad=on_bad)


def test_something_must_be_left(folder):
    shutil.rmtree(folder / "Annotations")
    with pytest.raises(
        ValueError, match="no image is left:\nimages: 0, objects: 0, problems: 2\n2 × no"
    ):
        VOCFolder([(folder, "train")], on_bad="skip")


def test_without_objects_the_classes_must_be_given(tmp_path):
    write(tmp_path, "a")
    with pytest.raises(ValueError, match="no image has an object: give class_names"):
        VOCFolder([(tmp_path, "train")])
    assert len(VOCFolder([(tmp_path, "train")], ["background", "cat"])) == 1
    write(tmp_path, "b", object_xml("cat", (9, 9, 9, 30), ""))
    with pytest.raises(ValueError, match=r"(?s)give class_names\n.*problems: 1\n.*xmin 9, "):
        VOCFolder([(tmp_path, "train")], on_bad="skip")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sets": []}, r"list of \(root, image set\) pairs, not \[\]"),
        ({"sets": ("bccd", "train")}, r"list of \(root, image set\) pairs, not \('bccd'"),
        ({"sets": "bccd"}, r"list of \(root, image set\) pairs, not 'bccd'"),
        ({"sets": Path("bccd")}, r"list of \(root, image set\) pairs, not PosixPath\('bccd'\)"),
        ({"sets": [("bccd",)]}, r"list of \(root, image set\) pairs"),
        ({"on_bad": "ignore"}, "on_bad must be 'raise' or 'skip', not 'ignore'"),
        ({"class_names": ("cat", "dog")}, "class_names must be 'background' and then"),
        ({"class_names": ("background", "cat", "cat")}, "class_names must be 'background'"),
        ({"class_names": ("background",)}, "class_names must be 'background'"),
        ({"class_names": "background"}, "class_names must be 'background'"),
    ],
)
def test_senseless_arguments_are_named(folder, arguments, message):
    with refuses(message):
        VOCFolder(**({"sets": [(folder, "train")]} | arguments))


# --- A real data set ------------------------------------------------------------------------------


@needs_bccd
def test_bccd_has_two_degenerate_boxes():
    with pytest.raises(ValueError, match=r"BloodImage_00338\.xml, object 13 \(RBC\): degenerate"):
        VOCFolder([(BCCD, "trainval")])
    dataset = VOCFolder([(BCCD, "trainval"), (BCCD, "test")], on_bad="skip")
    assert [(problem.file.name, problem.object) for problem in dataset.problems] == [
        ("BloodImage_00338.xml", "object 13 (RBC)"),
        ("BloodImage_00343.xml", "object 4 (RBC)"),
    ]
    assert {problem.what.partition(":")[0] for problem in dataset.problems} == {"degenerate box"}
    assert len(dataset) == 364


@needs_bccd
def test_bccd_splits_share_no_image():
    names = VOCFolder([(BCCD, "test")]).class_names
    assert names == ("background", "Platelets", "RBC", "WBC")
    sets = [(BCCD, name) for name in ("train", "val", "test")]
    assert len(VOCFolder(sets, names, on_bad="skip")) == 364
    image, target = VOCFolder([(BCCD, "test")], names)[0]
    assert image.shape == (480, 640, 3)
    assert len(target["boxes"]) == len(target["labels"]) > 0
