"""The built pages in a real browser: served from a sub-path, as most sites are, to Chromium.

``make test-pages`` runs these tests and ``make test`` does not. They need the built book, and most
need Playwright and a Chromium: without these they are skipped; with ``PAGES_REQUIRED=1`` they fail.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest
from browser import ARGUMENTS, find_chromium

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "_build" / "html"
PREFIX = "/annotated-ssd/"
#: What the pages are made of; the tools that make them are left out.
SOURCES = ("book/*.md", "book/*.ipynb", "book/_static/**/*", "_config.yml", "_toc.yml")
PATIENCE = 120_000  # milliseconds, for a machine that does much else
#: Chromium's own moving picture instead of a camera; a page still needs the permission to see it.
CAMERA = "--use-fake-device-for-media-stream"
#: Of axe's grades; it also knows "moderate" and "minor".
GRAVE = {"serious", "critical"}


class Site(NamedTuple):
    """The built book: the address it is served from, ending in a slash, and its folder."""

    url: str
    folder: Path


class Problems(list):
    """What a page complained about, in words; ``expected`` are parts of words that may occur."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[str] = []

    def unexpected(self) -> list[str]:
        """The complaints that no expected part explains."""
        return [words for words in self if not any(part in words for part in self.expected)]


def unavailable(reason: str) -> None:
    """Skip, or fail where the pages must be tested."""
    if os.environ.get("PAGES_REQUIRED"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def stale(folder: Path, root: Path = ROOT) -> str | None:
    """Why the pages in ``folder`` cannot be tested, or None if they can."""
    if not (folder / "searchindex.js").exists():  # written last
        return f"{folder} holds no book: run `make book` first"
    built = (folder / "searchindex.js").stat().st_mtime
    newer = [f for pattern in SOURCES for f in root.glob(pattern) if f.stat().st_mtime > built]
    if newer:
        return f"{newer[0].relative_to(root)} is newer than the pages: run `make book` first"
    return None


class Handler(SimpleHTTPRequestHandler):
    """Serve the folder under PREFIX, quietly; anything else, and what is not there, is a 404."""

    def translate_path(self, path: str) -> str:
        """The file of an address."""
        inside = path.startswith(PREFIX)
        return super().translate_path("/" + path.removeprefix(PREFIX)) if inside else os.devnull

    def send_error(self, code: int, *args, **kwargs) -> None:
        """Answer with the book's own page, as hosts of static pages do."""
        page = BUILT / "404.html"
        if code != 404 or not page.exists():
            super().send_error(code, *args, **kwargs)
            return
        self.send_response(404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(page.read_bytes())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def pytest_generate_tests(metafunc) -> None:
    """Run a test that asks for ``every_page`` or ``chapter`` on every page or chapter."""
    built = [p for p in sorted(BUILT.rglob("*.html")) if "_static" not in p.parts]
    names = [p.relative_to(BUILT).as_posix() for p in built if p != BUILT / "index.html"]
    names = names or ["book/intro.html"]  # index.html only leads there
    chapters = [n for n in names if re.match(r"book/\d\d-", n)] or names
    for argument, values in {"every_page": names, "chapter": chapters}.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, values)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The built book, served on a free port."""
    if reason := stale(BUILT):
        pytest.fail(reason, pytrace=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=BUILT)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield Site(f"http://127.0.0.1:{server.server_port}{PREFIX}", BUILT)
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """Chromium from the system."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("Playwright is not installed: pip install -e '.[pages]'")
    program = find_chromium()
    if program is None:
        unavailable("there is no Chromium: install one, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS, CAMERA])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def axe() -> Callable[..., str]:
    """``axe(page)``: what keeps people from reading it, in words; empty if there is nothing.

    It looks at every element but those that match ``exclude``, a selector.
    """
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        unavailable("axe is not installed: pip install -e '.[pages]'")
    # Otherwise axe fetches what stylesheets import, and looks for it beside the page.
    options = {"resultTypes": ["violations"], "preload": False}

    def check(page, exclude: str = "") -> str:
        context = {"exclude": [[exclude]]} if exclude else None
        return told(Axe().run(page, context, options).response["violations"])

    return check


def told(findings: list[dict]) -> str:
    """Grave findings of axe in words, with the first elements of each."""
    return "\n".join(
        f"{f['impact']} {f['id']}: {f['help']}: {[n['html'][:160] for n in f['nodes'][:3]]}"
        for f in findings
        if f["impact"] in GRAVE
    )


@pytest.fixture
def problems() -> Problems:
    """What ``page`` complained about; a test appends to ``problems.expected`` what it provokes."""
    return Problems()


@pytest.fixture
def context_options() -> dict:
    """Options of the browser's context; override with ``pytest.mark.parametrize``."""
    return {"viewport": {"width": 1400, "height": 900}, "reduced_motion": "reduce"}


@pytest.fixture
def page(site: Site, browser, problems: Problems, context_options: dict):
    """A page that fails the test on errors in the console, failed requests and other hosts."""
    context = browser.new_context(**context_options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    watch(page, site, problems)
    yield page
    context.close()
    words = "\n".join(problems.unexpected())
    assert not words, words


def watch(page, site: Site, problems: Problems) -> None:
    """Write into ``problems`` what goes wrong on ``page``."""
    own = (site.url, "file:", "data:", "blob:", "about:")

    def on_request(request) -> None:
        if not request.url.startswith(own):
            problems.append(f"asks another host: {request.url}")

    def on_response(response) -> None:
        if response.status >= 400:
            problems.append(f"{response.status}: {response.url}")

    def on_console(message) -> None:
        if message.type in ("error", "warning"):
            problems.append(f"console on {page.url}: {message.text}")

    page.on("request", on_request)
    page.on("response", on_response)
    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(f"error on {page.url}: {error}"))
    page.on("requestfailed", lambda r: problems.append(f"failed: {r.url}: {r.failure}"))
