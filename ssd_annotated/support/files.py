"""Files that are either complete or absent."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 255  # of a file's name, on most systems


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a file to write to, which becomes `path` if all goes well and is removed if not.

    It lies beside `path`, so that it can be renamed in one step; a missing folder is made.
    """
    path = Path(path)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    if len(os.fsencode(partial.name)) > MOST_BYTES:
        partial = path.with_name(f"{path.stem[:50]}.partial{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise the system's error, of a full disk for example, where torch hides it behind its own."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def check_archive(file: BinaryIO) -> None:
    """Refuse a zip archive, not compressed, of which a bit is not as it was written; then rewind.

    A file of another kind passes: that is how PyTorch wrote before 1.6. The error is a BadZipFile,
    if a checksum is wrong or if the parts are larger than the file: then it would unpack to more.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(part.file_size for part in archive.infolist()) > file.seek(0, os.SEEK_END):
                raise zipfile.BadZipFile("the parts are larger than the file")
            # PyTorch reads nothing of a part that is marked so, and takes what lies in memory.
            if any(part.external_attr & 0x10 for part in archive.infolist()):
                raise zipfile.BadZipFile("a part is marked as a folder")
            if (part := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{part}: its checksum is wrong")
    file.seek(0)
