"""Folders of images with XML as PASCAL VOC's: your own photographs, or VOC 2007 and 2012 at once.

:mod:`~ssd_annotated.data.kinds` lists the layouts that are read, VOC's own among them.
"""

import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from ssd_annotated.data.annotation import Found
from ssd_annotated.data.find import find
from ssd_annotated.data.folder import AnnotatedFolder

#: What of PASCAL VOC anyone can download with its annotations.
PUBLISHED = {"2007": ("train", "val", "trainval", "test"), "2012": ("train", "val", "trainval")}


class VOCFolder(AnnotatedFolder):
    """Images and objects of one or several image sets with VOC's XML.

    Items are those of :class:`~ssd_annotated.data.folder.AnnotatedFolder`.

    Parameters
    ----------
    sets
        Pairs of a root and an image set, for example ``[("VOC2007", "trainval"), ("VOC2012",
        "trainval")]``, or a single pair in a list. For a folder without sets the second is
        ``"all"``, or a share: ``"0.9"``, and ``"-0.1"`` for the rest (see
        :func:`~ssd_annotated.data.find.find`, whose results are taken, too).
    class_names
        Class names, ``"background"`` first. By default those found, in alphabetical order: give a
        test set the names of its training set, ``train.class_names``.
    on_bad
        ``"raise"`` or ``"skip"``, as for every :class:`~ssd_annotated.data.folder.AnnotatedFolder`.

    Raises
    ------
    FileNotFoundError
        If an image set or folder does not exist, whatever `on_bad` says, or an annotation or an
        image does not.
    ValueError
        If an image set is empty (or no image or class is left), a name is listed twice, a file
        cannot be read, a tag is missing or senseless, a class unknown, or a box impossible.

    Notes
    -----
    VOC counts pixels from 1 and includes the last: ``xmin … xmax`` covers ``xmin − 1`` to ``xmax``
    out of the width. Some tools count from 0: an ``xmin`` of 0 is taken as the image's border (a 1
    is too), and their other boxes are read a pixel too far left and up. A box with ``xmin = xmax``,
    although one pixel wide by this count, is a click and not a box: it counts as degenerate. Parts
    of objects (``<part>``) are not read; ``difficult`` and ``truncated`` are false if absent.

    Boxes belong to the pixels as they are stored: VOC's own code and many tools ignore the EXIF
    orientation. Others turn the photograph first. The annotation's size decides: if it fits the
    turned photograph alone, that is what an item shows. If it fits both (a square, or upside down),
    the orientation is unclear: the pixels stay as stored, and the image counts as `undecided`. An
    annotation without a size, or of 0 × 0, gets the size of its image as stored.
    """

    def __init__(
        self,
        sets: Sequence[tuple[str | Path, str] | Found],
        class_names: Sequence[str] | None = None,
        on_bad: Literal["raise", "skip"] = "raise",
    ) -> None:
        asked = [] if isinstance(sets, Path) else list(sets)
        for one in asked or [None]:
            if not isinstance(one, Found) and not (isinstance(one, tuple | list) and len(one) == 2):
                raise ValueError(f"sets must be a list of (root, image set) pairs, not {sets!r}")
        found = [one if isinstance(one, Found) else find(*one, only_xml=True) for one in asked]
        super().__init__(found, class_names, on_bad)


# --- PASCAL VOC itself ----------------------------------------------------------------------------


def download_voc(root: str | Path, year: str = "2007", image_set: str = "trainval") -> Path:
    """Download PASCAL VOC 2007 or 2012 unless it is there; return the root that a `VOCFolder` asks.

    Parameters
    ----------
    root
        Where ``VOCdevkit/VOC2007`` (or 2012) is, or goes. For a while the archive lies beside it.
    year, image_set
        ``"2007"`` with ``"trainval"``, ``"train"`` or ``"val"`` (which come together) or
        ``"test"``; ``"2012"`` with the first three.

    Raises
    ------
    ValueError
        If there is no such year or image set.
    OSError
        If the download fails, breaks off or has a wrong checksum, or the disk is full. Nothing of
        it stays, and the next call starts afresh.

    Notes
    -----
    torchvision's ``VOCDetection`` downloads, compares the MD5 checksum and unpacks, in a folder of
    its own. Only then do the files move to their place, the lists of the image sets last: a set
    that is listed is complete. Two processes must not download the same at once.
    """
    from torchvision.datasets.voc import DATASET_YEAR_DICT, VOCDetection  # seconds to import

    if image_set not in PUBLISHED.get(year, ()):
        known = "; ".join(f"{key}: {', '.join(sets)}" for key, sets in PUBLISHED.items())
        raise ValueError(f"no image set {image_set!r} of VOC {year!r}; there are {known}")
    archive = DATASET_YEAR_DICT["2007-test" if (year, image_set) == ("2007", "test") else year]
    home = Path(root) / "VOCdevkit" / f"VOC{year}"
    if (home / "ImageSets" / "Main" / f"{image_set}.txt").is_file():
        return home
    scratch = Path(root) / f"VOC{year}-{image_set}.download"
    try:
        with unpacking_stays_inside():
            VOCDetection(scratch, year, image_set, download=True)
        move_files(scratch / archive["base_dir"], home)
    except (OSError, HTTPException, RuntimeError, tarfile.TarError) as error:
        # torchvision's RuntimeError: the checksum is wrong, of half a file or of another.
        broken = "broken off or changed on the way: " if isinstance(error, RuntimeError) else ""
        advice = f"Try again, or download it by other means and unpack it in {root}"
        reason = broken + str(error).rstrip(".")
        raise OSError(f"cannot download {archive['url']}: {reason}. {advice}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return home


@contextmanager
def unpacking_stays_inside() -> Iterator[None]:
    """Let no archive write outside its folder (PEP 706): torchvision 0.25 does not ask for it."""
    if not hasattr(tarfile, "data_filter"):
        raise OSError("to unpack safely takes Python 3.11.4 or newer")
    usual = tarfile.TarFile.extraction_filter
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = usual


def move_files(source: Path, target: Path) -> None:
    """Move all files to where other files may be already, the lists of the image sets last."""
    files = [file.relative_to(source) for file in source.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: file.parts[0] == "ImageSets"):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / file, target / file)
