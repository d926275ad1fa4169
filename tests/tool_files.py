"""Folders as annotation tools export them, small enough to be written for every test."""

import json
from pathlib import Path

import cv2
from voc_files import HEIGHT, WIDTH, noise, object_xml

CAT = object_xml("cat", (11, 7, 20, 21), "")
BOX = [10 / 40, 6 / 30, 20 / 40, 21 / 30]  # of the cat, as fractions
SIZE = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"


def write_image(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), noise()[:, :, ::-1])
    return file


def write_xml(file: Path, *objects: str, head: str = SIZE, encoding: str = "utf-8") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"<annotation>{head}{''.join(objects or [CAT])}</annotation>", encoding)
    return file


def write_pairs(images: Path, texts: Path, names: str = "abc", suffix: str = ".png") -> None:
    """An image and an XML file of each name."""
    for name in names:
        write_image(images / f"{name}{suffix}")
        write_xml(texts / f"{name}.xml")


def write_lists(root: Path, **lists: str) -> Path:
    """VOC's layout with three images and the given lists."""
    write_pairs(root / "JPEGImages", root / "Annotations")
    (root / "ImageSets/Main").mkdir(parents=True)
    for name, text in lists.items():
        (root / f"ImageSets/Main/{name}.txt").write_text(text)
    return root


def entry(number: object, name: str, **more: object) -> dict:
    return {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} | more


def thing(number: object, image: object, **more: object) -> dict:
    box = {"bbox": [10, 6, 10, 15], "area": 150, "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": 1} | box | more


def write_coco(file: Path, images: list[dict], things: list[dict], *categories: dict) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    kinds = categories or ({"id": 1, "name": "cat", "supercategory": ""},)
    content = {"info": {}, "images": images, "annotations": things, "categories": list(kinds)}
    file.write_text(json.dumps(content))
    return file


def write_coco_images(file: Path, folder: Path, names: str = "abc", above: str = "") -> Path:
    """A file in COCO's format with an image and an object of each name."""
    for name in names:
        write_image(folder / f"{name}.png")
    entries = [entry(number, f"{above}{name}.png") for number, name in enumerate(names)]
    return write_coco(file, entries, [thing(n, n) for n in range(len(names))])
