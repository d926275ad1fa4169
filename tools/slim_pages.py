"""A Sphinx extension that leaves out of the pages what they do not use, and lets the rest wait.

The theme and its extensions write some tags into a template, some even twice, so the finished pages
are edited: fewer scripts, none of which holds up the text, and pictures that load when they come
near.
"""

import re
from pathlib import Path

from PIL import Image

#: No cell runs on a page, so nothing of thebe's is used; jupyter-book adds it to every page, twice.
#: The theme's stylesheet draws the icons as Font Awesome's script does, which has 1.5 MB.
UNUSED = (
    re.compile(r'\s*<script[^>]*src="[^"]*(?:thebe|/fontawesome)\.js[^>]*></script>'),
    re.compile(r"\s*<script>const THEBE_JS_URL.*?</script>"),
    re.compile(r'\s*<link[^>]*href="[^"]*thebe\.css[^>]*/>'),
)
#: They serve a search as you type, which is off; the page of the search keeps them.
SEARCH = re.compile(
    r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>'
)
#: Scripts that can wait for the text. The options cannot: scripts in the page itself set some.
WAITS = re.compile(
    r"<script (?![^>]*\b(?:async|defer)\b)"
    r'(?=[^>]*src="(?![^"]*documentation_options)[^"]+"[^>]*></script>)'
)
PICTURE = re.compile(
    r'<img (?P<before>[^>]*?)src="(?P<to>[^":?]*_(?:images|static)/[^"?]+)"(?P<after>[^>]*)>'
)
#: The theme's stylesheet knows 1,900 icons; the pages use a dozen.
ICON = re.compile(r'(?:\.fa-[\w-]+:before,?)+\{content:"[^"]*"\}')
FIRST = 3  # pictures of a page that may be in view at once, two of them its logo


def with_lazy_pictures(html: str, folder: Path) -> str:
    """Give each picture its size, so that nothing jumps, and load it when it comes near."""
    count = 0

    def edit(tag: re.Match[str]) -> str:
        nonlocal count
        count += 1
        file = folder / tag["to"]
        wait = ' loading="lazy"' if count > FIRST else ""
        size = ""
        if "loading=" in tag[0]:
            return tag[0]
        if not re.search(r"\s(?:width=|style=)", tag[0]) and file.suffix != ".svg":
            with Image.open(file) as picture:
                size = f' width="{picture.width}" height="{picture.height}"'
        return f'<img {tag["before"]}src="{tag["to"]}"{size}{wait}{tag["after"]}>'

    return PICTURE.sub(edit, html)


def slim(html: str, folder: Path, searches: bool) -> str:
    """A finished page of ``folder`` that loads less and shows its text sooner."""
    for part in UNUSED:
        html = part.sub("", html)
    if not searches:
        html = WAITS.sub("<script defer ", SEARCH.sub("", html))
    # A bibliography is marked as a list of things that are no list items.
    html = html.replace('role="doc-biblioentry"', 'role="listitem"')
    return with_lazy_pictures(html, folder)


def without_icons(style: str, used: set[str]) -> str:
    """The theme's stylesheet without the icons that are not ``used``."""
    return ICON.sub(lambda rule: rule[0] if used & icons(rule[0]) else "", style)


def icons(text: str) -> set[str]:
    """The names of all icons in a text."""
    return set(re.findall(r"\bfa-[\w-]+", text))


def slim_all(app, error: Exception | None) -> None:
    """Edit every page that was built, and the theme's stylesheet."""
    if error is not None:
        return
    out, used = Path(app.outdir), set()
    for page in out.rglob("*.html"):
        if "_static" not in page.parts:
            html = page.read_text(encoding="utf-8")
            slimmed = slim(html, page.parent, searches=page.name == "search.html")
            page.write_text(slimmed, encoding="utf-8")
            used |= icons(slimmed)
    for script in out.glob("_static/scripts/*-theme.js"):
        used |= icons(script.read_text(encoding="utf-8"))
    style = out / "_static" / "styles" / "pydata-sphinx-theme.css"
    style.write_text(without_icons(style.read_text(encoding="utf-8"), used), encoding="utf-8")


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("build-finished", slim_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
