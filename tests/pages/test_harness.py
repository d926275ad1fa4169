"""What the tests of the pages and the PDF rest on; none of this needs a browser."""

import os

import pytest


@pytest.fixture
def stale(request):
    """The function that says why pages cannot be tested."""
    plugins = request.config.pluginmanager.get_plugins()
    return next(p.stale for p in plugins if hasattr(p, "stale"))


@pytest.fixture
def book(tmp_path):
    """A root with one source, and an older folder for its pages."""
    (tmp_path / "book").mkdir()
    (tmp_path / "html").mkdir()
    (tmp_path / "book" / "faq.md").touch()
    return tmp_path


def test_pages_that_were_never_built_are_seen(book, stale):
    assert stale(book / "html", book).endswith("run `make book` first")


@pytest.mark.parametrize(("age", "told"), [(-10, True), (10, False)])
def test_pages_older_than_their_sources_are_seen(book, stale, age, told):
    index = book / "html" / "searchindex.js"
    index.touch()
    when = (book / "book" / "faq.md").stat().st_mtime + age
    os.utime(index, (when, when))
    reason = stale(book / "html", book)
    assert (reason is not None) == told
    assert not told or reason.startswith("book/faq.md is newer")


def test_headings_of_the_pdf_are_said_once():
    pdf = pytest.importorskip("pdf")
    assert pdf.said_once("SummarySummary") == "Summary"
    assert pdf.said_once("Summary") == "Summary"


def test_chromium_can_be_named(monkeypatch):
    import browser

    monkeypatch.setenv("CHROMIUM", "/opt/browser")
    assert browser.find_chromium() == "/opt/browser"
    monkeypatch.delenv("CHROMIUM")
    monkeypatch.setenv("PATH", "")
    assert browser.find_chromium() is None
