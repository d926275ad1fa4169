"""The tool that says which sentences of the book are no longer true."""

import copy

import drift
import editions
import notebooks
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

GLUE = "from myst_nb import glue\nglue('half', {half}, display=False)"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A tiny chapter, as it was once run."""
    cells = [
        new_markdown_cell("# Halves\n\nA title."),
        new_code_cell("print('line one')\nprint('line two')"),
        new_markdown_cell("The second line is two. It has a friend.\n\nA new paragraph."),
        new_code_cell(GLUE.format(half=0.5)),
        new_markdown_cell("One is odd. Half\nof it is {glue:text}`half`. {glue:text}`half-not`."),
        new_code_cell("7 * 6", metadata={"tags": ["nbval-ignore-output"]}),
        new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}),
        # On disk its two formats are sorted by their names, and a kernel sends them otherwise.
        new_code_cell("from IPython.display import Markdown\ndisplay(Markdown('a *table*'))"),
    ]
    folder = tmp_path_factory.mktemp("chapter")
    return notebooks.executed(new_notebook(cells=cells), folder)


def run(stored, folder, changes):
    """What drifted, where some cells, by their number, do something else by now."""
    now = copy.deepcopy(stored)
    for number, source in changes.items():
        editions.code_cells(now)[number].source = source
    return list(drift.drift(stored, notebooks.executed(now, folder, allow_errors=True)))


def test_what_is_as_it_was_is_not_listed(stored, tmp_path):
    assert run(stored, tmp_path, {2: "7 * 7"}) == []  # this cell says that it varies


def test_each_change_is_listed_with_the_sentence_that_depends_on_it(stored, tmp_path):
    changes = {
        0: "print('line one')\nprint('line 2')",
        1: GLUE.format(half=0.25),
        2: "raise ValueError('gone')",
        3: "1 / 1",
    }
    printed, glued, failed, raised = run(stored, tmp_path, changes)
    assert printed.splitlines() == [
        "cell 1 `print('line one')`, output 1",
        "  was:  line two",
        "  now:  line 2",
        "  read: The second line is two.",
    ]
    assert glued.splitlines()[1:] == [
        "  was:  0.5",
        "  now:  0.25",
        "  read: Half of it is {glue:text}`half`.",
    ]
    assert failed.splitlines()[1:] == ["  was:  42", "  now:  ValueError: gone"]
    assert raised.splitlines()[1:] == [
        "  was:  ZeroDivisionError: division by zero",
        "  now:  1.0",
    ]


def test_lines_that_came_or_went_are_a_change(stored, tmp_path):
    (more,) = run(stored, tmp_path, {0: "print('line one\\nline two\\nline three')"})
    assert more.splitlines()[1:3] == ["  was:  (nothing)", "  now:  line three"]
    (none,) = run(stored, tmp_path, {0: "pass"})
    assert none.splitlines()[1:3] == ["  was:  line one", "  now:  (nothing)"]


def test_a_chapter_is_run_and_compared_with_what_is_stored(stored, tmp_path):
    twin = tmp_path / "text" / "99-halves.md"
    editions.write_notebook(stored, tmp_path / "99-halves.ipynb")
    assert drift.changes(twin) == []
    old = copy.deepcopy(stored)
    editions.code_cells(old)[0].outputs[0].text = "something else\n"
    editions.write_notebook(old, tmp_path / "99-halves.ipynb")
    (change,) = drift.changes(twin)
    assert change.splitlines()[0] == "cell 1 `print('line one')`, output 1"
