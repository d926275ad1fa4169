"""Print the built book as one PDF, with a title page, contents, page numbers and an outline.

Chromium prints each page (``annotated.css`` says how), and pypdf joins them. Links from page to
page lead to their places in the PDF.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html import escape
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import yaml
from browser import ARGUMENTS, find_chromium
from pypdf import PageObject, PdfReader, PdfWriter
from pypdf.annotations import Link
from pypdf.generic import Destination, Fit

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "_build" / "html"
TARGET = ROOT / "_build" / "annotated-ssd.pdf"
PATIENCE = 600_000  # milliseconds for one page, on a machine that does much else
MARGIN = dict.fromkeys(("top", "bottom", "left", "right"), "18mm")
#: Equations are set, and pictures that wait for the reader load.
READY = """async () => {
    for (const image of document.images) image.loading = "eager";
    await window.MathJax?.startup?.promise;
    await window.MathJax?.startup?.document.lazyTypesetAll?.();
    await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
}"""
STYLE = """<style>
body { font-family: sans-serif; color: #1b2430; margin: 0 }
.cover { height: 250mm; display: flex; flex-direction: column; justify-content: center }
.cover img { width: 45mm }
h1 { font-size: 30pt; margin: 12mm 0 4mm }
h2 { font-size: 11pt; margin: 4mm 0 1mm }
a { display: flex; justify-content: space-between; color: inherit; text-decoration: none;
    font-size: 10pt; line-height: 1.6 }
.number { height: 297mm; break-after: page; position: relative }
.number span { position: absolute; bottom: 8mm; width: 100%; text-align: center; font-size: 9pt }
</style>"""


class Part(NamedTuple):
    """One page of the book: its caption in the table of contents, its file, its title, its PDF."""

    caption: str
    file: Path
    title: str
    pdf: PdfReader


def files(toc: dict, built: Path) -> Iterator[tuple[str, Path]]:
    """The pages in their order, each with the caption above it."""
    yield "", built / f"{toc['root']}.html"
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            yield part["caption"], built / f"{chapter['file']}.html"


# --- Printing ---------------------------------------------------------------------------------


def printed(page, **options) -> PdfReader:
    """What Chromium prints of the page that is open in it."""
    return PdfReader(BytesIO(page.pdf(format="A4", **options)))


def print_part(page, caption: str, file: Path) -> Part:
    """Print one page of the book."""
    page.goto(file.as_uri())
    page.evaluate(READY)
    title = page.title().removesuffix(" — The Annotated SSD")
    pdf = printed(page, margin=MARGIN, print_background=True, outline=True, tagged=True)
    return Part(caption, file, title, pdf)


def front(page, parts: list[Part], starts: list[int]) -> PdfReader:
    """The title page and the contents; ``starts`` are the numbers of the parts' first pages."""
    rows, above = [], ""
    for part, start in zip(parts, starts):
        if part.caption != above:
            rows.append(f"<h2>{escape(part.caption)}</h2>")
            above = part.caption
        link = f'<a href="{part.file.as_uri()}">{escape(part.title)} <span>{start}</span></a>'
        rows.append(link)
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    logo = (ROOT / "book" / "_static" / "logo.svg").read_text(encoding="utf-8")
    page.set_content(
        f'{STYLE}<div class="cover"><div style="width: 45mm">{logo}</div>'
        f"<h1>{escape(facts['title'])}</h1><p>{escape(facts['abstract'])}</p>"
        f"<p>Version {escape(facts['version'])}</p></div>"
        f'<h1 style="break-before: page">Contents</h1>{"".join(rows)}'
    )
    return printed(page, margin=MARGIN)


def numbers(page, first: int, last: int) -> PdfReader:
    """A page for each number, which holds nothing else."""
    rows = [f'<div class="number"><span>{n}</span></div>' for n in range(first, last + 1)]
    page.set_content(STYLE + "".join(rows))
    return printed(page)


# --- Joining ----------------------------------------------------------------------------------


def links(page: PageObject) -> list[dict]:
    """Take the links off a page: their names hold in one part only."""
    found = [note.get_object() for note in page.pop("/Annots", [])]
    return [note for note in found if note.get("/Subtype") == "/Link"]


def place(destination: Destination, pdf: PdfReader, start: int) -> tuple[int, Fit]:
    """The page and the height to which a destination inside one part leads."""
    top = destination.top
    number = start + pdf.get_destination_page_number(destination)
    return number, Fit.xyz(left=0, top=None if top is None else float(top))


def target(note: dict, part: Part, starts: dict[Path, int]) -> dict:
    """Where a link of ``part`` leads, as arguments of pypdf's Link."""
    if "/Dest" in note:
        named = part.pdf.named_destinations.get(str(note["/Dest"]))
        number, fit = place(named, part.pdf, starts[part.file])
        return {"target_page_index": number, "fit": fit}
    address = note["/A"]["/URI"]
    parts = urlsplit(address)
    inside = starts.get(Path(unquote(parts.path))) if parts.scheme == "file" else None
    return {"url": address} if inside is None else {"target_page_index": inside}


def said_once(title: str) -> str:
    """A heading without its echo: Chromium repeats one that moves to the next sheet."""
    half = len(title) // 2
    return title[:half] if title == 2 * title[:half] else title


def add_outline(writer: PdfWriter, part: Part, start: int, above: object) -> None:
    """Enter a part and its headings below ``above``."""

    def add(items: list, parent: object) -> None:
        last = parent
        for item in items:
            if isinstance(item, list):
                add(item, last)
            else:
                number, fit = place(item, part.pdf, start)
                title = said_once(item.title)
                last = writer.add_outline_item(
                    title=title, page_number=number, parent=parent, fit=fit
                )

    own = writer.add_outline_item(title=part.title, page_number=start, parent=above)
    headings = [item for item in part.pdf.outline if isinstance(item, list)]
    for items in headings:  # those below the title
        add(items, own)


def join(parts: list[Part], starts: list[int], stamps: PdfReader) -> PdfWriter:
    """All parts as one document; each page but the first gets its stamp, a number."""
    writer = PdfWriter()
    first = {part.file: start for part, start in zip(parts, starts)}
    notes = [(part, links(page)) for part in parts for page in part.pdf.pages]
    captions: dict[str, object] = {"": None}
    for part, start in zip(parts, starts):
        writer.append(part.pdf, import_outline=False)
        if part.caption not in captions:
            captions[part.caption] = writer.add_outline_item(title=part.caption, page_number=start)
        add_outline(writer, part, start, captions[part.caption])
    for number, (part, found) in enumerate(notes):
        if number:
            writer.pages[number].merge_page(stamps.pages[number - 1])
            writer.pages[number].compress_content_streams()
        for note in found:
            rectangle = tuple(map(float, note["/Rect"]))
            writer.add_annotation(number, Link(rect=rectangle, **target(note, part, first)))
    writer.compress_identical_objects()
    writer.add_metadata({"/Title": "The Annotated SSD"})
    return writer


def make(page, built: Path) -> PdfWriter:
    """Print and join the book in ``built``."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = [print_part(page, *entry) for entry in files(toc, built)]
    lengths = [len(part.pdf.pages) for part in parts]
    before = len(front(page, parts, lengths).pages)
    starts = [before + sum(lengths[:k]) for k in range(len(parts))]
    cover = Part("", built, "Title and contents", front(page, parts, [s + 1 for s in starts]))
    stamps = numbers(page, 2, before + sum(lengths))
    return join([cover, *parts], [0, *starts], stamps)


def main() -> None:
    """Print the book in ``_build/html`` into ``_build/annotated-ssd.pdf``."""
    from playwright.sync_api import sync_playwright

    program = find_chromium()
    if program is None or not (BUILT / "searchindex.js").exists():
        sys.exit("make pdf needs Chromium (or CHROMIUM=its path) and the pages: run `make book`")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        page = chromium.new_page(color_scheme="light")
        page.set_default_timeout(PATIENCE)
        writer = make(page, BUILT)
        chromium.close()
    writer.write(TARGET)
    print(f"{TARGET.relative_to(ROOT)}: {len(writer.pages)} pages")


if __name__ == "__main__":
    main()
