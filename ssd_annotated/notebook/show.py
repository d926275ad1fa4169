"""What every notebook needs: one set-up cell, the package's own source, tables, exercise checks.

Nothing shown here depends on the machine: no address, no path, no time.
"""

import ast
import inspect
import io
import os
import random
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import torch
from IPython import get_ipython
from IPython.display import Markdown, display
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image
from torch import Tensor, nn

from ssd_annotated.drawing import plot
from ssd_annotated.model import evaluating

UNANSWERED = "Not answered yet. Replace the ... by your answer and run the cell again."


# ------------------------------------------------------------------------------ the first cell


def setup(seed: int = 0) -> None:
    """Make a notebook repeatable: seeds, threads, how numbers print, how figures look.

    The same seed gives the same numbers on one machine; another processor, thread count or GPU
    rounds differently, which training then amplifies.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  libraries that draw from the global state are the reason
    torch.manual_seed(seed)
    torch.set_num_threads(min(torch.get_num_threads(), _usable_cores()))
    # Otherwise Nvidia's convolutions round their inputs to ten bits: the third digit differs.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_printoptions(precision=4, sci_mode=False, linewidth=100)
    np.set_printoptions(precision=4, suppress=True, linewidth=100)
    plot.use_style()
    shell = get_ipython()
    if shell is not None:
        _store_small_figures(shell)


def device() -> torch.device:
    """The GPU if there is one that CUDA can use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _usable_cores() -> int:
    """Cores this process may run on, which can be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _store_small_figures(shell: object) -> None:
    """Notebooks store figures at twice the screen's resolution, photographs in 256 colours."""
    # The backend registers its own PNG writer when it starts, so it must have started before.
    shell.run_line_magic("matplotlib", "inline")
    shell.display_formatter.formatters["image/png"].for_type(Figure, _png)


def _png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """The figure as PNG of twice its dpi, and the size at which to show it."""
    figure.draw_without_rendering()  # settles the layout
    used = figure.get_tightbbox()
    # Cropped in height only: all figures keep their width, hence one size of text.
    crop = Bbox([[0, used.y0 - 0.06], [figure.get_figwidth(), used.y1 + 0.06]])
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=2 * figure.dpi, bbox_inches=crop)
    pixels = Image.open(raw).convert("RGB")
    _in_256_colours(pixels).save(small, "png", optimize=True)
    return small.getvalue(), {"width": pixels.width // 2, "height": pixels.height // 2}


def _in_256_colours(pixels: Image.Image) -> Image.Image:
    """A copy with a palette, which makes photographs a third of the size.

    The colours with a meaning, and the 64 that cover most of the figure, are kept exactly.
    """
    counted = sorted(pixels.getcolors(pixels.width * pixels.height), reverse=True)
    meant = [tuple(round(255 * c) for c in to_rgb(colour)) for colour in plot.COLOURS.values()]
    kept = list(dict.fromkeys([*meant, *(colour for _, colour in counted[:64])]))
    room = 256 - len(kept)
    common = pixels.quantize(room, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    indices, codes = np.array(common), np.asarray(pixels).astype(int) @ (1, 256, 65536)
    for index, (red, green, blue) in enumerate(kept, start=room):
        indices[codes == red + 256 * green + 65536 * blue] = index
    palette = (common.getpalette() + 3 * room * [0])[: 3 * room]
    small = Image.fromarray(indices)
    small.putpalette(palette + [channel for colour in kept for channel in colour])
    return small


# ------------------------------------------------------------------------------ source and tables


def show_source(thing: Callable | type, docstring: bool = False) -> None:
    """Display the package's own source of a function or class, the code that really runs.

    Docstrings, which repeat what a chapter says at length, are left out unless asked for.
    """
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))
    if not docstring:
        source = _without_docstrings(source)
    module = PurePosixPath(*thing.__module__.split(".")).with_suffix(".py")
    display(Markdown(f"```python\n# {module}\n{source.rstrip()}\n```"))


def _without_docstrings(source: str) -> str:
    """Cut the lines of every docstring; comments and everything else stay as they are."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        # A body that is nothing but its docstring would be empty without it.
        if ast.get_docstring(node) is None or len(node.body) == 1:
            continue
        first = node.body[0]
        blank = isinstance(node, ast.ClassDef) and not lines[first.end_lineno].strip()
        for number in range(first.lineno - 1, first.end_lineno + blank):
            lines[number] = None
    return "\n".join(line for line in lines if line is not None)


def markdown_table(rows: Iterable[Sequence[object]], header: Sequence[str]) -> None:
    """Display rows as a table; columns of numbers are flushed right, floats get 4 digits."""
    rows = [list(row) for row in rows]
    if not all(header):
        raise ValueError(f"every column needs a name, for those who do not see it: {header}")
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells under a header of {len(header)}: {row}")
    numeric = [bool(rows) and all(_is_number(r[k]) for r in rows) for k in range(len(header))]
    lines = [header, ["---:" if right else "---" for right in numeric], *rows]
    display(Markdown("\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if _is_number(value):
        return f"{value:,}"
    return str(value).replace("|", "\\|")


@torch.no_grad()
def shape_table(model: nn.Module, images: Tensor, depth: int | None = None) -> None:
    """Run the model and display, layer by layer, the shape that comes out and the parameters.

    Parameters
    ----------
    images
        A batch; the run does not change the model, its running statistics included.
    depth
        How many levels of modules to open, not counting lists: 1 shows the model's own parts, None
        everything down to single layers. Only modules that are called as a whole are seen.
    """
    rows = []

    def note(name: str, module: nn.Module, _: object, output: object) -> None:
        count = sum(p.numel() for p in module.parameters())
        rows.append((name, type(module).__name__, _shapes(output), count))

    hooks = [m.register_forward_hook(partial(note, name)) for name, m in _layers(model, depth)]
    try:
        with evaluating(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    total = sum(p.numel() for p in model.parameters())
    rows.append(("**together**", "", "", total))
    markdown_table(rows, ("layer", "kind", "output shape", "parameters"))


def _layers(
    module: nn.Module, depth: int | None, prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the rows of a shape table. A list of modules is never called itself."""
    for name, child in module.named_children():
        name = prefix + name
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _layers(child, depth, name + ".")
        elif depth == 1 or not list(child.children()):
            yield name, child
        else:
            yield from _layers(child, depth and depth - 1, name + ".")


def _shapes(output: object) -> str:
    """The shapes of a tensor, or of all tensors of a (named) tuple, list or dict."""
    if isinstance(output, Tensor):
        return " × ".join(map(str, output.shape))
    values = output.values() if isinstance(output, dict) else output
    return ", ".join(_shapes(value) for value in values)


# ------------------------------------------------------------------------------ exercises


def check(answer: object, truth: object, tolerance: float = 0.0) -> None:
    """Say whether the answer to an exercise is right, without giving it away.

    Parameters
    ----------
    answer
        A number, boolean, string, tensor, array, or a tuple or list of such. ``...``, as the
        exercise leaves it, counts as not answered.
    truth
        The right answer, or a function without arguments that computes it if there is an answer.
    tolerance
        How far a number may be off, in its own unit.
    """
    if _unanswered(answer):
        print(UNANSWERED)
        return
    complaint = _compare(answer, truth() if callable(truth) else truth, tolerance)
    print(f"Not yet: {complaint}." if complaint else "Right.")


def _unanswered(answer: object) -> bool:
    parts = answer if isinstance(answer, tuple | list) else (answer,)
    return any(part is ... for part in parts)


def _compare(answer: object, truth: object, tolerance: float) -> str:
    """What is wrong with the answer; an empty string if nothing is."""
    if isinstance(truth, str):
        same = isinstance(answer, str) and answer.strip().lower() == truth.strip().lower()
        return "" if same else f"it is not {answer!r}"
    try:
        given, right = (torch.as_tensor(value, device="cpu") for value in (answer, truth))
    except (TypeError, ValueError, RuntimeError):
        return f"{type(answer).__name__} is not the kind of answer that was asked for"
    if given.shape != right.shape:
        return f"the shape is {tuple(given.shape)}, not {tuple(right.shape)}"
    if right.dtype == torch.bool and given.dtype != torch.bool:
        return "the answer is True or False"
    if right.dtype == torch.bool and right.ndim == 0:
        return "" if given == right else f"it is not {answer}"
    # A Python number becomes single precision; compared in double it would miss a NumPy double.
    single = torch.float32 in (given.dtype, right.dtype)
    dtype = torch.float32 if single else torch.float64
    return _compare_numbers(given.to(dtype), right.to(dtype), tolerance)


def _compare_numbers(given: Tensor, right: Tensor, tolerance: float) -> str:
    wrong = ~((given - right).abs() <= tolerance) & (given != right)
    if not wrong.any():
        return ""
    if given.ndim:
        return f"{int(wrong.sum())} of {given.numel()} values are off"
    if given.isnan():
        return "nan is not a number"
    return f"{given.item():.6g} is {'too large' if given > right else 'too small'}"
