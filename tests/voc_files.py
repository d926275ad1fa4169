"""Folders in VOC's layout, small enough to be written for every test."""

from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 40, 30
CAT, DOG = ("cat", (1, 1, 40, 30)), ("dog", (11, 7, 20, 21))


def noise(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Smooth colours, different in every corner."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    return cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)


def object_xml(name: str, box: tuple, more: str = "<difficult>0</difficult>") -> str:
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


def write(root: Path, name: str, *objects: str, size=(WIDTH, HEIGHT), suffix=".png") -> Path:
    """Add an image and its annotation to a folder and to its set ``train``."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(root / "JPEGImages" / f"{name}{suffix}"), noise()[:, :, ::-1])
    file = root / "Annotations" / f"{name}.xml"
    width, height = size
    tags = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    file.write_text(f"<annotation>{tags}{''.join(objects)}</annotation>")
    with (root / "ImageSets/Main/train.txt").open("a") as listing:
        listing.write(f"{name}\n")
    return file


def write_two(root: Path) -> Path:
    """Two good images; tests spoil the second."""
    write(root, "a", object_xml(*CAT))
    write(root, "b", object_xml(*DOG), object_xml(*CAT))
    return root


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
