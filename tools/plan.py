"""Draw the package's plan, from its own imports: the core, the wings, and who imports whom.

``make book`` draws it anew into ``book/_static/plan.svg``, so that the page cannot go stale.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ssd_annotated"
TARGET = ROOT / "book" / "_static" / "plan.svg"
CORE = "core"
#: Where each part is drawn: its row, counted from above, and its left and right edge in pixels.
PLACES = {
    "app": (0, 20, 500),
    "notebook": (0, 520, 680),
    "published": (1, 20, 150),
    "training": (1, 170, 440),
    "drawing": (1, 460, 680),
    "networks": (2, 20, 150),
    "data": (2, 170, 390),
    "evaluation": (2, 410, 680),
    CORE: (3, 20, 680),
    "support": (4, 20, 680),
}
WIDTH, GAP, LINE, LETTER = 700, 40, 18, 7.2  # of the figure, between rows, of a line, of a letter
#: What the chapters explain; the core's other modules serve these.
EXPLAINED = ("boxes", "priors", "coding", "matching", "loss", "nms", "vgg", "model")


def part_of(module: str) -> str:
    """The wing of ``ssd_annotated.wing.module``; the core, for a module without a wing."""
    name = module.split(".")[1]
    return name if (PACKAGE / name).is_dir() else CORE


def imported(source: str) -> Iterator[str]:
    """The modules of the package that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssd_annotated"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> dict[str, list[str]]:
    """The names of each part's modules."""
    found: dict[str, list[str]] = {part: [] for part in PLACES}
    for file in sorted(PACKAGE.rglob("*.py")):
        if not file.stem.startswith("__"):
            place = file.parent.name if file.parent != PACKAGE else CORE
            found[place].append(file.stem)
    return found


def arrows() -> set[tuple[str, str]]:
    """Pairs (importer, imported) of different parts; ``python -m`` starts the command line."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        if not file.stem.startswith("__"):
            here = file.parent.name if file.parent != PACKAGE else CORE
            found |= {(here, part_of(m)) for m in imported(file.read_text(encoding="utf-8"))}
    return {(a, b) for a, b in found if a != b}


def lines(part: str, names: list[str]) -> list[str]:
    """The lines in a part's rectangle below its name: its modules, wrapped to its width."""
    _, left, right = PLACES[part]
    groups = [names]
    if part == CORE:
        groups = [list(EXPLAINED), [name for name in names if name not in EXPLAINED]]
    width = int((right - left - 24) / LETTER)
    # A no-break space keeps each dot at the end of its line, where it is cut off.
    broken = [
        row for group in groups for row in wrap(" ".join(f"{n}\u00a0·" for n in group), width)
    ]
    return [row.rstrip("\u00a0·") for row in broken]


def box(part: str, rows: list[str], top: float, height: float) -> str:
    """A part's rectangle with its name and its modules."""
    _, left, right = PLACES[part]
    title = "ssd_annotated: what the chapters explain, and what serves it"
    text = "".join(
        f'<text x="{left + 12}" y="{top + 42 + LINE * k}">{row}</text>'
        for k, row in enumerate(rows)
    )
    return (
        f'<rect class="{"core" if part == CORE else "wing"}" x="{left}" y="{top}" '
        f'width="{right - left}" height="{height}" rx="6"/><text class="name" x="{left + 12}" '
        f'y="{top + 22}">{title if part == CORE else f"{part}/"}</text>{text}'
    )


def arrow(upper: str, lower: str, edges: dict[int, tuple[float, float]]) -> str:
    """A line straight down, in the middle of the columns that both parts occupy."""
    (row, left, right), (below, other_left, other_right) = PLACES[upper], PLACES[lower]
    x = (max(left, other_left) + min(right, other_right)) / 2
    (_, start), (end, _) = edges[row], edges[below]
    return f'<path d="M{x:.0f} {start} L{x:.0f} {end - 3}" marker-end="url(#tip)"/>'


def draw() -> str:
    """The whole figure as SVG."""
    rows = {part: lines(part, names) for part, names in modules().items()}
    edges, top = {}, 20
    for row in range(5):
        most = max(len(rows[part]) for part, place in PLACES.items() if place[0] == row)
        edges[row] = (top, top + 36 + LINE * most)
        top = edges[row][1] + GAP
    boxes = "".join(
        box(part, rows[part], edges[row][0], edges[row][1] - edges[row][0])
        for part, (row, *_) in PLACES.items()
    )
    drawn = "".join(arrow(upper, lower, edges) for upper, lower in visible(arrows()))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {edges[4][1] + 20}">
<style>text {{ font: 13px sans-serif; fill: #222 }} .name {{ font-weight: bold }}
rect {{ stroke: #555; fill: #f4f4f4 }} .core {{ fill: #dcebfa; stroke: #1769c6 }}
path {{ stroke: #555; stroke-width: 1.5; fill: none }}</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
orient="auto"><path d="M0 0 L8 4 L0 8 z" style="fill: #555; stroke: none"/></marker></defs>
{boxes}{drawn}</svg>
"""


def visible(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows that are not implied by two others, one to a part between and one from it."""
    below: dict[str, set[str]] = {}
    for a, b in pairs:
        below.setdefault(a, set()).add(b)
    implied = {(a, c) for a in below for b in below[a] for c in below.get(b, ()) if c in below[a]}
    return sorted(pairs - implied)


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
