"""Pack the shipped TinySSD and some pictures for the figure that detects in the reader's browser.

``make book`` writes ``weights.js`` and ``pictures.js`` into ``book/_static/try/data``. They are
scripts, because a browser that has opened the pages as files refuses to fetch anything else.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import nn
from try_data import TARGET, plan

from ssd_annotated import GraffitiDigits, detect, pretrained
from ssd_annotated.data.graffiti import CLASS_NAMES
from ssd_annotated.data.spray import photographs
from ssd_annotated.model import SSD

LIMIT = 2_600_000  # bytes of weights.js
#: Printable characters that stand in a JavaScript string as they are: 91 digits.
CHARACTERS = np.array([code for code in range(35, 127) if code != ord("\\")], dtype=np.uint8)
BASE = len(CHARACTERS)
SIDE = 256  # pixels; the network shrinks them to its own 128
#: Photographs that the network has not seen in training, and what a screen reader says of them.
WALLS = {
    "coffee": "a cup of coffee on a wooden table",
    "grass": "grass from above",
    "flower": "a red flower",
    "rocket": "a rocket on its launch pad",
    "camera": "a man with a camera, in grey",
}
#: Digits for readers who cannot draw here: lines along points of a square of 10 by 10. The
#: network's handwriting has a bar through the seven.
DIGITS = {
    0: ["5,0 2,1 0,4 0,7 2,9 5,10 8,9 9,7 9,4 8,1 5,0"],
    1: ["2,2 5,0 5,10"],
    2: ["1,2 4,0 7,1 8,3 6,6 1,10 9,10"],
    3: ["1,1 5,0 8,1 8,3 4,5 8,6 9,8 6,10 1,9"],
    4: ["5,0 1,6 9,6", "7,3 7,10"],
    5: ["8,0 2,0 1,4 5,4 8,5 8,8 5,10 1,9"],
    6: ["6,0 2,3 0,7 2,10 6,10 8,8 6,6 1,7"],
    7: ["0,0 9,0 4,10", "3,5 8,5"],
    8: ["5,5 2,3 2,1 5,0 8,1 8,3 5,5 1,7 2,10 5,10 8,10 9,7 5,5"],
    9: ["8,3 5,5 1,4 1,1 5,0 8,1 8,4 6,10"],
}
PAINTS = {
    "white": "#fafafa",
    "black": "#141414",
    "yellow": "#ffdc00",
    "red": "#e61e1e",
    "green": "#00c850",
    "blue": "#1e5aff",
}
#: How many of such digits it recognises, in these paints on these walls, if each point is moved by
#: so much of the square (standard deviation); a test counts again.
RECOGNISED = {0.0: 0.93, 0.07: 0.88}
HINT = (
    "Best are digits a third to half as high as the picture, and sevens with a bar, as in the "
    "handwriting that it learned from. Of digits like those that the button sprays, in these "
    "paints on these photographs, it recognised {:.0%}; from a shakier hand {:.0%}. "
    "You can also drop a picture from your device on this figure."
)
SCENES = (0, 1, 2, 6)  # of the seed that draws the picture on the book's first page


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the one convolution that equals a convolution and its normalisation."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = conv.weight * scale[:, None, None, None]
    return weight, (conv.bias - norm.running_mean) * scale + norm.bias


def convolutions(model: SSD) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The twelve convolutions of the blocks, then those of the heads: offsets and logits in one."""
    blocks = [block for block in (*model.trunk, *model.extras) if isinstance(block, nn.Sequential)]
    layers = [
        fold(conv, norm)
        for block in blocks
        for conv, norm in pairwise(block)
        if isinstance(norm, nn.BatchNorm2d)
    ]
    for where, what in zip(model.localization_heads, model.confidence_heads):
        layers.append((torch.cat([where.weight, what.weight]), torch.cat([where.bias, what.bias])))
    weight, bias = layers[-1]
    layers[-1] = weight[:, :, 1:2, 1:2], bias  # on one cell the rest meets only the padding
    return layers


def spell(weight: torch.Tensor, digits: int) -> tuple[torch.Tensor, str]:
    """Scale of each output channel, and every weight as a whole number of so many digits."""
    half = (BASE**digits - 1) // 2
    scale = weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-30).double() / half
    whole = (weight.double() / scale[:, None, None, None]).round().long().numpy() + half
    places = whole.reshape(-1, 1) // BASE ** np.arange(digits)[::-1] % BASE
    return scale, CHARACTERS[places].tobytes().decode()


def pack(model: SSD) -> dict[str, object]:
    """Everything that the network in the browser needs: recipe, priors and weights."""
    check(model)
    layers, text = [], []
    for index, (weight, bias) in enumerate(convolutions(model)):
        # Errors of the first maps pass through everything behind them, and those maps have few
        # weights: a third digit for them costs 3% of the file and halves the error of the scores.
        digits = 3 if index < 6 else 2
        scale, spelled = spell(weight, digits)
        outputs, inputs, kernel, _ = weight.shape
        layers.append(
            {
                "inputs": inputs,
                "outputs": outputs,
                "kernel": kernel,
                "digits": digits,
                "scale": numbers(scale),
                "bias": numbers(bias),
            }
        )
        text.append(spelled)
    priors, recipe = plan(model.spec.priors), asdict(model.recipe)
    return {"recipe": recipe, "priors": priors, "layers": layers, "text": "".join(text)}


def check(model: SSD) -> None:
    """Raise a ValueError for a model that network.js could not compute."""
    recipe, priors = model.recipe, model.spec.priors
    plain = (
        model.spec.architecture == "tiny_ssd",
        recipe.resize == "opencv",
        recipe.max_log_size is None and not recipe.clip and not recipe.class_agnostic,
        set(priors.boxes_per_cell) == {4},
    )
    if not all(plain):
        raise ValueError(f"network.js does not know how to run {model.spec} with {recipe}")


def numbers(values: torch.Tensor) -> list[float]:
    """Seven digits of each, as single precision holds them."""
    return [float(f"{value:.7g}") for value in values.tolist()]


def jpeg(image: np.ndarray, quality: int) -> str:
    """An RGB image as the address of a JPEG that contains itself."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], settings)
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def points(line: str) -> np.ndarray:
    """The points of a line, as fractions of the square."""
    return np.array([[int(number) / 10 for number in point.split(",")] for point in line.split()])


def smooth(line: np.ndarray) -> np.ndarray:
    """Cut every corner twice (Chaikin's curve), as a hand does; the ends stay."""
    for _ in range(2):
        before, after = line[:-1], line[1:]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], axis=1)
        line = np.concatenate([line[:1], cut.reshape(-1, 2), line[-1:]])
    return line.round(3)


def middle(image: np.ndarray) -> np.ndarray:
    """The largest square in the middle, at most `SIDE` pixels wide."""
    side = min(image.shape[:2])
    top, left = (np.array(image.shape[:2]) - side) // 2
    square = image[top : top + side, left : left + side]
    return cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def pictures(model: SSD) -> dict[str, object]:
    """Scenes to look at and walls to draw on; of the first scene, what the package finds in it."""
    dataset = GraffitiDigits("test", length=max(SCENES) + 1, image_size=SIDE, seed=7)
    scenes = [dataset[index][0] for index in SCENES]
    found = detect(model, scenes[:1], score_threshold=0.3)[0]
    photos = photographs("test")
    shown = [(f"graffiti {k}", jpeg(scene, 88)) for k, scene in enumerate(scenes, start=1)]
    shown += [(what, jpeg(middle(photos[name]), 72)) for name, what in WALLS.items()]
    return {
        "pictures": [{"name": name, "source": source} for name, source in shown],
        "paints": PAINTS,
        "hint": HINT.format(*RECOGNISED.values()),
        "digits": [[smooth(points(line)).tolist() for line in lines] for lines in DIGITS.values()],
        "preview": [
            {"box": numbers(box), "score": round(score, 4), "name": CLASS_NAMES[label]}
            for box, score, label in zip(found.boxes, found.scores.tolist(), found.labels.tolist())
        ],
    }


def write(name: str, value: object) -> int:
    """Write a data file, and say how many bytes it has."""
    TARGET.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, separators=(",", ":"))
    return (TARGET / f"{name}.js").write_text(f'AnnotatedSSD.data("{name}", {text});\n', "ascii")


@torch.no_grad()
def main() -> None:
    model = pretrained()
    size = write("weights", pack(model))
    if size > LIMIT:
        raise SystemExit(f"weights.js has {size:,} bytes, more than {LIMIT:,}")
    print(f"weights.js {size:,} bytes, pictures.js {write('pictures', pictures(model)):,} bytes")


if __name__ == "__main__":
    main()
