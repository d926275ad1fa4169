"""Train the TinySSD that ships with the package, and measure how good it is.

    python tools/train_shipped.py [--steps 5000]

The same seed gives the same data everywhere, but not the same last bits of the weights: those
depend on the processor and on the number of threads. Expect the mAP to vary by about ±0.01.
"""

import argparse
from pathlib import Path

import torch

from ssd_annotated import GraffitiDigits, detect, evaluate, load_model, save_model, tiny_ssd, train
from ssd_annotated.data.graffiti import CLASS_NAMES

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "ssd_annotated" / "pretrained" / "tiny-graffiti.pt"


def measure(path: Path, variant: str = "standard", scenes: int = 500) -> float:
    """mAP@0.5 (area) of a stored model on the first test scenes of a variant."""
    test = GraffitiDigits("test", variant=variant, length=scenes)
    images, targets = zip(*(test[i] for i in range(scenes)))
    return evaluate(detect(load_model(path), list(images)), list(targets), num_classes=11).mean_ap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = tiny_ssd(num_classes=11, image_size=128, class_names=CLASS_NAMES)
    # Every scene is drawn once: 16 images a step that the network has never seen.
    scenes = GraffitiDigits("train", length=16 * arguments.steps)
    train(model, scenes, steps=arguments.steps, batch_size=16)
    arguments.out.parent.mkdir(exist_ok=True)
    # Half precision halves the file; a test checks the mAP of what is stored.
    save_model(model, arguments.out, dtype=torch.float16)
    for variant in ("standard", "crowd", "decoys"):
        print(f"{variant}: mAP {measure(arguments.out, variant):.3f}")


if __name__ == "__main__":
    main()
