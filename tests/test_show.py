"""What notebooks show: set-up, source, tables and the checks of exercises."""

import io
import os
import random

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssd_annotated.drawing import plot
from ssd_annotated.matching import match_priors
from ssd_annotated.model import SSD
from ssd_annotated.notebook import show


@pytest.fixture
def shown(monkeypatch):
    """The Markdown that was displayed."""
    texts = []
    monkeypatch.setattr(show, "display", lambda markdown: texts.append(markdown.data))
    return texts


# ---------------------------------------------------------------- the first cell


@pytest.fixture
def restored():
    threads, numbers = torch.get_num_threads(), np.get_printoptions()
    tf32 = torch.backends.cudnn.allow_tf32
    with mpl.rc_context():
        yield
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_num_threads(threads)
    torch.set_printoptions(profile="default")
    np.set_printoptions(**numbers)


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


@pytest.mark.usefixtures("restored")
def test_setup_makes_numbers_repeat_and_print_alike():
    assert show.setup(seed=3) is None
    first = draws()
    show.setup(seed=3)
    assert draws() == first
    show.setup(seed=4)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    assert "0.0000, 1000.0000" in str(torch.tensor([1e-5, 1000.0]))
    assert "0.33333" not in str(np.array([1 / 3]))
    assert plt.rcParams["figure.constrained_layout.use"]
    assert plt.rcParams["figure.figsize"][0] == plot.WIDTH


@pytest.mark.usefixtures("restored")
def test_setup_keeps_the_digits_that_a_gpu_would_round_away():
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's own choice
    show.setup()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("restored")
def test_setup_uses_no_more_threads_than_there_are_cores():
    torch.set_num_threads(64)
    show.setup()
    assert torch.get_num_threads() <= os.cpu_count()


def test_device_is_where_tensors_can_live():
    assert torch.zeros(1, device=show.device()).device.type == show.device().type


@pytest.mark.usefixtures("restored")
def test_figures_are_stored_small_sharp_and_in_exact_colours():
    plot.use_style()
    fig, (left, right) = plt.subplots(1, 2, figsize=(plot.WIDTH, 5))
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    plot.show_image(left, noise)
    plot.show_canvas(right)
    for kind in plot.COLOURS:
        plot.draw_boxes(right, torch.tensor([[0.1, 0.1, 0.9, 0.9]]), kind)
        right.patches[-1].set(fill=True, facecolor=plot.COLOURS[kind])
        right.patches[-1].set_bounds(list(plot.COLOURS).index(kind) / 5, 0, 0.2, 1)
    data, size = show._png(fig)
    plt.close(fig)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "P"
    # Twice the size at which it is shown; the width never changes, empty height goes.
    assert size == {"width": 700, "height": image.height // 2}
    assert image.width == 1400
    assert image.height < 1000
    rgb = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (rgb[0] == 255).all()
    for colour in plot.COLOURS.values():
        exact = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (rgb == exact).all(axis=1).sum() > 500


# ---------------------------------------------------------------- source


def example(x, y=2):
    """Add.

    At length, in a docstring.
    """
    # The order does not matter.
    return x + y  # plain


class Example:
    """A class."""

    size = 3

    def method(self):
        """Say nothing."""
        return "a string that is no docstring"

    def only_documented(self):
        """This is the whole body."""


def test_source_without_docstrings_keeps_comments(shown):
    assert show.show_source(example) is None
    assert shown == [
        "```python\n# test_show.py\ndef example(x, y=2):\n"
        "    # The order does not matter.\n    return x + y  # plain\n```"
    ]


def test_source_of_a_class(shown):
    show.show_source(Example)
    assert shown == [
        "```python\n# test_show.py\nclass Example:\n    size = 3\n\n    def method(self):\n"
        '        return "a string that is no docstring"\n\n'
        '    def only_documented(self):\n        """This is the whole body."""\n```'
    ]


def test_source_of_a_method_is_dedented_and_may_keep_its_docstring(shown):
    show.show_source(Example.method, docstring=True)
    assert '\ndef method(self):\n    """Say nothing."""\n' in shown[0]


@pytest.mark.parametrize("thing", [match_priors, SSD])
def test_the_packages_own_source_runs_and_names_its_file(shown, thing):
    show.show_source(thing)
    first, file, *code = shown[0].splitlines()
    assert first == "```python"
    assert file == f"# {thing.__module__.replace('.', '/')}.py"
    assert thing.__name__ in code[0]
    assert '"""' not in shown[0]
    assert "0x" not in shown[0]
    compile("from __future__ import annotations\n" + "\n".join(code[:-1]), "shown", "exec")


# ---------------------------------------------------------------- tables


def test_markdown_table(shown):
    rows = [("a|b", 1234, 0.123456, True), ("c", 5, 2.0, False)]
    assert show.markdown_table(rows, ("name", "count", "value", "flag")) is None
    assert shown[0].splitlines() == [
        "| name | count | value | flag |",
        "| --- | ---: | ---: | --- |",
        "| a\\|b | 1,234 | 0.1235 | True |",
        "| c | 5 | 2 | False |",
    ]


def test_a_row_of_another_length_is_named(shown):
    with pytest.raises(ValueError, match="a row of 1 cells under a header of 2"):
        show.markdown_table([("a", "b"), ("c",)], ("x", "y"))
    assert not shown


def test_every_column_has_a_name():
    with pytest.raises(ValueError, match="every column needs a name"):
        show.markdown_table([("a", "b")], ("", "y"))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.heads = nn.ModuleList([nn.Conv2d(4, 2, 1), nn.Conv2d(4, 6, 1)])
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        x = self.trunk(x) * self.scale
        return tuple(head(x) for head in self.heads)


@pytest.mark.parametrize(
    ("depth", "rows"),
    [
        (
            None,
            [
                "| trunk.0 | Conv2d | 2 × 4 × 8 × 8 | 112 |",
                "| trunk.1 | BatchNorm2d | 2 × 4 × 8 × 8 | 8 |",
                "| trunk.2 | ReLU | 2 × 4 × 8 × 8 | 0 |",
            ],
        ),
        (1, ["| trunk | Sequential | 2 × 4 × 8 × 8 | 120 |"]),
    ],
)
def test_shape_table(shown, depth, rows):
    assert show.shape_table(Network(), torch.zeros(2, 3, 8, 8), depth=depth) is None
    assert shown[0].splitlines() == [
        "| layer | kind | output shape | parameters |",
        "| --- | --- | --- | ---: |",
        *rows,
        "| heads.0 | Conv2d | 2 × 2 × 8 × 8 | 10 |",
        "| heads.1 | Conv2d | 2 × 6 × 8 × 8 | 30 |",
        "| **together** |  |  | 161 |",
    ]


@pytest.mark.usefixtures("shown")
def test_shape_table_leaves_the_model_as_it_was():
    model = Network()
    model.trunk[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    show.shape_table(model, torch.rand(2, 3, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert not model.trunk[1].training
    assert not any(module._forward_hooks for module in model.modules())


def test_shape_table_of_modules_that_return_several_tensors(shown):
    class Pair(nn.Module):
        def forward(self, x):
            return {"a": x, "b": (x[0], x[:, 0])}

    show.shape_table(nn.Sequential(Pair()), torch.zeros(2, 3))
    assert "| 0 | Pair | 2 × 3, 3, 2 | 0 |" in shown[0]


# ---------------------------------------------------------------- exercises


@pytest.mark.parametrize(
    ("answer", "truth", "tolerance"),
    [
        (3, 3, 0.0),
        (3.0, 3, 0.0),
        (0.1, np.float64(0.1), 0.0),
        (np.float64(0.1), torch.tensor(0.1), 0.0),
        (0.52, 0.5, 0.03),
        (True, True, 0.0),
        (torch.tensor([1, 2]), torch.tensor([1, 2]), 0.0),
        ([1, 2], torch.tensor([1, 2]), 0.0),
        ((1, 2.5), (1, 2.5), 0.0),
        (np.array([1.0, 2.0]), torch.tensor([1.0, 2.1]), 0.2),
        (torch.tensor([float("inf")]), [float("inf")], 0.0),
        (" Bipartite ", "bipartite", 0.0),
        (8732, lambda: 8000 + 732, 0.0),
    ],
)
def test_right_answers(capsys, answer, truth, tolerance):
    assert show.check(answer, truth, tolerance) is None
    assert capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize(
    ("answer", "truth", "tolerance", "complaint"),
    [
        (4, 3, 0.0, "4 is too large"),
        (2.5, lambda: 3, 0.4, "2.5 is too small"),
        (False, True, 0.0, "it is not False"),
        (1, True, 0.0, "the answer is True or False"),
        (float("nan"), 3, 0.0, "nan is not a number"),
        (torch.zeros(3), torch.zeros(4), 0.0, "the shape is (3,), not (4,)"),
        (torch.tensor([1, 2, 3]), torch.tensor([1, 5, 6]), 0.0, "2 of 3 values are off"),
        ((1, 2), (2, 1), 0.0, "2 of 2 values are off"),
        ("three", 3, 0.0, "str is not the kind of answer that was asked for"),
        (None, 3, 0.0, "NoneType is not the kind of answer that was asked for"),
        ("argmax", "bipartite", 0.0, "it is not 'argmax'"),
        (3, "bipartite", 0.0, "it is not 3"),
    ],
)
def test_wrong_answers_are_told_why_but_not_what(capsys, answer, truth, tolerance, complaint):
    show.check(answer, truth, tolerance)
    assert capsys.readouterr().out == f"Not yet: {complaint}.\n"


@pytest.mark.parametrize("answer", [..., (..., ...), [1, ...]])
def test_an_unanswered_exercise_computes_nothing(capsys, answer):
    def truth():
        raise AssertionError("the truth was computed")

    show.check(answer, truth)
    assert capsys.readouterr().out == (
        "Not answered yet. Replace the ... by your answer and run the cell again.\n"
    )
