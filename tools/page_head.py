"""A Sphinx extension for what search engines and other sites read, and for those who find mistakes.

Every page gets a description and a card for links to it. Where the address of the published book is
known (``html.baseurl``), the card has a picture, and there is a map of the site; where that of the
repository is known (``repository.url``), each page ends with a link to report a mistake.
"""

from __future__ import annotations

import re
from html import escape, unescape
from pathlib import Path
from urllib.parse import quote

from docutils import nodes

LONGEST = 160  # characters that search engines show of a description
SITE = "The Annotated SSD"
ABOUT = (
    "The Single Shot MultiBox Detector, derived, drawn and run, "
    "and proved equal to the code that trains."
)


def shortened(text: str, longest: int = LONGEST) -> str:
    """As many whole sentences as fit; at least the first, cut at a word where it is too long."""
    words = text.split()
    fitting = ""
    for end in range(len(words), 0, -1):
        fitting = " ".join(words[:end])
        if len(fitting) <= longest and fitting[-1] in ".?!":
            return fitting
    while len(fitting := " ".join(words)) > longest - 2:
        words.pop()
    return f"{fitting} …"


def description(doctree: nodes.document | None) -> str:
    """The first sentences of a page, or of the book where a page has none."""
    section = next(doctree.findall(nodes.section), None) if doctree else None
    children = section.children if section else []
    plain = [c.astext() for c in children if isinstance(c, nodes.paragraph) and not has_math(c)]
    return shortened(" ".join(plain)) if plain else ABOUT


def plain_text(html: str) -> str:
    """A title without its tags; what was escaped in it is not escaped twice."""
    return unescape(re.sub(r"<[^>]+>", "", html))


def has_math(node: nodes.Node) -> bool:
    """Whether LaTeX would show."""
    return next(node.findall(nodes.math), None) is not None


def tags(title: str, about: str, base: str, page: str, cards: Path) -> str:
    """The head's tags for one page; pictures need a full address, so they need ``base``."""
    facts = {
        "og:title": title,
        "og:description": about,
        "og:type": "article",
        "og:site_name": SITE,
        "twitter:card": "summary",
    }
    if base:
        card = f"cards/{Path(page).name}.jpg"
        picture = card if (cards.parent / card).exists() else "detections.jpg"
        facts["og:url"] = f"{base.rstrip('/')}/{page}.html"
        facts["og:image"] = f"{base.rstrip('/')}/_static/{picture}"
        facts["twitter:card"] = "summary_large_image"
    lines = [f'<meta name="description" content="{escape(about)}" />']
    for name, value in facts.items():
        kind = "name" if name.startswith("twitter") else "property"
        lines.append(f'<meta {kind}="{name}" content="{escape(value)}" />')
    return "\n".join(lines)


def report_link(repository: str, page: str) -> str:
    """A link to the form for a mistake, with the page's name filled in."""
    address = f"{repository}/issues/new?title={quote(f'Mistake in {page}: ')}"
    return f'<p class="report"><a href="{escape(address)}">Report a mistake on this page</a></p>'


def add_to_page(app, page: str, _template: str, context: dict, doctree) -> None:
    """Write the tags into the page's head and the link at its end."""
    title = plain_text(context.get("title") or SITE)
    cards = Path(app.srcdir) / "book" / "_static" / "cards"
    head = tags(title, description(doctree), app.config.html_baseurl, page, cards)
    context["metatags"] = f"{context.get('metatags', '')}\n{head}"
    repository = (app.config.html_theme_options or {}).get("repository_url")
    if repository and doctree is not None:
        context["body"] += report_link(repository, page)


def sitemap(base: str, pages: list[str]) -> str:
    """All pages in the form of sitemaps.org."""
    root = escape(base.rstrip("/"))
    rows = "".join(f"<url><loc>{root}/{page}.html</loc></url>" for page in pages)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{rows}</urlset>\n'
    )


def write_sitemap(app, error: Exception | None) -> None:
    """Where the address is known, list the pages."""
    if app.config.html_baseurl and error is None:
        text = sitemap(app.config.html_baseurl, sorted(app.env.found_docs))
        (Path(app.outdir) / "sitemap.xml").write_text(text, encoding="utf-8")


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("html-page-context", add_to_page)
    app.connect("build-finished", write_sitemap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
