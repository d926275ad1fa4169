"""A Sphinx extension that leaves out of the pages what they do not use, and lets the rest wait.

The theme and its extensions write some tags into a template, some even twice, so the finished pages
are edited: one stylesheet, fewer scripts, none of which holds up the text, and pictures that load
when they come near.
"""

import re
from hashlib import sha256
from html import unescape
from pathlib import Path

import light_assets
from PIL import Image

#: No cell runs on a page, so nothing of thebe's is used; jupyter-book adds it to every page, twice.
#: The theme's stylesheet draws the icons as Font Awesome's script does, which has 1.5 MB. What is
#: loaded ahead of its turn takes the line from the stylesheet.
UNUSED = (
    re.compile(r'\s*<link rel="preload" as="script"[^>]*>'),
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
#: Figures come as PNG from the notebooks and become WebP.
FIGURE = re.compile(r'(="[^":]*_images/[\w.-]+)\.png"')
PICTURE = re.compile(
    r'<img (?P<before>[^>]*?)src="(?P<to>[^":?]*_(?:images|static)/[^"?]+)"(?P<after>[^>]*)>'
)
#: A size in a style leaves no room for a picture whose height follows its width; this does.
SIZE = re.compile(r'style="width: (\d+)px; height: (\d+)px;"')
#: MathJax is one script and its settings; a page without an equation needs neither.
MATHJAX = re.compile(
    r'\s*<script[^>]*(?:>window\.MathJax =.*?|src="[^"]*mathjax/[^"]*"[^>]*>)</script>'
)
MATHJAX_SCRIPT = re.compile(r'<script[^>]*src="(?P<root>[^"]*)mathjax/[\w-]+\.js[^"]*"[^>]*>')
#: Most elements of a chapter are the words of its code. These have no colour of their own.
UNCOLOURED = re.compile(r'<span class="(?:n|nn|p|w)">([^<]*)</span>')
CELL = re.compile(
    r'(<div class="highlight-python[^>]*><div class="highlight"><pre>)'
    r'(?!<span class="lines")(.*?)(?=</pre>)',
    re.DOTALL,
)
TAG = re.compile(r"<[^>]+>")
#: A module's name in a heading is one word, which may be broken after its dots alone.
MODULE = re.compile(r"(?<=<h1>Source code for )[\w.]+")
#: The theme asks for "auto" and sets the colours of all elements a second time when it has loaded.
THEME = re.compile(r"(\.dataset\.theme = )localStorage[^;]+;")
EARLY_THEME = """((mode) => {
      if (mode !== "auto") return mode;
      return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    })(document.documentElement.dataset.mode);"""
STYLES = re.compile(
    r'\s*<link[^>]*\bhref="(?P<root>[^"]*_static/)(?P<sheet>[^"?]+\.css)[^"]*"[^>]*>'
)
NAMES = re.compile(r'\b(?:class|id)="([^"]*)"')
#: The scripts of the pages, which may set a class that no page has before.
SCRIPTS = ("*.js", "scripts/bootstrap.js", "scripts/*-theme.js", "try/*.js")
#: Its scripts put the names of classes together, so all that it names counts as used.
OWN_STYLE = "try/*.css"
#: Pictures of a page that may be in view at once: two are its logo, and one is what readers see.
FIRST = 3


def with_lazy_pictures(html: str, folder: Path) -> str:
    """Give each picture its size, so that nothing jumps, and load it when it comes near."""
    count = 0

    def edit(tag: re.Match[str]) -> str:
        nonlocal count
        count += 1
        if re.search(r"\b(?:loading|fetchpriority)=", tag[0]):
            return tag[0]
        wait = ' loading="lazy"' if count > FIRST else ' fetchpriority="high"' * (count == FIRST)
        file, size = folder / tag["to"], ""
        if not re.search(r"\s(?:width=|style=)", tag[0]) and file.suffix != ".svg":
            with Image.open(file) as picture:
                size = f' width="{picture.width}" height="{picture.height}"'
        return f'<img {tag["before"]}src="{tag["to"]}"{size}{wait}{tag["after"]}>'

    return PICTURE.sub(edit, html)


def code(cell: re.Match[str]) -> str:
    """A cell's code in fewer elements, with its size, so that what is out of sight can wait."""
    text = UNCOLOURED.sub(r"\1", cell[2])
    lines = unescape(TAG.sub("", text)).rstrip("\n").split("\n")
    size = f"--lines: {len(lines)}; --columns: {max(map(len, lines))}"
    return f'{cell[1]}<span class="lines" style="{size}">{text}</span>'


def slim(html: str, folder: Path, searches: bool) -> str:
    """A finished page of ``folder`` that loads less and shows its text sooner."""
    for part in UNUSED:
        html = part.sub("", html)
    if 'class="math' not in html:
        html = MATHJAX.sub("", html)
    if not searches:
        html = WAITS.sub("<script defer ", SEARCH.sub("", html))
    html = THEME.sub(lambda found: found[1] + EARLY_THEME, html, count=1)
    html = CELL.sub(code, html)
    html = MODULE.sub(lambda name: name[0].replace(".", ".<wbr>"), html)
    # A bibliography is marked as a list of things that are no list items.
    html = html.replace('role="doc-biblioentry"', 'role="listitem"')
    html = FIGURE.sub(r'\1.webp"', SIZE.sub(r'width="\1" height="\2"', html))
    return with_lazy_pictures(html, folder)


# --- What all pages share ---------------------------------------------------------------------


def smaller_pictures(folder: Path) -> None:
    """Store each PNG of a chapter as WebP, which shows the same pixels in three quarters."""
    for file in folder.glob("*.png"):
        with Image.open(file) as picture:
            picture.convert("RGBA" if "transparency" in picture.info else "RGB").save(
                file.with_suffix(".webp"), lossless=True, method=4
            )
        file.unlink()


def written(file: Path, text: str) -> str:
    """Write a file, and return its name with its digest, so that no old copy of it is used."""
    file.write_text(text, encoding="utf-8")
    return f"{file.name}?v={sha256(text.encode()).hexdigest()[:8]}"


def with_shared_files(html: str, style: str, mathjax: str) -> str:
    """A page that asks for the common stylesheet, and has ``equations.js`` ask for MathJax."""
    first = STYLES.search(html)
    if first is None:
        return html
    link = f'\n    <link rel="stylesheet" href="{first["root"]}{style}" />'
    html = html[: first.start()] + link + STYLES.sub("", html[first.start() :])
    return MATHJAX_SCRIPT.sub(
        rf'<script defer src="\g<root>equations.js" data-src="\g<root>mathjax/{mathjax}">', html
    )


def share(out: Path, pages: dict[Path, str]) -> dict[Path, str]:
    """Write the common files into the folder ``out``, and let its ``pages`` use them."""
    static = out / "_static"
    sheets = max(([m["sheet"] for m in STYLES.finditer(h)] for h in pages.values()), key=len)
    scripts = [f.read_text(encoding="utf-8") for s in (*SCRIPTS, OWN_STYLE) for f in static.glob(s)]
    names = (name for html in pages.values() for name in NAMES.findall(html))
    used = light_assets.words([*names, *scripts])
    style = written(static / "book.css", light_assets.stylesheet(sheets, static, used))
    folder = static / "mathjax"
    script = written(folder / "book.js", light_assets.mathjax(folder))
    return {page: with_shared_files(html, style, script) for page, html in pages.items()}


def slim_all(app, error: Exception | None) -> None:
    """Edit every page that was built, and make what they load smaller."""
    if error is not None:
        return
    out = Path(app.outdir)
    smaller_pictures(out / "_images")
    files = [page for page in out.rglob("*.html") if "_static" not in page.parts]
    pages = {
        page: slim(page.read_text(encoding="utf-8"), page.parent, page.name == "search.html")
        for page in files
    }
    for page, html in share(out, pages).items():
        page.write_text(html, encoding="utf-8")


def setup(app) -> dict:
    """Called by Sphinx."""
    # After the theme, which writes its colours of code at the end, too.
    app.connect("build-finished", slim_all, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
