"""A Sphinx extension that reads docstrings written for a terminal, without extra mark-up."""

import re

from docutils import nodes
from sphinx import addnodes

LONGEST = 120  # characters of a value; the presets have thousands, and the source is a click away
LITERAL = re.compile(r"(``.+?``)")


def bars(line: str) -> str:
    """Keep |A ∩ B| as a size; reStructuredText would look for a substitution."""
    return "".join(
        part if LITERAL.fullmatch(part) else part.replace("|", r"\|")
        for part in LITERAL.split(line)
    )


def prepare(app, what, name, obj, options, lines: list[str]) -> None:
    """Change `lines` in place, before napoleon reads them."""
    lines[:] = map(bars, lines)
    if what in ("attribute", "property", "data"):
        # Napoleon takes words before a colon in the first line for a type; a comment stops it.
        lines[:0] = ["..", ""]


def leave_out(app, what, name, obj, skip, options) -> bool | None:
    """Leave out the fields of a named tuple that Python alone describes; its signature has them."""
    return True if (obj.__doc__ or "").startswith("Alias for field number") else None


def shorten(app, domain, objtype, content) -> None:
    """Leave a long value out of its signature."""
    for note in content.parent.findall(addnodes.desc_annotation):
        if note.astext().lstrip().startswith("=") and len(note.astext()) > LONGEST:
            note.clear()
            note += nodes.Text(" = …")


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", prepare, priority=400)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("object-description-transform", shorten)
    return {"parallel_read_safe": True}
