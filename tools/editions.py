"""The two editions of a chapter, and the normal form in which a notebook is stored.

``book/text/NN-name.md`` is what people edit; ``book/NN-name.ipynb`` is the executed edition.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import re
from collections import defaultdict
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
FIGURE_LIMIT = 150 * 1024  # bytes
# The same in every notebook, for any author and any Python.
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PROGRESS = re.compile(r"\d+%\||it/s|s/it")


# --- The two editions -------------------------------------------------------------------------


def notebook_of(twin: Path) -> Path:
    """The executed edition of the text at ``twin``."""
    return twin.parent.parent / f"{twin.stem}.ipynb"


def twins(chapter: str | None = None, book: Path = BOOK) -> list[Path]:
    """All texts, or the one of ``chapter`` (its file name without the ending)."""
    found = sorted((book / "text").glob(f"{chapter or '*'}.md"))
    if chapter and not found:
        raise ValueError(f"no chapter {chapter!r}: expected the name of a file in book/text")
    return found


def read_twin(text: str) -> NotebookNode:
    """Parse a MyST text into a notebook without outputs."""
    notebook = jupytext.reads(text, fmt="md:myst")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def read_notebook(path: Path) -> NotebookNode | None:
    """The stored notebook, or None before the first sync."""
    return nbformat.read(path, as_version=4) if path.exists() else None


def write_notebook(notebook: NotebookNode, path: Path) -> bool:
    """Store a notebook if it changed; return whether it did."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that can be run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def source_hash(source: str) -> str:
    """SHA-256 of a cell's source: stored beside the outputs, it proves that they belong to it."""
    return hashlib.sha256(source.encode()).hexdigest()


# --- Normal form: what two runs or two machines would write differently ------------------------


def normalise(notebook: NotebookNode) -> NotebookNode:
    """A copy without timings, progress bars and random names; the rest is left alone."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [tidy(output) for output in merge_streams(cell.outputs)]
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
    set_stable_ids(notebook)
    return notebook


def set_stable_ids(notebook: NotebookNode) -> None:
    """Name each cell after its content, so that an id changes only where the text does."""
    seen: dict[str, int] = defaultdict(int)
    for cell in notebook.cells:
        digest = source_hash(f"{cell.cell_type}\n{cell.source}")[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream, and leave out progress bars."""
    merged: list[NotebookNode] = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            merged.append(copy.deepcopy(output))
    return [output for output in merged if not is_progress_bar(output)]


def is_progress_bar(output: NotebookNode) -> bool:
    """Whether every line of a stderr stream is a progress bar or blank."""
    if output.output_type != "stream" or output.name != "stderr":
        return False
    lines = [line for line in re.split(r"[\r\n]+", output.text) if line.strip()]
    return all(PROGRESS.search(line) for line in lines)


def tidy(output: NotebookNode) -> NotebookNode:
    """One output with a one-line traceback (frames name files) and a figure that fits its limit."""
    if output.output_type == "error":
        output.traceback = [f"{output.ename}: {output.evalue}"]
    if "image/png" in output.get("data", {}):
        output.data["image/png"] = shrink_png(output.data["image/png"].strip())
    return output


def shrink_png(encoded: str) -> str:
    """Repaint a figure above the limit with the most colours that keep it below."""
    from PIL import Image

    data = base64.b64decode(encoded)
    if len(data) <= FIGURE_LIMIT:
        return encoded
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    for colours in (256, 128, 64):
        small = io.BytesIO()
        palette = picture.quantize(colours, dither=Image.Dither.NONE)
        palette.save(small, "PNG", optimize=True)
        if small.tell() <= FIGURE_LIMIT:
            return base64.b64encode(small.getvalue()).decode()
    return encoded
