"""One annotation in VOC's XML, as VOC itself and many tools write it.

Tools differ in what they leave out and how they write it. What can mean one thing only is
understood; what cannot be used raises :class:`~ssd_annotated.data.annotation.DataError`.
"""

import codecs
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from ssd_annotated.data.annotation import DataError, Thing, Written, check_class, check_size

# "Unspecified" is what early versions of makesense.ai write.
FLAGS = {"0": False, "1": True, "false": False, "true": True, "unspecified": False}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DECLARATION = re.compile(r"""\s*<\?xml[^>]*?(?:encoding=["']([\w.:-]+)["'][^>]*?)?\?>""")
LOST = "\N{REPLACEMENT CHARACTER}"


def read_annotation(annotation: Path, images: Sequence[Path], place: Path) -> Written:
    """Read one annotation.

    Parameters
    ----------
    images
        The image files that have the annotation's name; the annotation's ``filename`` is not asked.
    place
        Where an image is expected, without its ending, for the message if there is none.

    Raises
    ------
    DataError, FileNotFoundError
        If the image as a whole cannot be used.
    """
    root = read_xml(annotation)
    size = read_size(root)
    if not images:
        raise FileNotFoundError(f"no image: expected {place}.jpg (or .png, …)")
    if len(images) > 1:
        raise DataError(f"several images: {', '.join(file.name for file in images)}")
    objects = []
    for number, thing in enumerate(root.findall("object"), start=1):
        name = (thing.findtext("name") or "").strip() or "without a name"
        objects.append((f"object {number} ({name})", partial(read_object, thing)))
    return Written(images[0], size, objects)


# --- The file -------------------------------------------------------------------------------------


def read_xml(file: Path) -> Element:
    """The ``<annotation>`` of a file, read without entities, which nobody needs and some abuse."""
    if not file.is_file():
        raise FileNotFoundError("no such annotation file")
    try:
        root = parse(file.read_bytes())
    except (ParseError, LookupError, ValueError, OSError) as error:
        raise DataError(f"malformed XML: {error}") from error
    if root.tag != "annotation":
        cvat = " (CVAT's own format: export as Pascal VOC or COCO instead)"
        hint = cvat if root.tag == "annotations" else ""
        raise DataError(f"no annotation: the outermost tag is <{root.tag}>{hint}")
    return root


def parse(data: bytes) -> Element:
    """Parse XML; if that fails, once more without three mistakes that leave no doubt.

    These are an encoding that the parser does not know or that the file does not keep to, blanks
    before the XML declaration, and an ampersand that is not escaped.
    """
    try:
        return ElementTree.fromstring(data)
    except DefusedXmlException:
        raise
    except (ParseError, LookupError, ValueError) as error:
        try:
            text = DECLARATION.sub("", decode_text(data), count=1).lstrip()
            return ElementTree.fromstring(re.sub(r"&(?!#?\w+;)", "&amp;", text))
        except (ParseError, LookupError, ValueError):
            raise error from None


def decode_text(data: bytes) -> str:
    """Text as its byte order mark says, or its XML declaration, or else UTF-8.

    What cannot be decoded becomes a sign of its own, which no name may contain.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    declared = DECLARATION.match(data.decode("latin-1"))
    encoding = (declared and declared[1]) or "utf-8"
    # Without a byte order mark it is no UTF-16, or the declaration could not have been read.
    encoding = "utf-8" if encoding.lower().startswith("utf-16") else encoding
    return data.decode(encoding, errors="replace")


# --- What is in it --------------------------------------------------------------------------------


def read_object(thing: Element, expected: tuple[str, ...] | None) -> Thing:
    """Name, box, ``difficult`` and ``truncated`` of an ``<object>``.

    Pixels count from 1 and are inclusive. Some tools count from 0: what they write of the left and
    upper border is the border here, too.
    """
    name = check_class(read_text(thing, "name"), expected)
    sides = ("xmin", "ymin", "xmax", "ymax")
    x0, y0, x1, y1 = (read_number(thing, f"bndbox/{side}") for side in sides)
    written = f"xmin {x0:g}, ymin {y0:g}, xmax {x1:g}, ymax {y1:g}"
    if x0 >= x1 or y0 >= y1:  # a click: one pixel wide by this count, but nobody's box
        raise DataError(f"degenerate box: {written}")
    left, top = (max(low - 1, min(low, 0)) for low in (x0, y0))
    flags = (read_flag(thing, tag) for tag in ("difficult", "truncated"))
    return Thing(name, (left, top, x1, y1), written, *flags)


def read_size(root: Element) -> tuple[int, int] | None:
    """Width and height in pixels; None if they are absent, empty or 0, as old labelImg has them."""
    texts = [(root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    if not all(texts):
        return None
    return check_size(*(read_number(root, f"size/{side}") for side in ("width", "height")))


def read_text(element: Element, path: str) -> str:
    """What stands in a tag, or DataError if the tag is missing or empty."""
    text = (element.findtext(path) or "").strip()
    tag = f"<{path.replace('/', '><')}>"
    if not text:
        raise DataError(f"missing tag: {tag} is absent or empty")
    if LOST in text:
        raise DataError(f"wrong encoding: {tag} is {text!r}")
    return text


def read_number(element: Element, path: str) -> float:
    """The finite number in a tag; VOC 2012 has some that are not whole."""
    text = read_text(element, path)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"not a number: <{path.replace('/', '><')}> is {text!r}")
    return number


def read_flag(thing: Element, tag: str) -> bool:
    """Whether a tag says yes; absent and empty ones say no."""
    text = (thing.findtext(tag) or "").strip() or "0"
    if text.lower() not in FLAGS:
        raise DataError(f"neither 0 nor 1: <{tag}> is {text!r}")
    return FLAGS[text.lower()]
