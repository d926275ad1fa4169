"""*SSD on one page* keeps its promise: what is not a proof is a whole detector, and short."""

import ast
import itertools
import os
import subprocess
import sys

import editions
import pytest

PAGE = editions.BOOK / "text" / "00-one-page.md"
#: Small numbers in place of the page's, so that the copied file runs in seconds.
QUICK = {"length=3000": "length=60", "length=200": "length=8", "steps=1250": "steps=4"}


def is_proof(cell):
    return "proof" in cell.metadata.get("tags", [])


@pytest.fixture(scope="module")
def cells():
    return editions.code_cells(editions.read_twin(PAGE.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def copied(cells):
    """What a reader has who copies every cell that is no proof into one file."""
    return "\n\n".join(cell.source for cell in cells if not is_proof(cell))


def functions(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


def test_the_page_is_short(copied):
    lines = [line for line in copied.splitlines() if line.strip()]
    assert len(lines) <= 250


def test_no_function_of_the_page_is_long(copied):
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions(copied)}
    assert len(lengths) >= 20
    assert max(lengths.values()) <= 15, lengths


def test_the_page_needs_torch_matplotlib_and_the_scenes_alone(copied):
    names = set()
    for node in ast.walk(ast.parse(copied)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert names == {
        "matplotlib.pyplot",
        "torch",
        "torch.nn.functional",
        "torch.optim.lr_scheduler",
        "ssd_annotated.data.graffiti",
    }


def test_a_proof_follows_every_part_at_once(cells):
    unproved = [
        {node.name for node in functions(cell.source)}
        for cell, following in itertools.pairwise(cells)
        if not is_proof(cell) and not is_proof(following) and functions(cell.source)
    ]
    # What only draws, and what only calls the parts for many images.
    assert unproved == [{"draw"}, {"look"}]
    assert sum(map(is_proof, cells)) >= 8


def test_every_proof_could_fail(cells):
    """Each one that prints a verdict asserts something first."""
    for cell in filter(is_proof, cells):
        if "print(" in cell.source:
            assert "assert" in cell.source, cell.source


def test_the_copied_cells_are_one_working_file(copied, tmp_path):
    for usual, quick in QUICK.items():
        assert usual in copied
        copied = copied.replace(usual, quick)
    file = tmp_path / "one_page.py"
    file.write_text(copied, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, file],
        env={
            **os.environ,
            "PYTHONPATH": str(editions.ROOT),
            "MPLBACKEND": "agg",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "mAP@0.5 on 8 test scenes" in done.stdout
