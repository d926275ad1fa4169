"""Damaged and hostile files for every reader, drawn from a seed, and what the readers did.

A reader may accept a file or raise a documented error: a ValueError or an OSError. Anything else
is a bug, and so is an input that takes more than 5 seconds or 1 GB.
"""

import copy
import io
import json
import math
import os
import re
import resource
import signal
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageCms, PngImagePlugin
from squares import Squares, small

from ssd_annotated.app.media import Video, read_image
from ssd_annotated.app.writers import read_lines
from ssd_annotated.checkpoint import load_model, save_model
from ssd_annotated.data import annotation, items, pixels, record
from ssd_annotated.data.coco import COCOFolder
from ssd_annotated.training.records import _length_before
from ssd_annotated.training.run import _take_up, run
from ssd_annotated.training.settings import Settings
from ssd_annotated.training.train import Trainer

SECONDS, MEBIBYTES = 5, 1024
IMAGES = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "GIF")
DOCUMENTED = (ValueError, OSError)
#: What tends to be read wrongly, in any format.
TOKENS = [
    *(b"\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"-1", b"0", b"1e999", b"NaN", b"9" * 11),
    *(b"../../etc/passwd", b"/etc/passwd", b"..\\..\\x", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3\x28"),
    *(b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"&a;", b"<object>", b"</annotation>", b"<![CDATA["),
    *(b"]]>", b"null", b"true", b"{}", b"[]", b'"id": 1,', b"[" * 2000, b'{"a":' * 2000, b'"'),
    *(b"\n", b"," * 9),
]
NUMBERS = [0, 1, 100, 2**16, 10**6, 2**27, 2**30, 2**31 - 1, 2**32 - 1]


class Target(NamedTuple):
    """A reader of files: examples that are good, how to damage one, and what reads it."""

    seeds: list[bytes]
    damage: Callable[[np.random.Generator, bytes], bytes]
    suffix: str
    read: Callable[[Path], object]


class Report(NamedTuple):
    """What became of a target's inputs; `bugs` are messages that say how to see them again."""

    inputs: int
    accepted: int
    slowest: float
    memory: int
    bugs: list[str]


def mutate(rng: np.random.Generator, data: bytes) -> bytes:
    """Change a file in one to four places: bits, bytes, pieces, tokens, numbers, its end."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        place, length = int(rng.integers(0, len(data) + 1)), int(rng.integers(1, 40))
        kind = rng.integers(0, 8)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[place : place + length] = rng.bytes(length)
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = data[place : place + length] * int(rng.integers(1, 20))
        elif kind == 4:
            data[place : place + int(rng.integers(0, 4))] = TOKENS[rng.integers(0, len(TOKENS))]
        elif kind == 5:
            other = int(rng.integers(0, len(data) + 1))
            data[place : place + length] = data[other : other + length]
        elif kind == 6:
            number = int(rng.choice(NUMBERS)).to_bytes(4, rng.choice(["big", "little"]))
            data[place : place + 4] = number
        elif rng.random() < 0.3:
            del data[place:]
    return bytes(data)


def mutate_fields(rng: np.random.Generator, data: bytes) -> bytes:
    """Change numbers behind the names of a container's boxes: sizes, counts, rates."""
    if rng.random() < 0.5:
        return mutate(rng, data)
    names = [k for k in range(len(data) - 4) if data[k : k + 4].isalnum()]
    for _ in range(rng.integers(1, 4) if names else 0):
        place = int(rng.choice(names)) + int(rng.choice([-4, *range(4, 32, 4)]))
        number = int(rng.choice(NUMBERS)).to_bytes(4, rng.choice(["big", "little"]))
        data = data[: max(place, 0)] + number + data[max(place, 0) + 4 :]
    return data


def mutate_parts(rng: np.random.Generator, data: bytes) -> bytes:
    """Change the parts of a PNG: their contents, order and claims, mostly with right checksums."""
    if rng.random() < 0.3:
        return mutate(rng, data)
    parts = png_parts(data)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(0, len(parts)))
        name, content = parts[place]
        kind = rng.integers(0, 5)
        if kind == 0:
            parts[place] = (name, mutate(rng, content))
        elif kind == 1:
            parts.insert(int(rng.integers(0, len(parts) + 1)), parts[place])
        elif kind == 2:
            bomb = zlib.compress(bytes(int(rng.integers(0, 2_000_000))))
            odd = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"acTL", b"fdAT")
            parts.insert(place, (odd[rng.integers(0, len(odd))], b"a\0\0" + bomb))
        elif kind == 3 and len(parts) > 1:
            del parts[place]
        else:
            numbers = np.frombuffer(content[: len(content) // 4 * 4], ">u4").copy()
            numbers[rng.random(len(numbers)) < 0.3] = rng.choice(
                [0, 1, 2**16, 2**31 - 1, 2**32 - 1]
            )
            parts[place] = (name, numbers.tobytes() + content[numbers.nbytes :])
    data = PNG + b"".join(png_part(name, content) for name, content in parts)
    if rng.random() < 0.2:  # a claim that is none
        place = int(
            rng.choice([k for k in range(8, len(data) - 4) if data[k + 4 : k + 8].isalpha()])
        )
        claim = int(rng.choice([0, 100, 10**6, 2**27, 2**30, 2**31 - 1, 2**32 - 1]))
        data = data[:place] + struct.pack(">I", claim) + data[place + 4 :]
    return data


PNG = b"\x89PNG\r\n\x1a\n"


def png_part(name: bytes, content: bytes) -> bytes:
    """A part of a PNG: the length of what it holds, its name, that, and the checksum."""
    return struct.pack(">I", len(content)) + name + content + checksum(name + content)


def checksum(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))


def png_parts(data: bytes) -> list[tuple[bytes, bytes]]:
    """The parts of a PNG, by name and content."""
    parts, place = [], len(PNG)
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        parts.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return parts


def mutate_within(rng: np.random.Generator, data: bytes) -> bytes:
    """Change what an archive holds and give it right checksums, as somebody hostile would."""
    if rng.random() < 0.3:
        return mutate(rng, data)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for part in old.infolist():
            content = old.read(part)
            hit = part.filename.endswith("data.pkl") or rng.random() < 0.05
            new.writestr(part.filename, mutate(rng, content) if hit else content)
    return out.getvalue()


# ---------------------------------------------------------------- the readers


def encoded(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(out, kind, **options)
    return out.getvalue()


def image_seeds(kind: str) -> list[bytes]:
    """Small pictures of every make that a format knows: grey, alpha, palette, CMYK, moving, ..."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb, deep = Image.fromarray(image), Image.fromarray(image[..., 0].astype(np.uint16) * 257)
    alpha, palette, cmyk = rgb.convert("RGBA"), rgb.quantize(7), rgb.convert("CMYK")
    moving = {"save_all": True, "append_images": [rgb.rotate(180)]}
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a" * 99, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    others = {
        "JPEG": [(cmyk, {"progressive": True}), (rgb, {"icc_profile": profile})],
        "PNG": [
            *((palette, {"transparency": 0}), (deep, {}), (alpha, {"pnginfo": text})),
            *((rgb, moving), (rgb, {"icc_profile": profile})),
        ],
        "WebP": [(alpha, {"lossless": True}), (rgb, moving)],
        "TIFF": [(cmyk, {"compression": "tiff_lzw"}), (deep, {"compression": "tiff_deflate"})],
        "BMP": [(palette, {})],
        "GIF": [(palette, {}), (rgb, moving)],
    }
    usual = [encoded(image, kind, exif=exif), encoded(image[:, :1, 0], kind)]
    return usual + [encoded(picture, kind, **options) for picture, options in others[kind]]


def image_target(kind: str) -> Target:
    def read(file: Path) -> None:
        results = []
        for reader in (read_image, pixels.read_header, read_both_ways):
            try:
                reader(file)
            except DOCUMENTED as error:
                results.append(error)
        if results:
            raise results[0]

    damage = mutate_parts if kind == "PNG" else mutate
    return Target(image_seeds(kind), damage, f".{kind.lower()}", read)


def read_both_ways(file: Path) -> None:
    """As a data set reads an image: the header first, then the pixels, upright or as stored."""
    size, _ = pixels.read_header(file)
    for frame in ((size, False), (size[::-1], True)):
        problem_of(file, *frame)


def problem_of(file: Path, size: tuple[int, int], upright: bool) -> annotation.Problem | None:
    """What a data set says of an image's pixels."""
    frame = record.Frame(size, upright, False, False)
    return record.decoding_problem(record.make_record(file, file, frame, []))


def film(file: Path, fourcc: str, fps: float = 8) -> bytes:
    """A short video in some container and codec; nothing where OpenCV cannot write it."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*fourcc), fps, (64, 48))
    for number in range(6):
        writer.write(np.full((48, 64, 3), (5 * number, 0, 30 * number), np.uint8))
    writer.release()
    return file.read_bytes() if file.exists() else b""


def video_target(folder: Path) -> Target:
    kinds = [("mp4", "mp4v", 8), ("avi", "MJPG", 8), ("mkv", "XVID", 8), ("webm", "VP80", 8)]
    kinds += [("mpg", "MPG1", 25), ("avi", "FFV1", 8)]
    seeds = [film(folder / f"seed.{end}", *rest) for end, *rest in kinds]

    def read(file: Path) -> None:
        with Video(file) as video:
            # What is made of these: an index, a bar, the rate of the annotated video.
            assert video.fps is None or 0 < video.fps <= 1000
            assert video.count is None or video.count > 0
            for number, frame in enumerate(video):
                assert frame.number == number
                assert math.isfinite(frame.seconds)

    return Target([seed for seed in seeds if seed], mutate_fields, ".mp4", read)


def xml_target(folder: Path) -> Target:
    image = folder / "a.png"
    image.write_bytes(encoded(np.zeros((30, 40, 3), np.uint8), "PNG"))
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>22.5</ymax></bndbox>"
    thing = (
        f"<object><name>cat</name><difficult>0</difficult><truncated>1</truncated>{box}</object>"
    )
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    text = f"<annotation><filename>a.png</filename>{size}{thing * 2}</annotation>"
    seeds = [
        text.encode(),
        f'<?xml version="1.0" encoding="utf-16"?>{text}'.encode("utf-16"),
        f'<?xml version="1.0" encoding="latin-1"?>{text}'.encode("latin-1"),
    ]

    def read(file: Path) -> None:
        record.read_record(items.xml_item("a", file, [image], file, folder), None)

    return Target(seeds, mutate, ".xml", read)


def coco_target(folder: Path) -> Target:
    (folder / "a.png").write_bytes(encoded(np.zeros((30, 40, 3), np.uint8), "PNG"))
    thing = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 20, 20.5], "iscrowd": 0}
    other = {**thing, "id": 2, "bbox": None, "segmentation": [[1, 2, 30, 2, 30, 9]]}
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [thing, other],
        "categories": [{"id": 3, "name": "cat", "supercategory": "none"}],
    }
    seeds = [json.dumps(content).encode(), json.dumps(content, indent=1).encode("utf-16")]
    return Target(seeds, mutate, ".json", lambda file: COCOFolder(folder, file))


def list_target(_: Path) -> Target:
    def read(file: Path) -> None:
        names = items.read_list(file.parent, file.stem, {"a", "b"}, (".jpg",))[1]
        if any({"", ".", ".."} & set(name.split("/")) for name in names):
            raise AssertionError(f"a name leads out of the folder: {names}")

    seeds = [b"a\nb\nc/d\n", b"a  1\nb -1\nc  0\n", "a.jpg\r\nC:\\b.jpg".encode("utf-16")]
    return Target(seeds, mutate, ".txt", read)


def model_target(folder: Path) -> Target:
    save_model(small(), folder / "model.pt")
    return Target([(folder / "model.pt").read_bytes()], mutate_within, ".pt", load_model)


def checkpoint_target(folder: Path) -> Target:
    settings = Settings(steps=1, batch_size=2)
    run(small(), Squares(2), folder / "run", settings, progress=False)
    trainer = Trainer(small(), Squares(2), settings)

    def read(file: Path) -> None:
        _take_up([file], copy.deepcopy(trainer), resume=True)

    return Target([(folder / "run" / "last.pt").read_bytes()], mutate_within, ".pt", read)


def records_target(_: Path) -> Target:
    lines = [{"step": k, "localization": 1.5, "lr": None} for k in range(6)]
    seeds = ["".join(json.dumps(line) + "\n" for line in lines).encode()]
    return Target(seeds, mutate, ".jsonl", lambda file: _length_before(file, 4))


def detections_target(_: Path) -> Target:
    lines = [{"file": f"{k}.jpg", "width": 3, "height": 4, "detections": []} for k in range(6)]
    seeds = ["".join(json.dumps(line) + "\n" for line in lines).encode()]
    return Target(seeds, mutate, ".jsonl", read_lines)


MAKERS: dict[str, Callable[[Path], Target]] = {
    "VOC annotations": xml_target,
    "COCO files": coco_target,
    "set lists": list_target,
    **{kind: lambda _, kind=kind: image_target(kind) for kind in IMAGES},
    "videos": video_target,
    "model files": model_target,
    "checkpoints": checkpoint_target,
    "metrics.jsonl": records_target,
    "detections to resume": detections_target,
}


# ---------------------------------------------------------------- the driver


def forget_peak() -> None:
    """Let `peak` begin anew, where the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most memory, in MiB, that this process has held: ever, or since `forget_peak`."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024


def attack(name: str, folder: Path, seed: int, count: int, seconds: float = float("inf")) -> Report:
    """Let a reader read up to `count` damaged files; the same seed gives the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    target = MAKERS[name](folder)
    bugs, accepted, slowest, most, end = [], 0, 0.0, 0, time.monotonic() + seconds
    for seed_ in target.seeds:  # else the fuzzing would prove nothing
        (folder / f"good{target.suffix}").write_bytes(seed_)
        target.read(folder / f"good{target.suffix}")
    file, number = folder / f"input{target.suffix}", 0
    while number < count and time.monotonic() < end:
        rng = np.random.default_rng((seed, number))
        file.write_bytes(target.damage(rng, target.seeds[number % len(target.seeds)]))
        wrong, took, memory = try_to_read(target, file)
        accepted += wrong is None
        slowest, most = max(slowest, took), max(most, memory)
        if wrong is not None and not isinstance(wrong, DOCUMENTED):
            bugs.append(f"{name}, seed ({seed}, {number}): {type(wrong).__name__}: {wrong}"[:300])
        if took > SECONDS:
            bugs.append(f"{name}, seed ({seed}, {number}): took {took:.1f} s")
        if memory > MEBIBYTES:
            bugs.append(f"{name}, seed ({seed}, {number}): took {memory} MiB")
        number += 1
    return Report(number, accepted, slowest, most, bugs)


class Endless(Exception):  # noqa: N818
    """A reader that does not come to an end."""


@contextmanager
def limited() -> Iterator[None]:
    """Interrupt what takes twice as long as it may, if it is Python that goes round in circles."""

    def stop(*_: object) -> None:
        raise Endless(f"more than {2 * SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def try_to_read(target: Target, file: Path) -> tuple[Exception | None, float, int]:
    """The error, if any; the seconds of the processor, for others may use it; and the MiB."""
    forget_peak()
    before, started, wrong = peak(), time.process_time(), None
    try:
        with warnings.catch_warnings(action="ignore"), limited():
            target.read(file)
    except Exception as error:
        wrong = error
    return wrong, time.process_time() - started, peak() - before


def quiet() -> None:
    """One thread, and no words from OpenCV and FFmpeg about each damaged file."""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    torch.set_num_threads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
