"""Fail if the table of contents names a page that does not exist.

Also fail if a page exists that the table of contents does not name: the builder ignores that.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def entries(toc: object) -> Iterator[str]:
    """All pages named anywhere in the table of contents."""
    if isinstance(toc, dict):
        yield from (value for key, value in toc.items() if key in ("root", "file"))
        yield from (page for value in toc.values() for page in entries(value))
    elif isinstance(toc, list):
        yield from (page for value in toc for page in entries(value))


def missing(root: Path) -> list[str]:
    """The entries of ``root``'s table of contents without a page."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    kinds = ("", ".md", ".ipynb")
    return [p for p in entries(toc) if not any((root / f"{p}{k}").is_file() for k in kinds)]


def unlisted(root: Path) -> list[str]:
    """Pages and notebooks in ``root``'s book that the table of contents does not name."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    listed = {Path(page).stem for page in entries(toc)}
    pages = [*root.glob("book/*.md"), *root.glob("book/*.ipynb")]
    return sorted(p.name for p in pages if p.stem not in listed)


if __name__ == "__main__":
    absent, forgotten = missing(ROOT), unlisted(ROOT)
    for page in absent:
        print(f"_toc.yml names {page}, which does not exist")
    for page in forgotten:
        print(f"book/{page} is not in _toc.yml")
    sys.exit(bool(absent or forgotten))
