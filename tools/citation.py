"""A Sphinx extension with one directive, ``citation``: how to cite the book, from CITATION.cff."""

from __future__ import annotations

from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive

FILE = Path(__file__).resolve().parent.parent / "CITATION.cff"


def bibtex(facts: dict, year: str) -> str:
    """The entry for BibTeX."""
    authors = " and ".join(f"{{{author['name']}}}" for author in facts["authors"])
    return (
        "@software{annotated-ssd,\n"
        f"  title   = {{{facts['title']}}},\n"
        f"  author  = {{{authors}}},\n"
        f"  version = {{{facts['version']}}},\n"
        f"  year    = {{{year}}},\n"
        "}"
    )


class Citation(Directive):
    """Shows the entry, with the theme's button to copy it."""

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        facts = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        env = self.state.document.settings.env
        env.note_dependency(str(FILE))
        text = bibtex(facts, env.config.copyright)
        return [nodes.literal_block(text, text, language="bibtex")]


def setup(app) -> dict:
    """Called by Sphinx."""
    app.add_directive("citation", Citation)
    return {"parallel_read_safe": True}
