"""A Sphinx extension that sets the numbers of a table below each other, to the right.

A column of numbers is one in which every cell holds a number, or nothing; its heading goes with it.
"""

from __future__ import annotations

import re

from docutils import nodes

ALIGNED = "text-right"  # the theme's name, which tables of Markdown get for ``---:``
NUMBER = r"[~≈<>≤≥±]?\s?[+\-−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?"
UNIT = r"(?:\s?(?:[%×°]|[a-zA-Zµ]{1,7}))?"
#: A number with its unit, perhaps bounded in words; or two, such as a range or a ratio.
CELL = re.compile(
    rf"(?:about |below |at most )?{NUMBER}{UNIT}(?:(?: (?:to|±|:) |×){NUMBER}{UNIT})?"
)
#: What stands for a number that there is not.
NONE = {"", "-", "–", "—", "·", "∞", "nan", "inf"}


def is_number(text: str) -> bool:
    """Whether a cell holds a number and no other words."""
    return CELL.fullmatch(text.strip()) is not None


def holds_numbers(texts: list[str]) -> bool:
    """Whether a column does: each cell holds one or stands for none, and one is there."""
    texts = [text.strip() for text in texts]
    return any(map(is_number, texts)) and all(t in NONE or is_number(t) for t in texts)


def align(group: nodes.tgroup) -> None:
    """Mark each column of numbers in a table without joined cells, its heading included."""
    rows = list(group.findall(nodes.row))
    body = list(next(group.findall(nodes.tbody)).findall(nodes.row))
    if len({len(row) for row in rows}) != 1:
        return
    for column in range(len(rows[0])):
        if holds_numbers([row[column].astext() for row in body]):
            for row in rows:
                row[column]["classes"] = [*{*row[column]["classes"], ALIGNED}]


def align_all(_app, doctree: nodes.document, _page: str) -> None:
    """Align the tables of a page."""
    for group in doctree.findall(nodes.tgroup):
        align(group)


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("doctree-resolved", align_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
