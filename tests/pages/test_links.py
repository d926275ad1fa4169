"""Every link inside the book leads somewhere, and the pages load nothing from elsewhere."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

#: Attributes that make a browser load or open an address.
LOADED = {("img", "src"), ("script", "src"), ("source", "src"), ("iframe", "src"), ("video", "src")}
#: Relations of <link> that make a browser load an address.
RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "manifest"}


class Addresses(HTMLParser):
    """The addresses that a page links to and loads, and the anchors that it offers."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = {"", "top"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what one tag refers to."""
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and RELATIONS & set(values.get("rel", "").split()):
            self.loads.append(values["href"])
        self.loads += [values[name] for name in values if (tag, name) in LOADED]


@cache
def addresses(page: Path) -> Addresses:
    """Parse a page once."""
    parser = Addresses()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def pages(folder: Path) -> list[Path]:
    """Every page but those that travel with MathJax and the theme."""
    return [p for p in sorted(folder.rglob("*.html")) if "_static" not in p.parts]


def dead(address: str, page: Path, folder: Path) -> bool:
    """Whether an address inside the book leads nowhere."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return False
    if parts.path.startswith("/"):  # would leave a site under a sub-path
        return True
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file() or not target.is_relative_to(folder):
        return True
    return target.suffix == ".html" and unquote(parts.fragment) not in addresses(target).anchors


def test_pages_are_found(site):
    assert {"intro.html", "05-matching.html", "api.html"} <= {p.name for p in pages(site.folder)}


def test_every_address_inside_the_book_leads_somewhere(site):
    folder = site.folder.resolve()
    found = [
        f"{page.relative_to(folder)}: {address}"
        for page in pages(folder)
        for address in [*addresses(page).links, *addresses(page).loads]
        if dead(address, page, folder)
    ]
    assert not found, "\n" + "\n".join(found)


def test_pages_load_nothing_from_another_host(site):
    loaded = {(p.name, a) for p in pages(site.folder) for a in addresses(p).loads}
    assert loaded
    assert [pair for pair in loaded if urlsplit(pair[1]).netloc] == []


@pytest.mark.parametrize(
    "address", ["gone.html", "#gone", "there.html#gone", "/there.html", "../x.html"]
)
def test_dead_addresses_are_seen(tmp_path, address):
    (tmp_path / "here.html").write_text('<h1 id="top">x</h1>')
    (tmp_path / "there.html").write_text('<a name="known" href="https://example.org">x</a>')
    addresses.cache_clear()
    here = tmp_path / "here.html"
    assert dead(address, here, tmp_path)
    assert not any(dead(a, here, tmp_path) for a in ("there.html#known", "#top", "mailto:x@y.z"))
