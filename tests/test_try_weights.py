"""The network that travels with the pages, and the digits that its figure sprays."""

import json

import cv2
import numpy as np
import pytest
import torch
import try_weights
from torch.nn.functional import conv2d, max_pool2d

from ssd_annotated import GraffitiDigits, detect, pairwise_iou, pretrained
from ssd_annotated.data.spray import photographs
from ssd_annotated.transforms import collate


def unpacked(layer, text):
    """Weights and bias of a layer, read character by character as the page does."""
    shape = [layer[name] for name in ("outputs", "inputs", "kernel", "kernel")]
    alphabet = {character: place for place, character in enumerate(ALPHABET)}
    digits = torch.tensor([alphabet[c] for c in text]).reshape(*shape, layer["digits"])
    whole = (digits * 91 ** torch.arange(layer["digits"]).flip(0)).sum(dim=-1)
    whole = whole - (91 ** layer["digits"] - 1) // 2
    weight = whole * torch.tensor(layer["scale"]).reshape(-1, 1, 1, 1)
    return weight.float(), torch.tensor(layer["bias"])


ALPHABET = (
    "#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~"
)


@torch.no_grad()
def test_what_is_packed_gives_the_logits_of_the_network():
    model = pretrained()
    packed = json.loads(json.dumps(try_weights.pack(model)))
    scenes = GraffitiDigits("test", length=8)
    images, _ = collate([scenes[index] for index in range(8)], model.recipe)
    offsets, logits = model(images)

    layers, place = [], 0
    for layer in packed["layers"]:
        size = layer["outputs"] * layer["inputs"] * layer["kernel"] ** 2 * layer["digits"]
        layers.append(unpacked(layer, packed["text"][place : place + size]))
        place += size
    assert place == len(packed["text"])
    maps, x = [], images
    for block in range(6):
        for weight, bias in layers[2 * block : 2 * block + 2]:
            x = conv2d(x, weight, bias, padding=1).relu()
        x = max_pool2d(x, 2)
        maps.append(x)
    maps = [*maps[2:], x.amax(dim=(2, 3), keepdim=True)]
    said = [conv2d(m, w, b, padding=w.shape[-1] // 2) for m, (w, b) in zip(maps, layers[12:])]
    rows = [s.permute(0, 2, 3, 1) for s in said]
    ours = torch.cat([row[..., :16].reshape(8, -1, 4) for row in rows], dim=1)
    assert (ours - offsets).abs().max() < 0.005
    ours = torch.cat([row[..., 16:].reshape(8, -1, 11) for row in rows], dim=1)
    assert (ours.softmax(dim=2) - logits.softmax(dim=2)).abs().max() < 5e-4


def test_the_file_is_small_and_plain(tmp_path, monkeypatch):
    monkeypatch.setattr(try_weights, "TARGET", tmp_path)
    with torch.no_grad():
        size = try_weights.write("weights", try_weights.pack(pretrained()))
    assert 2_000_000 < size <= try_weights.LIMIT
    text = (tmp_path / "weights.js").read_text("ascii")
    assert text.startswith('AnnotatedSSD.data("weights", {')
    assert "\\" not in text


def painted(rng, digit, wall, colour, shake):
    """A digit somewhere on a wall, as the figure sprays it or shakier, and the box around it."""
    high = rng.uniform(0.32, 0.5)
    wide = 0.75 * high
    corner = 0.08 + (0.84 - np.array([wide, high])) * rng.random(2)
    image, brush = wall.copy(), 0.08
    lines = [try_weights.points(line) for line in try_weights.DIGITS[digit]]
    lines = [line + shake * rng.standard_normal(np.shape(line)) for line in lines]
    lines = [corner + try_weights.smooth(line) * (wide, high) for line in lines]
    for line in lines:
        points = np.rint(line * len(wall) * 16).astype(np.int32)
        cv2.polylines(image, [points], False, colour, round(brush * len(wall)), cv2.LINE_AA, 4)
    points = np.concatenate(lines)
    low, high = points.min(axis=0) - brush / 2, points.max(axis=0) + brush / 2
    return image, torch.tensor([[*low, *high]], dtype=torch.float32)


@pytest.mark.parametrize(("shake", "share"), try_weights.RECOGNISED.items())
def test_the_share_of_sprayed_digits_that_the_page_promises(shake, share):
    rng = np.random.default_rng(0)
    walls = [try_weights.middle(photographs("test")[name]) for name in try_weights.WALLS]
    paints = [tuple(bytes.fromhex(paint[1:])) for paint in try_weights.PAINTS.values()]
    cases = 2 * [(d, w, c) for d in range(10) for w in walls for c in paints]
    scenes = [painted(rng, *case, shake) for case in cases]
    found = detect(pretrained(), [image for image, _ in scenes], score_threshold=0.5)
    right = 0
    for (digit, *_), (_, box), (boxes, _, labels) in zip(cases, scenes, found):
        right += bool(((pairwise_iou(box, boxes)[0] > 0.5) & (labels == digit + 1)).any())
    assert abs(right / len(cases) - share) < 0.02
