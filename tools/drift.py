"""Run the chapters with the versions installed here, and list what the book no longer says.

nbval fails where an output differs from the stored one; this says which sentences depend on it.
Nothing is stored. Figures are not compared, nor are cells that announce that they vary. ::

    python tools/drift.py               # all chapters
    python tools/drift.py 05-matching
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

from editions import code_cells, normalise, notebook_of, read_notebook, twins
from hygiene import label, tags_of, text_of
from nbformat import NotebookNode
from notebooks import executed

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "matplotlib")


def drift(stored: NotebookNode, now: NotebookNode) -> Iterator[str]:
    """One entry for each output that changed: its cell, the old line and the new, the sentences."""
    for before, after in zip(code_cells(stored), code_cells(now), strict=True):
        old, new = shown(before), shown(after)
        failed = any(output.output_type == "error" for output in after.outputs)
        if "nbval-ignore-output" in tags_of(before) and not failed:
            continue
        for name in old | new:
            if old.get(name) != new.get(name):
                change = "\n".join(difference(old.get(name, ""), new.get(name, "")))
                read = "\n".join(f"  read: {text}" for text in sentences(stored, before, name))
                yield f"{label(before)}, {name}\n{change}\n{read}".rstrip()


def shown(cell: NotebookNode) -> dict[str, str]:
    """What a cell shows as text: glued values under their names, the rest under its number."""
    return {
        output.get("metadata", {}).get("scrapbook", {}).get("name") or f"output {number}": text
        for number, output in enumerate(cell.outputs, start=1)
        if (text := text_of(output))
    }


def difference(old: str, new: str) -> list[str]:
    """The first line that differs, before and now, cut to the width of a terminal."""
    lines = zip_longest(old.splitlines(), new.splitlines(), fillvalue="(nothing)")
    before, now = next((pair for pair in lines if pair[0] != pair[1]), (old, new))
    return [f"  was:  {before[:90]}", f"  now:  {now[:90]}"]


def sentences(notebook: NotebookNode, cell: NotebookNode, name: str) -> list[str]:
    """The sentences that quote a glued value; of any other output, the one that follows it."""
    quote = re.compile(rf"\{{glue[^}}]*\}}`{re.escape(name)}[`:]")
    prose = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    quoting = [s for text in prose for s in split(text) if quote.search(s)]
    place = next(i for i, other in enumerate(notebook.cells) if other is cell)
    following = (c.source for c in notebook.cells[place + 1 :] if c.cell_type == "markdown")
    return quoting or split(next(following, ""))[:1]


def split(text: str) -> list[str]:
    """The sentences of a Markdown text, each on one line."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return [s for part in paragraphs for s in re.split(r"(?<=[.?!])\s+", part) if s]


def changes(twin: Path) -> list[str]:
    """Run one chapter; what changed, by `drift`."""
    path = notebook_of(twin)
    stored = normalise(read_notebook(path))
    return list(drift(stored, executed(stored, path.parent, allow_errors=True)))


def main() -> None:
    """Read the command line; exit with 1 if anything changed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chapter", nargs="?", help="for example 05-matching; by default all")
    parser.add_argument("--jobs", type=int, default=1, help="chapters at a time")
    arguments = parser.parse_args()
    installed = [f"{package} {version(package)}" for package in PACKAGES]
    print(", ".join([f"Python {sys.version.split()[0]}", *installed]), flush=True)
    chapters, changed = twins(arguments.chapter), 0
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for twin, found in zip(chapters, pool.map(changes, chapters), strict=True):
            print(f"{twin.stem}: {len(found)} changed", *found, sep="\n", flush=True)
            changed += len(found)
    sys.exit(changed > 0)


if __name__ == "__main__":
    main()
