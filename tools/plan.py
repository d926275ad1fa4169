"""Draw the package's plan, from its own imports: the core, the wings, and who imports whom.

``make book`` draws it anew into ``book/_static/plan.svg``, so that the page cannot go stale.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ssd_annotated"
TARGET = ROOT / "book" / "_static" / "plan.svg"
CORE = "core"
#: Where each part is drawn: left, top, width and height, in pixels; imports point down.
PLACES = {
    "app": (20, 20, 440, 62),
    "notebook": (500, 20, 180, 62),
    "training": (20, 124, 200, 80),
    "evaluation": (260, 124, 200, 80),
    "data": (20, 246, 440, 62),
    "published": (500, 246, 180, 62),
    CORE: (20, 350, 660, 84),
}
HEIGHT, WIDTH = 454, 700
#: What the chapters explain; the core's other modules serve these.
EXPLAINED = ("boxes", "priors", "coding", "matching", "loss", "nms", "vgg", "model")


def part_of(module: str) -> str:
    """The wing of ``ssd_annotated.wing.module``; the core, of what lies on top."""
    name = module.split(".")[1]
    return name if (PACKAGE / name).is_dir() else CORE


def imported(source: str) -> Iterator[str]:
    """The modules of the package that a source imports, wherever it does."""
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


def box(part: str, names: list[str]) -> str:
    """A part's rectangle with its name and its modules."""
    x, y, width, height = PLACES[part]
    if part == CORE:
        first = " · ".join(EXPLAINED)
        rows = [first, " · ".join(n for n in names if n not in EXPLAINED)]
        title = "ssd_annotated: what the chapters explain, and what serves it"
    else:
        middle = (len(names) + 1) // 2 if len(names) > 4 or width < 220 else len(names)
        rows = [" · ".join(half) for half in (names[:middle], names[middle:]) if half]
        title = f"{part}/"
    text = "".join(
        f'<text x="{x + 12}" y="{y + 42 + 18 * k}">{row}</text>' for k, row in enumerate(rows)
    )
    kind = "core" if part == CORE else "wing"
    return (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
        f'<text class="name" x="{x + 12}" y="{y + 22}">{title}</text>{text}'
    )


def arrow(upper: str, lower: str, lane: int) -> str:
    """A line from the lower edge of one part to the upper edge of another."""
    x0, y0, w0, h0 = PLACES[upper]
    x1, y1, w1, _ = PLACES[lower]
    left, right = max(x0, x1), min(x0 + w0, x1 + w1)
    if left < right:  # one stands above the other
        start = end = left + (right - left) * (lane + 1) / 5
    else:
        start, end = x0 + w0 / 2, x1 + w1 - 30
    return f'<path d="M{start:.0f} {y0 + h0} L{end:.0f} {y1 - 3}" marker-end="url(#tip)"/>'


def draw() -> str:
    """The whole figure as SVG; arrows that leap over another part run beside it."""
    named = modules()
    drawn = "".join(box(part, named[part]) for part in PLACES)
    lines = "".join(
        arrow(upper, lower, lane) for lane, (upper, lower) in enumerate(visible(arrows()))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">
<style>text {{ font: 13px sans-serif; fill: #222 }} .name {{ font-weight: bold }}
rect {{ stroke: #555; fill: #f4f4f4 }} .core {{ fill: #dcebfa; stroke: #1769c6 }}
path {{ stroke: #555; stroke-width: 1.5; fill: none }}</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
orient="auto"><path d="M0 0 L8 4 L0 8 z" style="fill: #555; stroke: none"/></marker></defs>
{drawn}{lines}</svg>
"""


def visible(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows that are not implied: what a neighbour imports may be imported by all above it."""
    below: dict[str, set[str]] = {}
    for a, b in pairs:
        below.setdefault(a, set()).add(b)
    implied = {(a, c) for a in below for b in below[a] for c in below.get(b, ()) if c in below[a]}
    return sorted(pairs - implied)


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
