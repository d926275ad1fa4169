"""Smaller files for what every page of the book loads: one stylesheet, its icons, and MathJax.

The theme and its extensions bring eleven stylesheets with 480 KB, most of it for parts that no page
has, a font of 1,400 icons and a MathJax with a menu. A browser waits for all stylesheets before it
shows a word. ``slim_pages`` calls this module when the pages are finished.
"""

from __future__ import annotations

import base64
import io
import posixpath
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import tinycss2
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from tinycss2.ast import AtRule, Comment, HashToken, IdentToken, LiteralToken

#: What MathJax's ``tex-chtml.js`` joins, without its menu, which is a third of it; and ui/lazy,
#: which sets an equation when it comes near, so that a chapter with a hundred shows its text.
MATHJAX = (
    "core",
    "input/tex",
    "output/chtml",
    "output/chtml/fonts/tex",
    "a11y/assistive-mml",
    "ui/lazy",
)
URL = re.compile(r"url\((?![\"']?(?:data:|#))[\"']?([^\"')]+)[\"']?\)")
IMPORT = re.compile(r"@import\s+[\"']([^\"']+)[\"']\s*;")
#: The theme names the font of its icons by this file, and icons by characters for private use.
ICONS = "vendor/fontawesome/webfonts/fa-solid-900"
ICON_SOURCES = re.compile(rf"src:\s*url\({ICONS}\.woff2\)[^;}}]*")
ESCAPED_ICON = re.compile(r"\\(f[0-9a-f]{3})\b")
NESTED = {"media", "supports", "layer", "container"}  # at-rules that hold rules


# --- The stylesheet ---------------------------------------------------------------------------


def words(texts: Iterable[str]) -> set[str]:
    """Everything in pages or scripts that may be the name of a class or of an element."""
    return {word for text in texts for word in re.findall(r"[\w-]+", text)}


def joined(sheets: Iterable[str], static: Path) -> str:
    """The stylesheets of the folder ``static`` as one that lies in it."""
    parts = []
    for sheet in sheets:
        folder = posixpath.dirname(sheet)

        def moved(address: str, folder: str = folder) -> str:
            return posixpath.normpath(posixpath.join(folder, address))

        text = (static / sheet).read_text(encoding="utf-8")
        text = URL.sub(lambda found: f"url({moved(found[1])})", text)
        parts.append(IMPORT.sub(lambda found: joined([moved(found[1])], static), text))
    return "\n".join(parts)


def names(selector: list) -> set[str]:
    """The classes and ids that an element must have; what ``:not()`` and its like hold is open."""
    found = {token.value for token in selector if isinstance(token, HashToken)}
    for before, token in pairwise(selector):
        if isinstance(before, LiteralToken) and before == "." and isinstance(token, IdentToken):
            found.add(token.value)
    return found


def alternatives(prelude: list) -> list[list]:
    """A rule's selectors, which commas separate."""
    parts: list[list] = [[]]
    for part in prelude:
        if isinstance(part, LiteralToken) and part == ",":
            parts.append([])
        else:
            parts[-1].append(part)
    return parts


def purged(rules: list, used: set[str]) -> str:
    """The rules that can meet an element whose classes are all ``used``; licences stay, too."""
    kept = []
    for rule in rules:
        if isinstance(rule, Comment):
            kept += [rule.serialize()] if rule.value.startswith("!") else []
        elif isinstance(rule, AtRule):
            kept.append(purged_at_rule(rule, used))
        else:
            fitting = [part for part in alternatives(rule.prelude) if names(part) <= used]
            if fitting:
                selectors = ",".join(tinycss2.serialize(part).strip() for part in fitting)
                kept.append(f"{selectors}{{{tinycss2.serialize(rule.content).strip()}}}")
    return "\n".join(part for part in kept if part)


def purged_at_rule(rule: AtRule, used: set[str]) -> str:
    """The same inside ``@media`` and its like; other at-rules, such as fonts, stay as they are."""
    if rule.lower_at_keyword not in NESTED or rule.content is None:
        return "" if rule.lower_at_keyword == "charset" else rule.serialize()
    inside = tinycss2.parse_rule_list(rule.content, skip_whitespace=True)
    text = purged(inside, used)
    return f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{text}}}" if text else ""


def stylesheet(sheets: Iterable[str], static: Path, used: set[str]) -> str:
    """One stylesheet for the pages and scripts whose words are ``used``, its icons in it."""
    rules = tinycss2.parse_stylesheet(joined(sheets, static), skip_whitespace=True)
    return with_icons(purged(rules, used), static)


# --- The icons --------------------------------------------------------------------------------


def with_icons(style: str, static: Path) -> str:
    """The stylesheet with a font of those icons that it shows, instead of a link to all."""
    codes = {int(code, 16) for code in ESCAPED_ICON.findall(style)}
    codes |= {ord(c) for c in style if "\ue000" <= c <= "\uf8ff"}
    font = base64.b64encode(subset(static / f"{ICONS}.ttf", codes)).decode()
    return ICON_SOURCES.sub(f'src:url(data:font/woff;base64,{font}) format("woff")', style)


def subset(file: Path, codes: set[int]) -> bytes:
    """A font with these characters only; its licence asks that it be called otherwise."""
    font = TTFont(file)
    subsetter = Subsetter(Options(hinting=False, name_IDs=[13, 14], notdef_outline=True))
    subsetter.populate(unicodes=codes)
    subsetter.subset(font)
    for number in (1, 4, 6):
        font["name"].setName("BookIcons", number, 3, 1, 0x409)
    font.flavor = "woff"
    font.save(data := io.BytesIO())
    return data.getvalue()


# --- MathJax ----------------------------------------------------------------------------------


def mathjax(folder: Path) -> str:
    """MathJax's parts as one script; it starts when the last of them has run."""
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in ("startup", *MATHJAX)]
    known = ",".join(f'"{name}"' for name in MATHJAX)
    return ";\n".join([*parts, f"MathJax.loader.preLoad({known});\n"])
