"""Keep the two editions of every chapter in step, and run them.

``book/text/NN-name.md`` is what people edit; ``book/NN-name.ipynb`` is the executed edition.

sync     text -> notebook; outputs stay where a cell's source is unchanged. Never backwards.
execute  sync, run top to bottom in a fresh kernel, bring into normal form, store.
check    list what is wrong with the stored editions (tests/test_notebooks.py asks the same).
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections import defaultdict
from pathlib import Path

from editions import (
    code_cells,
    normalise,
    notebook_of,
    read_notebook,
    read_twin,
    source_hash,
    twins,
    write_notebook,
)
from hygiene import problems
from nbclient import NotebookClient
from nbformat import NotebookNode

CELL_TIMEOUT = 900  # seconds


def synced(text: str, stored: NotebookNode | None) -> NotebookNode:
    """The notebook of a text, with the stored outputs of every cell whose source is unchanged."""
    notebook = read_twin(text)
    runs = defaultdict(list)
    for cell in code_cells(stored) if stored else []:
        if cell.metadata.get("source_hash") == source_hash(cell.source):
            runs[cell.source].append(cell)
    for cell in code_cells(notebook):
        if runs[cell.source]:
            run = runs[cell.source].pop(0)
            cell.outputs, cell.execution_count = run.outputs, run.execution_count
            cell.metadata["source_hash"] = run.metadata["source_hash"]
    return normalise(notebook)


def executed(notebook: NotebookNode, folder: Path, **options: object) -> NotebookNode:
    """Run every cell in a fresh kernel that works in ``folder``; number and sign the cells.

    The options are nbclient's.
    """
    notebook = copy.deepcopy(notebook)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        **options,
    ).execute()
    for number, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = number
        cell.metadata["source_hash"] = source_hash(cell.source)
    return normalise(notebook)


def sync(twin: Path) -> None:
    """Write the notebook of one text."""
    path = notebook_of(twin)
    changed = write_notebook(synced(twin.read_text(encoding="utf-8"), read_notebook(path)), path)
    print(f"{path.stem}: {'written' if changed else 'in step'}")


def execute(twin: Path) -> None:
    """Run one chapter and store it; print what the checks refuse, and fail if there is anything."""
    path, started = notebook_of(twin), time.perf_counter()
    text = twin.read_text(encoding="utf-8")
    write_notebook(executed(synced(text, None), path.parent), path)
    print(f"{path.stem}: executed in {time.perf_counter() - started:.0f} s")
    check(twin)


def check(twin: Path) -> None:
    """Print what is wrong with one chapter, and exit with 1 if anything is."""
    path = notebook_of(twin)
    stored = read_notebook(path)
    found = [f"{path.stem}: never synced"] if stored is None else problems(stored, twin)
    if found:
        sys.exit("\n".join([f"{path.stem}: not fit to be stored", *found]))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=("sync", "execute", "check"))
    parser.add_argument("chapter", nargs="?", help="for example 05-matching; by default all")
    arguments = parser.parse_args()
    for twin in twins(arguments.chapter or None):
        {"sync": sync, "execute": execute, "check": check}[arguments.command](twin)


if __name__ == "__main__":
    main()
