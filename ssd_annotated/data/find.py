"""What a DATA argument means: a folder, a set in it, or a share of it.

``ROOT`` and ``ROOT:SET`` name images in any of the :mod:`~ssd_annotated.data.kinds` of folder that
are known; ``IMAGES:ANNOTATIONS.json``, or the file alone, names a file in COCO's format. Where
nobody has made sets, shares do: ``ROOT:0.9`` is the images that come first in an order which
depends on nothing but their names, ``ROOT:-0.1`` the rest of them. An image that is added later
moves none of the others to the other side. ``ROOT:SET:0.9`` is a share of a set, ``ROOT:all`` the
whole folder.
"""

import os
import re
from collections.abc import Sequence
from fractions import Fraction
from hashlib import sha256
from itertools import chain
from pathlib import Path, PureWindowsPath

from ssd_annotated.data.annotation import Found
from ssd_annotated.data.entries import read_coco
from ssd_annotated.data.items import SUFFIXES, composed
from ssd_annotated.data.kinds import OTHER, Kind, count_of, understand, usual

#: Between root and set: a colon, unless it is the one after the letter of a Windows drive.
COLON = re.compile(r":(?![\\/])|(?<!^[A-Za-z])(?<!:[A-Za-z]):")
SHARE = re.compile(r"-?0?\.\d+")
EVERYTHING = "all"
UNNAMED = {"default"}  # CVAT's name for the only set of a task


def split_data(text: str) -> tuple[str, str | None]:
    """Split a DATA argument at its last colon that is not a Windows drive's.

    The second half is None if there is no colon, or a folder or file of the whole name. ValueError
    if either half is empty.
    """
    colons = list(COLON.finditer(text))
    if not colons or os.path.exists(text):
        return text, None
    root, rest = text[: colons[-1].start()], text[colons[-1].end() :]
    if not root or not rest:
        raise ValueError(f"{text!r} is not ROOT:SET or IMAGES:ANNOTATIONS.json")
    return root, rest


def find(
    root: str | Path,
    given: str | None = None,
    wanted: str = EVERYTHING,
    only_xml: bool = False,
) -> Found:
    """Find the images that a DATA argument names.

    Parameters
    ----------
    root
        A folder, or a file in COCO's format; before a share also ``ROOT:SET``.
    given
        A set, a share such as ``"0.9"`` or ``"-0.1"``, ``"all"``, or a file in COCO's format whose
        images `root` holds.
    wanted
        The set to take if none is given, or ``"all"``. A folder without sets is then taken whole,
        but not for ``"val"``: nobody should validate on what was trained on without knowing it.
    only_xml
        Refuse a folder with COCO's JSON, which is not read.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, file or set, or no image in it.
    ValueError
        If the folder is of no known kind, a set is empty, or it is unclear what is meant.
    """
    share = given if given and SHARE.fullmatch(given) else None
    if is_json(given):
        # A shell expands only a ~ at the start of an argument.
        return find_json(Path(os.path.expanduser(given)), Path(root))
    if is_json(root):
        images, file = split_data(str(root))
        if given not in (None, EVERYTHING, share):
            raise ValueError(f"{root}: {given!r} is no share of it, such as 0.9 or -0.1")
        file, folder = (file, Path(images)) if file else (images, None)
        return find_json(Path(os.path.expanduser(file)), folder, share)
    if share:
        root, given = (root, None) if Path(root).exists() else split_data(str(root))
    kind = understand(Path(root))
    if only_xml and kind.in_json:
        raise ValueError(f"{root}: {kind.words}: no XML; read it with COCOFolder")
    if share and given is None and not is_whole(kind):
        there = f"has sets, {', '.join(kind.sets)}; {root}:SET:{share} is a share of one"
        raise ValueError(f"{root}: {there}")
    names = choose_sets(kind, given, EVERYTHING if share else wanted)
    found = join([kind.read(name) for name in names or [None]])
    if given is None and not share and wanted not in (EVERYTHING, *names) and has_no_sets(kind):
        said = f"{root}: no sets, so all of it is taken as {wanted!r}"
        found = found._replace(notes=(said, *found.notes))
    return take(found, root, kind.words, given if share else ", ".join(names), share)


def is_json(name: str | Path | None) -> bool:
    """Whether a file of this name is one in COCO's format."""
    return str(name).lower().endswith(".json")


def find_json(file: Path, images: Path | None, share: str | None = None) -> Found:
    """A file in COCO's format, or a share of it."""
    return take(read_coco(file, images), file, "COCO's JSON", None, share)


def join(found: Sequence[Found]) -> Found:
    """All that was found, as one."""
    return Found(*(tuple(chain.from_iterable(field)) for field in zip(Found(()), *found)))


def take(found: Found, root: str | Path, words: str, sets: str | None, share: str | None) -> Found:
    """Take what was found, or a share of it, and say in a line how the argument was understood."""
    taken, count = sets or EVERYTHING, count_of(len(found.items))
    if share:
        items = tuple(item for item in found.items if in_share(item.name, share))
        if found.items and not items:
            raise ValueError(f"{root}: the share {share} is empty: none of {count}")
        found = found._replace(items=items)
        taken = f"the share {share} of {sets}" if sets else f"the share {share}"
        count = f"{len(items)} of {count}"
    folders = ", ".join(dict.fromkeys(map(str, found.folders)))
    places = f" in {folders}" if folders else ""
    return found._replace(how=f"{root}: {words}; taken: {taken} ({count}{places})")


# --- Sets -----------------------------------------------------------------------------------------


def choose_sets(kind: Kind, given: str | None, wanted: str) -> list[str]:
    """The names of the sets to read; none, if that is the whole of a folder without sets."""
    name = given or wanted
    same = [there for there in kind.sets if usual(there) == usual(name)]
    if name in kind.sets or same:
        return [name] if name in kind.sets else same[:1]
    if name == EVERYTHING:
        return all_sets(kind)
    if given is None and has_no_sets(kind) and wanted != "val":
        return whole_sets(kind)
    raise FileNotFoundError(no_such_set(kind, name))


def all_sets(kind: Kind) -> list[str]:
    """The sets that hold all images, each once; none, if there are no sets."""
    whole = whole_sets(kind)
    there = {usual(name): name for name in reversed(whole)}
    names = ["trainval"] if "trainval" in there else ["train", "val"]
    known = [there[name] for name in (*names, "test", OTHER) if name in there]
    if not known and len(whole) > 1:
        raise FileNotFoundError(no_such_set(kind, names[0]))
    return known or whole


def whole_sets(kind: Kind) -> list[str]:
    """The sets but for those of a class: of ``cat_train`` and ``train``, the latter."""
    there = set(kind.sets)
    return [name for name in kind.sets if "_" not in name or name.rpartition("_")[2] not in there]


def has_no_sets(kind: Kind) -> bool:
    """Whether nobody has said what the images of a folder are for."""
    return set(whole_sets(kind)) <= UNNAMED


def is_whole(kind: Kind) -> bool:
    """Whether nobody has divided a folder: Roboflow calls all of it train, CVAT default."""
    return len(whole_sets(kind)) <= 1


def no_such_set(kind: Kind, name: str) -> str:
    """What to say of a set that is not there."""
    there = ", ".join(sorted(kind.sets)) or "none"
    if kind.lists is not None:
        text = f"{kind.lists / name}.txt: no such image set; there are: {there}"
    else:
        text = f"{kind.root}: no image set {name!r}; there are: {there}"
    if not is_whole(kind):
        return text
    shares = f"{kind.root}:0.9 to train on and {kind.root}:-0.1, the rest"
    return f"{text}. Divide it into shares, {shares}; {kind.root}:all is everything"


# --- Shares ---------------------------------------------------------------------------------------


def in_share(name: str, share: str) -> bool:
    """Whether an image of this name belongs to ``0.9``, the first of all, or ``-0.1``, the last.

    The order is that of the SHA-256 of the names, without folder and ending. Of names that
    Roboflow gave to copies, ``cat_jpg.rf.0a1b…``, only what precedes ``.rf.`` counts: the copies of
    one photograph stay together.
    """
    path = PureWindowsPath(name)  # parts at both slashes
    stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
    stem = composed(stem.partition(".rf.")[0])
    digest = sha256(stem.encode(errors="surrogatepass")).digest()
    place = Fraction(int.from_bytes(digest[:8]), 2**64)
    size = Fraction(share)
    return place < size if size > 0 else place >= 1 + size
