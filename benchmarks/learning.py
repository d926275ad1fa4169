"""Train the detector of the chapter on training nine times: rates, seeds, scenes, augmentation.

    python benchmarks/learning.py --json FILE [--only NAME]

One run takes about three minutes on one quiet core. Another processor gives other last bits, and
so a slightly different mAP: trust differences that are larger than those between the seeds.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch
from timing import setting

from ssd_annotated import GraffitiDigits, detect, evaluate, tiny_ssd, train
from ssd_annotated.data.augment import AUGMENTATIONS, Augmented
from ssd_annotated.data.graffiti import CLASS_NAMES

STEPS, BATCH, SIDE = 550, 16, 128
#: Losses are averaged over so many steps.
STRIDE = 10


class Run(NamedTuple):
    """What is changed: by default the chapter's own rate, and every scene is shown once."""

    lr: float = 4e-3
    seed: int = 0
    scenes: int = STEPS * BATCH
    augmentation: str = "none"


RUNS = {
    "seed 0": Run(),
    "seed 1": Run(seed=1),
    "seed 2": Run(seed=2),
    "a tenth of the rate": Run(lr=4e-4),
    "ten times the rate": Run(lr=4e-2),
    "200 scenes": Run(scenes=200),
    "200 scenes, gentle": Run(scenes=200, augmentation="gentle"),
    "200 scenes, Caffe's": Run(scenes=200, augmentation="caffe"),
    "fresh scenes, Caffe's": Run(augmentation="caffe"),
}


def items(part: str, length: int) -> tuple[list, list]:
    scenes = GraffitiDigits(part, length=length, seed=int(part == "test"))
    images, targets = zip(*(scenes[index] for index in range(length)))
    return list(images), list(targets)


def learn(run: Run) -> dict[str, object]:
    """One training: its losses, and its mAP on 300 new scenes and on 200 that it has seen."""
    torch.manual_seed(run.seed)
    model = tiny_ssd(num_classes=11, image_size=SIDE, class_names=CLASS_NAMES)
    scenes = GraffitiDigits("train", length=run.scenes)
    if run.augmentation != "none":
        scenes = Augmented(scenes, AUGMENTATIONS[run.augmentation], SIDE, run.seed)
    how = {"steps": STEPS, "batch_size": BATCH, "lr": run.lr, "seed": run.seed}
    history = train(model, scenes, progress=False, **how)
    total = [step["localization"] + step["confidence"] for step in history]
    means = torch.tensor(total).reshape(-1, STRIDE).mean(dim=1)
    scores = {}
    for name, (part, length) in {"new": ("test", 300), "seen": ("train", 200)}.items():
        images, targets = items(part, length)
        scores[name] = evaluate(detect(model, images), targets, num_classes=11).mean_ap
    return {**run._asdict(), "loss": [round(x, 3) for x in means.tolist()], "map": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="the results are added to it")
    parser.add_argument("--only", choices=RUNS, help="one run; by default all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in [options.only] if options.only else RUNS:
        result = learn(RUNS[name])
        print(f"{name}: mAP {result['map']['new']:.3f}, of seen scenes {result['map']['seen']:.3f}")
        stored = json.loads(options.json.read_text()) if options.json.exists() else {"runs": {}}
        head = {"setting": setting(), "steps": STEPS, "batch_size": BATCH, "stride": STRIDE}
        runs = {**stored["runs"], name: result}
        ordered = {key: runs[key] for key in RUNS if key in runs}
        options.json.write_text(json.dumps({**head, "runs": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    main()
