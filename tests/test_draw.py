"""Boxes and names in pixels: in the right place and colour, legible, inside the image."""

from itertools import groupby

import cv2
import numpy as np
import pytest
import torch
from refusals import refuses

from ssd_annotated.app import draw
from ssd_annotated.app.draw import class_colour, draw_detections, ink, to_pixels
from ssd_annotated.nms import Detections

NAMES = ("background", "dog", "cat", "a name of some length", "Fußgänger")


def found(*boxes, labels=None):
    labels = labels or [1] * len(boxes)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.linspace(0.9, 0.5, len(boxes)),
        torch.tensor(labels, dtype=torch.int64),
    )


def plain(width, height, value=127):
    return np.full((height, width, 3), value, dtype=np.uint8)


def linear(colour):
    values = np.array(colour) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return linear(colour) @ [0.2126, 0.7152, 0.0722]


def test_a_box_is_drawn_around_its_pixels_and_nothing_else_is_touched():
    image = plain(400, 300)
    drawn = draw_detections(image, found((0.25, 0.5, 0.75, 0.9)), NAMES)
    assert (image == 127).all()
    rows, columns = (drawn == class_colour(1)).all(axis=2).nonzero()
    edges = columns.min(), columns.max() + 1, rows.max() + 1
    assert np.abs(np.subtract(edges, (100, 300, 270))).max() <= 2
    assert (drawn[160:260, 110:290] == 127).all()
    # The name stands on top of the box, from its left edge.
    touched_rows, touched_columns = (drawn[:148] != 127).any(axis=2).nonzero()
    assert touched_rows.min() > 120
    assert 98 <= touched_columns.min() <= 102
    assert touched_columns.max() < 200


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (24, 24), (64, 64), (500, 30), (6000, 800)])
def test_any_size_and_any_box(size):
    boxes = [(0, 0, 1, 1), (-3, -2, 0.2, 0.3), (0.9, 0.9, 4, 5), (0.4, 0, 0.5, 0.1), (2, 2, 3, 3)]
    boxes += [(-float("inf"), 0.2, float("inf"), 0.8)]
    image = plain(*size)
    drawn = draw_detections(image, found(*boxes, labels=[1, 2, 3, 4, 1, 2]), NAMES)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (drawn != image).any()


@pytest.mark.parametrize("box", [(0.9, 0.9, 1, 1), (0, 0, 0.1, 0.1), (0.9, 0, 1, 0.1)])
@pytest.mark.parametrize("size", [(90, 60), (300, 300), (1920, 1080)])
def test_a_name_in_a_corner_is_whole(box, size, monkeypatch):
    plates = []

    def remember(*arguments):
        plates.append(write(*arguments))
        return plates[-1]

    write = draw.write
    monkeypatch.setattr(draw, "write", remember)
    drawn = draw_detections(plain(*size), found(box), NAMES)
    (plate,) = plates
    # Found again exactly, somewhere in the image: no pixel of it was cut off.
    _, _, (left, top), _ = cv2.minMaxLoc(cv2.matchTemplate(drawn, plate, cv2.TM_SQDIFF))
    rows, columns = plate.shape[:2]
    assert np.array_equal(drawn[top : top + rows, left : left + columns], plate)
    # And the letters do not touch the plate's own edge.
    edge = np.concatenate([plate[0], plate[-1], plate[:, 0], plate[:, -1]])
    assert (edge == class_colour(1)).all()
    # A thin stroke may let a little of its ground through.
    assert np.abs(plate.astype(int) - ink(class_colour(1))).max(axis=2).min() < 16


@pytest.mark.parametrize("text", ["dog 0.93", "jpgqy", "ÄÉ", "犬"])
@pytest.mark.parametrize("height", [12, 20, 60])
def test_letters_lie_within_their_plate(text, height):
    plate = draw.write(text, (255, 255, 255), height, (2000, 2000))
    edge = np.concatenate([plate[0], plate[-1], plate[:, 0], plate[:, -1]])
    assert (edge == 255).all()
    assert height <= len(plate) < 2 * height


def test_letters_shrink_then_the_score_goes_then_the_name(monkeypatch):
    text = "a name of some length 0.90"
    full = draw.write(text, class_colour(3), 12, (999, 999)).shape[1]
    box, write, written = found((0.2, 0.4, 0.8, 0.8), labels=[3]), draw.write, []

    def remember(*arguments):
        written.append((arguments[0], write(*arguments)))
        return written[-1][1]

    def seen(width):
        """What is drawn into an image of this width."""
        drawn = draw_detections(plain(width, 120), box, NAMES)
        last, plate = written[-1]
        # Rows above the box's frame.
        columns = (drawn[:44] == class_colour(3)).all(axis=2).any(axis=0).sum()
        assert columns == (0 if plate is None else plate.shape[1]) <= width
        if plate is None:
            return "nothing"
        return "no score" if last != text else "whole" if columns == full else "shrunk"

    monkeypatch.setattr(draw, "write", remember)
    steps = [step for step, _ in groupby(map(seen, range(2 * full, 10, -5)))]
    assert steps == ["whole", "shrunk", "no score", "nothing"]


@pytest.mark.parametrize("name", ["", " ", "dog", "name " * 40])
def test_an_image_of_few_pixels_and_a_name_of_no_letters_are_drawn(name):
    for width, height in ((1, 1), (2, 40), (40, 2), (20, 20), (60, 60)):
        for box in ((0.0, 0.0, 1.0, 1.0), (0.5, 0.5, 0.5, 0.5), (1.0, 1.0, 1.0, 1.0)):
            drawn = draw_detections(plain(width, height), found(box), ("background", name))
            assert drawn.shape == (height, width, 3)


def test_lines_and_letters_grow_with_the_image():
    heights = [
        len(draw.write("dog", (0, 0, 0), max(12, (w * h) ** 0.5 / 45), (w, h)))
        for w, h in ((300, 300), (1920, 1080), (6000, 800))
    ]
    small = draw_detections(plain(300, 300), found((0.2, 0.2, 0.8, 0.8)), NAMES)
    large = draw_detections(plain(3000, 3000), found((0.2, 0.2, 0.8, 0.8)), NAMES)
    lines = [
        (image[len(image) // 2] == class_colour(1)).all(axis=1).sum() for image in (small, large)
    ]
    assert heights == sorted(heights)
    assert lines[1] >= 3 * lines[0] >= 6


def test_the_best_is_on_top():
    same = found((0.2, 0.2, 0.8, 0.8), (0.2, 0.2, 0.8, 0.8), labels=[1, 2])
    drawn = draw_detections(plain(300, 300), same, NAMES)
    only = draw_detections(plain(300, 300), found((0.2, 0.2, 0.8, 0.8), labels=[1]), NAMES)
    middle = (slice(100, 200), slice(None))
    assert np.array_equal(drawn[middle], only[middle])


def test_nothing_found_nothing_drawn_and_views_are_welcome():
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    drawn = draw_detections(image, found(), NAMES)
    assert np.array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)
    mirrored = image[:, ::-1]
    mirrored.flags.writeable = False
    assert draw_detections(mirrored, found((0, 0, 1, 1)), NAMES).shape == image.shape


def test_pixels_are_cut_off_at_the_border():
    boxes = found((-1, 0.25, 0.5, 2), (0.1, 0.2, 0.3, 0.4))
    expected = [[0, 50, 50, 200], [10, 40, 30, 80]]
    np.testing.assert_allclose(to_pixels(boxes, 100, 200), expected, atol=1e-4)


def test_a_label_without_a_name_is_named():
    with refuses("labels run from 1 to 5, but there are names for 1 to 4"):
        draw_detections(plain(9, 9), found((0, 0, 1, 1), (0, 0, 1, 1), labels=[1, 5]), NAMES)
    with refuses("labels run from 0 to 0"):
        draw_detections(plain(9, 9), found((0, 0, 1, 1), labels=[0]), NAMES)
    with refuses("an image must be uint8 RGB, not float64"):
        draw_detections(np.zeros((9, 9, 3)), found(), NAMES)


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
BLINDNESS = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    "none": np.eye(3),
}


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize(("classes", "least"), [(7, 10), (21, 4)])
def test_no_two_classes_look_alike_to_anyone(blindness, classes, least):
    color = pytest.importorskip("skimage.color")
    colours = linear([class_colour(label) for label in range(1, classes + 1)])
    seen = np.clip(colours @ np.array(BLINDNESS[blindness]).T, 0, 1)
    seen = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = color.rgb2lab(seen[None])[0]
    difference = color.deltaE_ciede2000(lab[:, None], lab[None])
    assert difference[~np.eye(classes, dtype=bool)].min() > least  # 1 is just noticeable


def test_names_stand_out_from_their_plates():
    for label in range(1, 22):
        pair = sorted(
            luminance(colour) for colour in (class_colour(label), ink(class_colour(label)))
        )
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5


def test_colours_come_again():
    assert class_colour(22) == class_colour(1)
    assert class_colour(90) == class_colour(90 - 84)
