"""What is written is read back, and what is drawn stays in its box, whatever it is."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from voc_files import object_xml, write

from examples import few
from ssd_annotated.checkpoint import load_model, save_model
from ssd_annotated.data.augment import AUGMENTATIONS, sample
from ssd_annotated.data.coco import COCOFolder
from ssd_annotated.data.voc import VOCFolder
from ssd_annotated.data.warp import Distortion, apply
from ssd_annotated.model import Recipe, tiny_ssd

WIDTH, HEIGHT = 40, 30
# Names as people give them: quotes, angle brackets, other alphabets; no sign that stands for
# what could not be decoded.
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8).filter(
    lambda name: name.strip() and name != "background" and "\ufffd" not in name
)


@st.composite
def pixel_boxes(draw, least=1):
    """Corners (left, top, right, bottom) on whole pixels of an image of 40 by 30."""
    left = draw(st.integers(0, WIDTH - least))
    top = draw(st.integers(0, HEIGHT - least))
    right, bottom = draw(st.integers(left + least, WIDTH)), draw(st.integers(top + least, HEIGHT))
    return left, top, right, bottom


# A box of one pixel, which VOC writes with xmin = xmax, is refused as a click.
objects = st.lists(st.tuples(names, pixel_boxes(2), st.booleans()), min_size=1, max_size=5)


def fractions(things):
    boxes = torch.tensor([box for _, box, _ in things], dtype=torch.float64)
    return (boxes / torch.tensor([WIDTH, HEIGHT] * 2)).float()


@few(25)
@given(objects)
def test_voc_comes_back_as_it_was_written(things):
    with TemporaryDirectory() as folder:
        texts = []
        for name, (left, top, right, bottom), difficult in things:
            escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            more = f"<difficult>{int(difficult)}</difficult>"
            texts.append(object_xml(escaped, (left + 1, top + 1, right, bottom), more))
        write(Path(folder), "a", *texts)
        data = VOCFolder([(folder, "train")])
        target = data[0][1]
    torch.testing.assert_close(target["boxes"], fractions(things), rtol=0, atol=1e-7)
    assert [data.class_names[label] for label in target["labels"]] == [n for n, _, _ in things]
    assert target["difficult"].tolist() == [difficult for _, _, difficult in things]


@few(25)
@given(objects)
def test_coco_comes_back_as_it_was_written(things):
    kinds = sorted({name for name, _, _ in things})
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 3 * k, "name": name} for k, name in enumerate(kinds)],
        "annotations": [
            {
                "id": number,
                "image_id": 7,
                "category_id": 3 * kinds.index(name),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
            }
            for number, (name, (left, top, right, bottom), _) in enumerate(things)
        ],
    }
    with TemporaryDirectory() as folder:
        cv2.imwrite(f"{folder}/a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        Path(folder, "all.json").write_text(json.dumps(content))
        data = COCOFolder(folder, Path(folder, "all.json"))
        target = data[0][1]
    torch.testing.assert_close(target["boxes"], fractions(things), rtol=0, atol=1e-7)
    assert [data.class_names[label] for label in target["labels"]] == [n for n, _, _ in things]


@few(40)
@given(st.integers(0, 2**32), pixel_boxes(least=8), st.sampled_from(sorted(AUGMENTATIONS)))
def test_a_drawn_mark_stays_in_its_box(seed, box, preset):
    # White on black: wherever white is left, the object's box is, and nowhere else.
    left, top, right, bottom = box
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[top:bottom, left:right] = 255
    target = {"boxes": fractions([("mark", box, False)]), "labels": torch.tensor([1])}
    chosen = replace(AUGMENTATIONS[preset], fill=(0, 0, 0))
    plan = sample(np.random.default_rng(seed), chosen, (WIDTH, HEIGHT), target["boxes"], 100)
    result, moved = apply(image, target, plan._replace(distortion=Distortion()))
    if len(moved["boxes"]) == 0:  # its centre was cut off
        return
    rows, columns = np.nonzero(result[..., 0] > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert seen == pytest.approx((moved["boxes"][0] * 100).tolist(), abs=1.51)


@few(10)
@given(
    st.integers(1, 5),
    st.lists(names, min_size=1, max_size=4, unique=True),
    st.floats(0.01, 0.99),
    st.integers(0, 2**31),
)
def test_a_checkpoint_is_the_model(width, kinds, threshold, seed):
    torch.manual_seed(seed)
    model = tiny_ssd(
        len(kinds) + 1,
        image_size=64,
        widths=(width,) * 6,
        class_names=("background", *kinds),
    ).eval()
    model.recipe = replace(model.recipe, score_threshold=threshold)
    images = torch.rand(1, 3, 64, 64)
    with TemporaryDirectory() as folder, torch.no_grad():
        save_model(model, Path(folder, "model.pt"))
        again = load_model(Path(folder, "model.pt"))
        assert isinstance(again.recipe, Recipe)
        assert (again.spec, again.recipe) == (model.spec, model.recipe)
        for name, weights in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], weights), name
        for ours, theirs in zip(model(images), again(images)):
            torch.testing.assert_close(ours, theirs)
