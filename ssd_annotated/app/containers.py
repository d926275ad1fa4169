"""Video files before they are opened: what FFmpeg would believe, and should not."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

#: Boxes of an MP4 that hold others, down to the table of its samples, ``stsz``.
_OUTER = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_HEAD = 1024  # bytes, among which every container tried has a zero, and text has none
_MOST_BOXES = 100_000


def check_container(file: Path) -> None:
    """Refuse a file that makes FFmpeg open other files, or reserve memory for what is not there.

    Raises
    ------
    ValueError
        If the file is text, which could be a playlist of others, or is an MP4 that claims more
        samples than it has bytes. (FFmpeg reserves 24 bytes for each before it looks.)
    """
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        if b"\0" not in stream.read(_HEAD):
            raise ValueError(f"{file}: not a video: empty, or text")
        claimed = max(sample_counts(stream, size), default=0)
    if claimed > size:
        raise ValueError(f"{file}: not a video: claims {claimed:,} samples in {size:,} bytes")


def sample_counts(stream: BinaryIO, size: int) -> Iterator[int]:
    """How many samples the tracks of an MP4 claim; of a file of another kind, mostly nothing.

    A box is its length, its name and its content. Length 1 is followed by a longer one, and 0
    means up to the end. Boxes that hold others are entered, all others passed by.
    """
    place = 0
    for _ in range(_MOST_BOXES):
        if place + 8 > size:
            return
        stream.seek(place)
        length, name, longer = struct.unpack(">I4sQ", stream.read(16).ljust(16, b"\0"))
        head, length = (16, longer) if length == 1 else (8, length or size)
        if name == b"stsz":
            stream.seek(place + head + 8)  # behind the version and the size of all samples
            yield int.from_bytes(stream.read(4), "big")
        place += head if name in _OUTER else max(length, head)
