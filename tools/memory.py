"""Draw what `detect` holds in memory while it works through 5,000 pictures and a long video.

``make test-long`` measures it, into ``benchmarks/memory.json``; ``make book`` draws it.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ssd_annotated.drawing.plot import COLOURS, WIDTH, use_style

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "benchmarks" / "memory.json"
TARGET = ROOT / "book" / "_static" / "memory.svg"
TITLES = {"pictures": "5,000 pictures, killed half way", "video": "a video of 6,000 frames"}


def draw(ax: Axes, name: str, held: dict[str, int]) -> None:
    """One process's memory, percent by percent, on axes that begin at 0."""
    percents = sorted(map(int, held))
    levels = [held[str(percent)] for percent in percents]
    ax.step([*percents, 100], [*levels, levels[-1]], where="post", color=COLOURS["positive"])
    ax.set(title=TITLES[name], xlabel="work done, %", xlim=(0, 100))


def main() -> None:
    """Draw all of them side by side."""
    use_style()
    stored = json.loads(SOURCE.read_text(encoding="utf-8"))
    figure, axes = plt.subplots(1, len(TITLES), figsize=(WIDTH, 2.4), sharey=True)
    for ax, name in zip(axes, TITLES):
        draw(ax, name, stored[name])
    axes[0].set(ylabel="memory, MiB", ylim=(0, 1.1 * axes[0].dataLim.y1))
    figure.savefig(TARGET, metadata={"Date": None})


if __name__ == "__main__":
    main()
