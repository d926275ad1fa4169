"""Draw the figure of the book's first page and of the README: the shipped detector at work."""

from pathlib import Path

import matplotlib.pyplot as plt

from ssd_annotated import GraffitiDigits, detect, pretrained
from ssd_annotated.data.graffiti import CLASS_NAMES
from ssd_annotated.drawing import plot

TARGET = Path(__file__).parent.parent / "book" / "_static" / "detections.jpg"
SCENES = (0, 1, 2, 3, 4, 5, 6, 7)  # the first test scenes of a seed of their own


def main() -> None:
    plot.use_style()
    # Scenes are drawn at 256 pixels for the eye; the network shrinks them to its own 128.
    scenes = GraffitiDigits("test", length=max(SCENES) + 1, image_size=256, seed=7)
    images = [scenes[index][0] for index in SCENES]
    figure, axes = plt.subplots(2, 4, figsize=(plot.WIDTH, 3.55))
    for ax, image, found in zip(axes.flat, images, detect(pretrained(), images), strict=True):
        plot.show_image(ax, image)
        plot.draw_detections(ax, found, CLASS_NAMES, minimum_score=0.5)
    figure.savefig(TARGET, dpi=200, pil_kwargs={"quality": 80})
    print(f"wrote {TARGET.name}, {TARGET.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
