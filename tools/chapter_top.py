"""A Sphinx extension for the box below a chapter's title, which has the class ``goals``.

The text says what readers will be able to do, and which figure to remember. The build adds what it
alone knows: the picture of that figure, and how long the chapter takes to read.
"""

from __future__ import annotations

from docutils import nodes

#: What somebody who thinks along reads in a minute: words of prose, or lines of code.
WORDS, LINES = 180, 20


def code_lines(doctree: nodes.document) -> int:
    """The lines of all cells."""
    cells = [c for c in doctree.findall(nodes.container) if "cell_input" in c["classes"]]
    blocks = [block for cell in cells for block in cell.findall(nodes.literal_block)]
    return sum(block.astext().count("\n") + 1 for block in blocks)


def reading_minutes(doctree: nodes.document) -> int:
    """How long the text and the code take, to five minutes."""
    words = sum(len(p.astext().split()) for p in doctree.findall(nodes.paragraph))
    return max(5, 5 * round((words / WORDS + code_lines(doctree) / LINES) / 5))


def picture(doctree: nodes.document, link: nodes.reference) -> nodes.reference | None:
    """The figure that ``link`` leads to, small, as a link to it; the page loads no second file."""
    for figure in doctree.findall(nodes.figure):
        if link.get("refid") in figure["ids"]:
            image = next(figure.findall(nodes.image)).deepcopy()
            image["alt"] = f"Go to {link.astext()}"
            return nodes.reference(
                "", "", image, refid=link["refid"], internal=True, classes=["goals-figure"]
            )
    return None


def complete(_app, doctree: nodes.document, _page: str) -> None:
    """Add picture and reading time to the box, on pages that have one."""
    for box in doctree.findall(nodes.admonition):
        if "goals" not in box["classes"]:
            continue
        found = [picture(doctree, link) for link in box.findall(nodes.reference)]
        box[1:1] = [p for p in found if p is not None]
        text = f"Reading time: about {reading_minutes(doctree)} minutes."
        box.append(nodes.paragraph(text, text, classes=["reading-time"]))


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("doctree-resolved", complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
