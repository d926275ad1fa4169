"""The rules for stored notebooks. Each rule yields one sentence for each fault that it finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from editions import FIGURE_LIMIT, code_cells, read_twin, source_hash
from nbformat import NotebookNode

NOTEBOOK_LIMIT = 1536 * 1024  # bytes
# Tags that would hide a cell, or its failure, from the tests.
FORBIDDEN_TAGS = {
    "nbval-skip",
    "nbval-raises-exception",
    "nbval-ignore-error",
    "skip-execution",
    "remove-output",
    "remove-cell",
}
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,}\b")
# The first folder of an absolute path, on Linux, macOS and Windows.
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.~:/])/(?:root|home|Users|tmp|work|workspace|usr|opt|var|mnt|srv|private|content)/\w"
    r"|\b[A-Za-z]:\\\w"
)
# What matplotlib's functions return, shown because the cell did not end with plt.show().
LEFTOVER = re.compile(r"^\[?<matplotlib\.|^\[?Text\(|^<Axes|^<Figure .* with 0 Axes>", re.MULTILINE)
# A device by its name. `.cpu()` is allowed: what is drawn must be fetched from any device.
DEVICE = re.compile(r"""["'](?:cuda|cpu|mps)(?::\d+)?["']|\.cuda\(""")
Rule = Callable[[NotebookNode], Iterator[str]]


def text_of(output: NotebookNode) -> str:
    """All that an output shows as text, in whatever format."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return "\n".join(output.traceback)
    data = sorted(output.data.items())  # as in a file; a kernel has its own order
    return "\n".join(str(value) for kind, value in data if not kind.startswith("image/"))


def images_of(cell: NotebookNode) -> list[str]:
    """The cell's raster images, base64."""
    data = [output.get("data", {}) for output in cell.outputs]
    return [d[kind] for d in data for kind in ("image/png", "image/jpeg") if kind in d]


def tags_of(cell: NotebookNode) -> set[str]:
    """The cell's tags."""
    return set(cell.metadata.get("tags", []))


def label(cell: NotebookNode) -> str:
    """The cell's first line, by which a person finds the cell."""
    first = next((line for line in cell.source.splitlines() if line.strip()), "(empty)")
    return f"cell {cell.get('execution_count') or '[ ]'} `{first[:60]}`"


# --- The rules --------------------------------------------------------------------------------


def is_executed(notebook: NotebookNode) -> Iterator[str]:
    """One run executed every code cell, in order."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        if cell.execution_count is None:
            yield f"{label(cell)}: never executed"
        elif cell.execution_count != number:
            yield f"{label(cell)}: executed out of order, expected number {number}"


def is_signed(notebook: NotebookNode) -> Iterator[str]:
    """Outputs belong to the source above them."""
    for cell in code_cells(notebook):
        if cell.metadata.get("source_hash") != source_hash(cell.source):
            yield f"{label(cell)}: the source is not the one that was executed"


def has_plain_outputs(notebook: NotebookNode) -> Iterator[str]:
    """Outputs hold nothing that differs between machines, and no surprise."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            text = text_of(output)
            if found := ADDRESS.search(text):
                yield f"{label(cell)}: a memory address in the output, {found[0]}"
            if found := ABSOLUTE_PATH.search(text):
                yield f"{label(cell)}: an absolute path in the output, {found[0]}..."
            if found := LEFTOVER.search(text):
                yield f"{label(cell)}: a leftover of drawing, {found[0]}...; end with plt.show()"
            if output.output_type == "stream" and output.name == "stderr":
                yield f"{label(cell)}: wrote to stderr: {text.strip()[:80]}"


def declares_errors(notebook: NotebookNode) -> Iterator[str]:
    """A cell raises an error exactly if its tag announces one."""
    for cell in code_cells(notebook):
        raised = any(output.output_type == "error" for output in cell.outputs)
        declared = "raises-exception" in tags_of(cell)
        if raised and not declared:
            yield f"{label(cell)}: raised an exception without the tag raises-exception"
        if declared and not raised:
            yield f"{label(cell)}: is tagged raises-exception but raised nothing"


def has_honest_tags(notebook: NotebookNode) -> Iterator[str]:
    """No tag hides a cell from the tests, and no comment does a tag's work."""
    for cell in code_cells(notebook):
        for tag in sorted(tags_of(cell) & FORBIDDEN_TAGS):
            yield f"{label(cell)}: carries the forbidden tag {tag}"
        if re.search(r"^\s*#\s*(NBVAL_|PYTEST_VALIDATE)", cell.source, re.MULTILINE):
            yield f"{label(cell)}: use a tag, not a comment, to instruct nbval"


def has_described_figures(notebook: NotebookNode) -> Iterator[str]:
    """Every figure has a name, a caption and an alternative text; a cell draws one figure."""
    for cell in code_cells(notebook):
        images = images_of(cell)
        if not images:
            continue
        mystnb = cell.metadata.get("mystnb", {})
        for part, key in (("figure", "name"), ("figure", "caption"), ("image", "alt")):
            if not str(mystnb.get(part, {}).get(key, "")).strip():
                yield f"{label(cell)}: the figure has no {key} (mystnb: {part}: {key})"
        if len(images) > 1:
            yield f"{label(cell)}: draws {len(images)} images, expected one named figure per cell"


def refers_to_figures(notebook: NotebookNode) -> Iterator[str]:
    """Every named figure is unique, and mentioned by number in the prose."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    seen = set()
    for cell in code_cells(notebook):
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        if name is None:
            continue
        if name in seen:
            yield f"{label(cell)}: the figure name {name} is taken"
        seen.add(name)
        if not re.search(rf"\{{numref\}}`(?:[^`]*<)?{re.escape(name)}>?`", prose):
            yield f"{label(cell)}: no sentence refers to {{numref}}`{name}`"


def has_small_figures(notebook: NotebookNode) -> Iterator[str]:
    """Figures load fast and do not swell the repository."""
    for cell in code_cells(notebook):
        for image in images_of(cell):
            size = len(image) * 3 // 4
            if size > FIGURE_LIMIT:
                limit = FIGURE_LIMIT // 1024
                yield f"{label(cell)}: a figure of {size // 1024} KB, expected at most {limit} KB"


def names_no_device(notebook: NotebookNode) -> Iterator[str]:
    """Chapters run with and without a GPU: show.device() says where."""
    for cell in code_cells(notebook):
        if found := DEVICE.search(cell.source):
            yield f"{label(cell)}: names the device {found[0]}, expected show.device()"


def has_no_empty_cells(notebook: NotebookNode) -> Iterator[str]:
    """An empty cell is a leftover."""
    for index, cell in enumerate(notebook.cells):
        if not cell.source.strip():
            yield f"the {cell.cell_type} cell at index {index} is empty"


RULES: tuple[Rule, ...] = (
    is_executed,
    is_signed,
    has_plain_outputs,
    declares_errors,
    has_honest_tags,
    has_described_figures,
    refers_to_figures,
    has_small_figures,
    names_no_device,
    has_no_empty_cells,
)


def out_of_step(notebook: NotebookNode, text: str) -> Iterator[str]:
    """The notebook says what its text says: same cells, same sources, same metadata."""
    mine, theirs = ([spoken(c) for c in nb.cells] for nb in (notebook, read_twin(text)))
    for index, (stored, written) in enumerate(zip(mine, theirs, strict=False)):
        if stored != written:
            yield f"cell at index {index} differs from the text; `make sync` brings it into step"
            return
    if len(mine) != len(theirs):
        yield f"{len(mine)} cells, but {len(theirs)} in the text; `make sync` brings it into step"


def spoken(cell: NotebookNode) -> tuple:
    """The parts of a cell that a text determines."""
    metadata = {key: value for key, value in cell.metadata.items() if key != "source_hash"}
    return cell.cell_type, cell.source, metadata


def problems(notebook: NotebookNode, twin: Path) -> list[str]:
    """All that is wrong with a stored notebook, given the text it was made from."""
    found = [sentence for rule in RULES for sentence in rule(notebook)]
    return found + list(out_of_step(notebook, twin.read_text(encoding="utf-8")))
