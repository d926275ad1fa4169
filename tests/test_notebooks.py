"""The stored notebooks satisfy every rule, and each rule can fail."""

import base64
import copy
import io

import editions
import hygiene
import nbformat
import notebooks
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

CHAPTERS = sorted(editions.BOOK.glob("*.ipynb"))
PNG = base64.b64encode(b"a very small picture").decode()
TEXT = """\
---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A chapter

{numref}`fig-one` shows it.

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-one
    caption: One figure.
  image:
    alt: A line.
---
draw()
```

```{code-cell} ipython3
:tags: [nbval-ignore-output]

1 + 1
```
"""


@pytest.fixture
def good():
    """A notebook that satisfies every rule, made from TEXT as if it had been run."""
    notebook = editions.read_twin(TEXT)
    first, second = editions.code_cells(notebook)
    first.outputs = [new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})]
    second.outputs = [new_output("execute_result", {"text/plain": "2"}, execution_count=2)]
    for number, cell in enumerate((first, second), start=1):
        cell.execution_count = number
        cell.metadata["source_hash"] = editions.source_hash(cell.source)
    return editions.normalise(notebook)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_is_fit_to_be_stored(path):
    found = hygiene.problems(editions.read_notebook(path), path.parent / f"text/{path.stem}.md")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_is_small(path):
    assert path.stat().st_size <= hygiene.NOTEBOOK_LIMIT


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_syncing_a_chapter_changes_no_byte(path, tmp_path):
    text = (path.parent / f"text/{path.stem}.md").read_text(encoding="utf-8")
    copied = tmp_path / path.name
    copied.write_bytes(path.read_bytes())
    stored = editions.read_notebook(path)
    assert not editions.write_notebook(notebooks.synced(text, stored), copied)


def test_every_notebook_has_its_text():
    assert CHAPTERS
    assert {p.stem for p in CHAPTERS} == {p.stem for p in editions.twins()}


def test_figure_names_are_unique_in_the_book():
    names = [
        cell.metadata["mystnb"]["figure"]["name"]
        for path in CHAPTERS
        for cell in editions.code_cells(editions.read_notebook(path))
        if "figure" in cell.metadata.get("mystnb", {})
    ]
    assert len(names) == len(set(names))


# --- Each rule finds what it is for -----------------------------------------------------------


def complaints(notebook):
    """The names of the rules that a notebook breaks."""
    return {rule.__name__ for rule in hygiene.RULES if list(rule(notebook))}


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def error():
    return new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])


def test_good_notebook_breaks_no_rule(good):
    assert complaints(good) == set()
    assert list(hygiene.out_of_step(good, TEXT)) == []


def set_output(cell, output):
    cell.outputs = [output]


BREAKS = {
    "never executed": ("is_executed", lambda a, b: b.update(execution_count=None)),
    "executed twice": ("is_executed", lambda a, b: b.update(execution_count=7)),
    "source edited": ("is_signed", lambda a, b: b.update(source="1 + 2")),
    "no hash": ("is_signed", lambda a, b: b.metadata.pop("source_hash")),
    "address": (
        "has_plain_outputs",
        lambda a, b: set_output(b, stream("<object at 0x7f3a2b1c4d50>")),
    ),
    "unix path": ("has_plain_outputs", lambda a, b: set_output(b, stream("in /home/ada/x.py"))),
    "windows path": ("has_plain_outputs", lambda a, b: set_output(b, stream(r"in C:\ada\x.py"))),
    "path in html": (
        "has_plain_outputs",
        lambda a, b: set_output(b, new_output("display_data", {"text/html": "<b>/tmp/x</b>"})),
    ),
    "warning": ("has_plain_outputs", lambda a, b: set_output(b, stream("UserWarning", "stderr"))),
    "leftover": (
        "has_plain_outputs",
        lambda a, b: set_output(b, stream("Text(0.5, 1.0, 'a title')")),
    ),
    "undeclared error": ("declares_errors", lambda a, b: set_output(b, error())),
    "declared, not raised": (
        "declares_errors",
        lambda a, b: b.metadata.update(tags=["raises-exception"]),
    ),
    "skipped": ("has_honest_tags", lambda a, b: b.metadata.update(tags=["nbval-skip"])),
    "comment": ("has_honest_tags", lambda a, b: b.update(source="# NBVAL_SKIP\n1 + 1")),
    "no name": ("has_described_figures", lambda a, b: a.metadata.mystnb.figure.pop("name")),
    "no caption": ("has_described_figures", lambda a, b: a.metadata.mystnb.figure.pop("caption")),
    "empty caption": (
        "has_described_figures",
        lambda a, b: a.metadata.mystnb.figure.update(caption=" "),
    ),
    "no alt": ("has_described_figures", lambda a, b: a.metadata.mystnb.pop("image")),
    "bare figure": ("has_described_figures", lambda a, b: a.metadata.pop("mystnb")),
    "two figures": ("has_described_figures", lambda a, b: a.outputs.append(a.outputs[0])),
    "never mentioned": (
        "refers_to_figures",
        lambda a, b: a.metadata.mystnb.figure.update(name="fig-two"),
    ),
    "name taken": ("refers_to_figures", lambda a, b: b.metadata.update(mystnb=a.metadata.mystnb)),
    "large": (
        "has_small_figures",
        lambda a, b: a.outputs[0].data.update({"image/png": "A" * 205_000}),
    ),
    "device": ("names_no_device", lambda a, b: b.update(source='model.to("cuda:0")')),
    "empty cell": ("has_no_empty_cells", lambda a, b: b.update(source=" \n")),
}


@pytest.mark.parametrize(("rule", "damage"), BREAKS.values(), ids=BREAKS.keys())
def test_rule_finds_the_damage(good, rule, damage):
    damage(*editions.code_cells(good))
    assert rule in complaints(good)


def test_every_rule_has_a_damage_that_it_finds():
    assert {rule for rule, _ in BREAKS.values()} == {rule.__name__ for rule in hygiene.RULES}


def test_declared_error_is_allowed(good):
    cell = editions.code_cells(good)[1]
    cell.metadata.tags = ["raises-exception"]
    cell.outputs = [error()]
    assert complaints(good) == set()


@pytest.mark.parametrize("text", ["ratio 3/4", "see https://a.org/tmp/x", "0x4 grid", "a/opt/b"])
def test_harmless_output_is_allowed(good, text):
    editions.code_cells(good)[1].outputs = [stream(text)]
    assert complaints(good) == set()


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("1 + 1", "1 + 2"),
        lambda text: text.replace("shows it", "shows that"),
        lambda text: text.replace("nbval-ignore-output", "hide-input"),
        lambda text: text.replace("One figure", "A figure"),
        lambda text: text + "\n```{code-cell} ipython3\n3\n```\n",
        lambda text: text.partition("```{code-cell} ipython3\n:tags")[0],
    ],
    ids=["code", "prose", "tag", "caption", "cell added", "cell removed"],
)
def test_edited_text_is_out_of_step(good, edit):
    assert list(hygiene.out_of_step(good, edit(TEXT)))


# --- The tool ---------------------------------------------------------------------------------


def test_sync_keeps_outputs_of_unchanged_cells_only(good):
    notebook = notebooks.synced(TEXT.replace("1 + 1", "1 + 2"), good)
    first, second = editions.code_cells(notebook)
    assert first.outputs == editions.code_cells(good)[0].outputs
    assert (second.outputs, second.execution_count) == ([], None)
    assert "is_executed" in complaints(notebook)


def test_sync_trusts_no_output_whose_hash_is_wrong(good):
    damaged = copy.deepcopy(good)
    editions.code_cells(damaged)[1].metadata.source_hash = "0" * 64
    assert editions.code_cells(notebooks.synced(TEXT, damaged))[1].outputs == []


def test_sync_of_unchanged_text_is_the_identity(good):
    assert nbformat.writes(notebooks.synced(TEXT, good)) == nbformat.writes(good)


def test_text_keeps_its_metadata_and_the_notebook_no_trace_of_a_machine(good):
    first = editions.code_cells(good)[0]
    assert first.metadata.mystnb.image.alt == "A line."
    assert good.metadata == editions.NOTEBOOK_METADATA


def test_ids_are_unique_and_follow_the_content():
    cells = [new_code_cell("a"), new_code_cell("a"), new_markdown_cell("a")]
    first = editions.normalise(new_notebook(cells=cells))
    again = editions.normalise(new_notebook(cells=[new_code_cell("b"), *cells]))
    ids = [cell.id for cell in first.cells]
    assert len(set(ids)) == 3
    assert [cell.id for cell in again.cells[1:]] == ids


def test_progress_bars_are_dropped_and_warnings_are_kept():
    bar = stream("\r 50%|#####     | 5/10 [00:01<00:01, 4.2it/s]\n", "stderr")
    warning = stream("UserWarning: look out\n", "stderr")
    cell = new_code_cell("run()", outputs=[bar, warning])
    mixed = editions.normalise(new_notebook(cells=[cell])).cells[0].outputs
    cell = new_code_cell("run()", outputs=[bar, stream("done\n"), stream("twice\n")])
    clean = editions.normalise(new_notebook(cells=[cell])).cells[0].outputs
    assert [o.name for o in mixed] == ["stderr"]
    assert "look out" in mixed[0].text
    assert [(o.name, o.text) for o in clean] == [("stdout", "done\ntwice\n")]


def test_traceback_names_no_file():
    raised = new_output("error", ename="ValueError", evalue="no", traceback=["File /home/ada/x"])
    cell = new_code_cell("fail()", outputs=[raised])
    assert editions.normalise(new_notebook(cells=[cell])).cells[0].outputs == [error()]


def test_large_figure_is_repainted_below_the_limit():
    import numpy as np
    from PIL import Image

    ramp = np.linspace(0, 255, 700 * 700).reshape(700, 700)
    noise = np.random.default_rng(0).normal(0, 4, (700, 700, 3))
    picture = Image.fromarray((ramp[..., None] + noise).clip(0, 255).astype(np.uint8))
    picture = picture.resize((500, 500)).quantize(256).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=0)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    repainted = editions.shrink_png(encoded)
    assert len(encoded) * 3 / 4 > editions.FIGURE_LIMIT
    assert len(repainted) * 3 / 4 <= editions.FIGURE_LIMIT
    assert editions.shrink_png(repainted) == repainted


def test_executing_runs_in_order_in_a_fresh_kernel(tmp_path):
    cells = [new_code_cell("import os\nx = 20"), new_code_cell("print(x + 1)\nos.listdir()")]
    (tmp_path / "here.txt").touch()
    notebook = notebooks.executed(new_notebook(cells=cells), tmp_path)
    printed, value = editions.code_cells(notebook)[1].outputs
    assert printed.text == "21\n"
    assert value.data["text/plain"] == "['here.txt']"
    assert complaints(notebook) == set()


def test_unknown_chapter_is_refused():
    with pytest.raises(ValueError, match="no chapter 'no-such-chapter'"):
        editions.twins("no-such-chapter")
