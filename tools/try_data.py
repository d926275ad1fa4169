"""Make the data of the interactive figures: photographs, priors, and what the network said.

``make book`` writes them into ``book/_static/try/data``. They are scripts and not JSON, because a
browser that has opened the pages as files loads nothing else.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage import data

from ssd_annotated import (
    PRESETS,
    GraffitiDigits,
    PriorSpec,
    decode,
    make_priors,
    postprocess,
    pretrained,
)
from ssd_annotated.data.graffiti import CLASS_NAMES
from ssd_annotated.transforms import collate

TARGET = Path(__file__).resolve().parent.parent / "book" / "_static" / "try" / "data"
#: Scenes of the test split (variant, number), drawn at twice the network's size for the eye.
#: The first is the wall of chapter 8. In the second, twins suppress each other.
SCENES = {
    "two digits": ("standard", 182),
    "a crowd of twins": ("crowd", 86),
    "digits and mere strokes": ("decoys", 25),
}
LOWEST = 0.01  # scores up to this are left out, as in the paper


def data_uri(image: np.ndarray, quality: int = 82) -> str:
    """A photograph, RGB, as a JPEG inside an address."""
    _, jpeg = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"


def photograph(image: np.ndarray, alt: str, objects: dict[str, tuple[int, ...]]) -> dict:
    """A photograph with boxes that were measured by hand, in pixels of 300 by 300."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (480, round(480 * height / width)), interpolation=cv2.INTER_AREA)
    frame = np.array([width, height] * 2)
    boxes = {name: (np.array(box) / frame * 300).tolist() for name, box in objects.items()}
    return {"image": data_uri(small), "alt": alt, "objects": boxes}


def photographs() -> dict[str, dict]:
    """The two photographs that chapters 2, 3 and 5 explain boxes with."""
    astronaut = {
        "head": (153, 15, 302, 190),
        "mission patch": (133, 348, 208, 422),
        "rocket booster": (434, 40, 455, 265),
        "smile": (201, 137, 243, 156),
    }
    garage = {
        "motorcycle": (93, 16, 684, 452),
        "bench": (41, 107, 284, 308),
        "bottle": (400, 51, 419, 93),
    }
    woman = "An astronaut in an orange suit, with a model of the space shuttle behind her."
    return {
        "astronaut": photograph(data.astronaut(), woman, astronaut),
        "motorcycle": photograph(data.stereo_motorcycle()[0], "A motorcycle in a garage.", garage),
    }


def plan(spec: PriorSpec) -> dict[str, object]:
    """How the page lays priors out: the shapes in one cell of each map, and where the cells are."""
    steps = spec.steps if spec.centres == "steps" else [1 / side for side in spec.feature_maps]
    priors = make_priors(replace(spec, clip="none"), torch.float64).split(spec.counts)
    maps = [
        {"side": side, "step": step, "shapes": on_map[:shapes, 2:].tolist()}
        for side, step, on_map, shapes in zip(spec.feature_maps, steps, priors, spec.boxes_per_cell)
    ]
    return {"maps": maps, "clip": spec.clip, "by_column": spec.order == "tf2"}


def presets() -> dict[str, dict]:
    """The published priors of SSD300."""
    return {name: plan(spec) for name, spec in PRESETS.items() if sum(spec.counts) == 8732}


def short(tensor: torch.Tensor) -> list:
    """Floats with the digits that single precision needs; JavaScript's fround restores the bits."""
    return tensor.numpy().astype(str).astype(float).tolist()


@torch.no_grad()
def raw_detections(variant: str, index: int) -> dict:
    """All that the shipped network says about a scene: boxes of priors, and scores, best first."""
    model = pretrained()
    scenes = GraffitiDigits("test", variant, length=index + 1, image_size=256)
    image, target = scenes[index]
    offsets, logits = model(collate([(image, target)], model.recipe)[0])
    # With a threshold of 1 nobody is suppressed: what is left is the sorted list of candidates.
    (found,) = postprocess(
        (offsets, logits), model.priors, LOWEST, None, nms_threshold=1, max_detections=None
    )
    decoded = decode(offsets[0], model.priors)
    priors = torch.cdist(found.boxes.double(), decoded.double()).argmin(dim=1)
    return {
        "image": data_uri(image, quality=88),
        "boxes": short(found.boxes),
        "scores": short(found.scores),
        "labels": found.labels.tolist(),
        "priors": priors.tolist(),
        "truth": short(target["boxes"]),
        "truth_labels": target["labels"].tolist(),
    }


def scenes() -> dict:
    """The scenes of the figure on suppression."""
    raw = {name: raw_detections(*place) for name, place in SCENES.items()}
    return {"class_names": CLASS_NAMES, "scenes": raw}


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, value in {**photographs(), "presets": presets(), "scenes": scenes()}.items():
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        script = f'AnnotatedSSD.data("{name}", {text});\n'
        (TARGET / f"{name}.js").write_text(script, encoding="utf-8")


if __name__ == "__main__":
    main()
