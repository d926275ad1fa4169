"""The pixels of an image file: what its header says, then the decoding, neither without bounds.

A file may say anything. What would take more memory than an image can need is refused before it is
decoded.
"""

import math
import struct
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, ROWSPERSTRIP, TILELENGTH, TILEWIDTH

from ssd_annotated.data.annotation import DataError

#: Of an image: a file of a few kilobytes may promise gigabytes.
MOST_PIXELS = 150_000_000
#: For decoding it, besides the file itself.
MOST_BYTES = 2**30
#: Of one part of a PNG, in bytes, beyond which it must be in the file.
LARGE_PART = 100_000_000
_BYTES_EACH = {"GIF": 9, "WEBP": 8}  # measured; every other format takes 6
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")  # parts of a PNG
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


def read_header(image: Path) -> tuple[tuple[int, int], int]:
    """Width and height as stored, and the EXIF orientation, from 1 to 8.

    A DataError if there are more than `MOST_PIXELS`, if decoding them would take more than
    `MOST_BYTES`, or if Pillow cannot make sense of the header: OpenCV, which decodes the pixels,
    would believe a header that is damaged.
    """
    try:
        if image.exists() and not image.is_file():  # a pipe would never end
            raise OSError("not a regular file")
        if canvas := webp_canvas(image):  # Pillow reserves it when it opens a WebP
            check_size(canvas, math.prod(canvas) * _BYTES_EACH["WEBP"])
        with Image.open(image) as header:
            check_size(header.size, bytes_to_decode(header))
            # Not header.getexif(), which decodes a whole PNG to look behind its pixels.
            return header.size, read_orientation(header.info.get("exif"))
    except DataError:
        raise
    except Exception as error:  # Pillow's readers let pass whatever they stumble over
        raise DataError(f"corrupt image: {image.name}: {error}") from error


def check_size(size: tuple[int, int], needed: int) -> None:
    """Refuse an image of too many pixels, or one whose decoding needs too many bytes."""
    if math.prod(size) > MOST_PIXELS or needed > MOST_BYTES:
        what = f"more than {MOST_PIXELS:,} pixels or {MOST_BYTES:,} bytes in memory"
        raise DataError(f"too large: {size[0]} × {size[1]}, {what}")


def webp_canvas(image: Path) -> tuple[int, int] | None:
    """Width and height that a WebP claims, by RFC 9649; None for other files."""
    with image.open("rb") as file:
        head = file.read(30).ljust(30, b"\0")
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    if head[12:16] == b"VP8X":
        return tuple(int.from_bytes(head[k : k + 3], "little") + 1 for k in (24, 27))
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return bits % 2**14 + 1, (bits >> 14) % 2**14 + 1
    return tuple(int.from_bytes(head[k : k + 2], "little") % 2**14 for k in (26, 28))


def bytes_to_decode(header: Image.Image) -> int:
    """What OpenCV needs to decode an image: the pixels twice, and more for some formats.

    A progressive JPEG is kept as coefficients of two bytes until it is complete. Of a TIFF, a
    strip or tile is decoded, and then once more with four bytes a pixel.
    """
    (width, height), bands = header.size, len(header.getbands())
    each = _BYTES_EACH.get(header.format, 6)
    if header.info.get("progressive"):
        each = max(each, 3 + 2 * bands)
    if header.format != "TIFF":
        return width * height * each
    tags = header.tag_v2
    strip = width * min(tags.get(ROWSPERSTRIP, height), height)
    tile = tags.get(TILEWIDTH, 0) * tags.get(TILELENGTH, 0)
    besides = max(strip, tile) * (4 + bands * max(tags.get(BITSPERSAMPLE, (8,))) // 8)
    return width * height * 3 + max(width * height * 3, besides)


def read_orientation(block: bytes | None) -> int:
    """The orientation in an EXIF block; 1, upright as stored, if there is none or nonsense."""
    exif = Image.Exif()
    try:
        exif.load(block)
        orientation = exif.get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, struct.error):
        return 1
    return orientation if orientation in range(1, 9) else 1


def read_image(file: str | Path, upright: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image file to 8-bit RGB, from grey, 16 bits, CMYK or with transparency alike.

    It is turned as its EXIF orientation asks, unless `upright` is false.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file ends early, is not an image, is too large (see `read_header`) or cannot be read;
        the message names it.
    """
    try:
        data = Path(file).read_bytes()
        read_header(Path(file))
        return decode(data, upright)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such file") from None
    except DataError as error:
        raise ValueError(f"{file}: {error}") from error
    except OSError as error:
        raise ValueError(f"{file}: corrupt image: {error}") from error


def decode(data: bytes, upright: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an image file's bytes, RGB; DataError if these end early or are no image.

    From a name instead of bytes, OpenCV would not tell that a JPEG ends early: it makes up the rest
    in grey.
    """
    data = without_animation(data)
    way_up = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | way_up)
    except cv2.error as error:  # of nothing, for one
        raise DataError(f"corrupt image: {error.err}") from error
    if image is None:
        raise DataError("corrupt image: OpenCV cannot decode it")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def without_animation(data: bytes) -> bytes:
    """A file as it is, but an animated PNG without the parts that move.

    OpenCV reads them even for a still picture, and a damaged one ended the process.

    Raises
    ------
    DataError
        If a PNG has a part that claims to be large, and larger than the whole file. OpenCV would
        reserve that much before it looks: 4 GB for a file of a hundred bytes.
    """
    if not data.startswith(_PNG):
        return data
    place, parts = len(_PNG), []
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        if length > max(len(data), LARGE_PART):
            what = f"its part {name!r} claims {length:,} bytes, the file has {len(data):,}"
            raise DataError(f"corrupt image: {what}")
        end = place + 12 + length  # with length, name and checksum
        parts.append((name, data[place:end]))
        place = end
    if not any(name in _ANIMATION for name, _ in parts):
        return data
    # Its end may be missing where only the animation was cut off.
    still = [part for name, part in parts if name not in (*_ANIMATION, b"IEND")]
    return b"".join([_PNG, *still, _PNG_END])
