"""Damaged and hostile files: a few hundred of those that `make fuzz` draws, and the classics."""

import io
import json
import mmap
import os
import pickle
import signal
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import fuzzing
import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin
from refusals import refuses, unchecked

from ssd_annotated.app.media import read_image
from ssd_annotated.data import entries, pixels
from ssd_annotated.data.pixels import DataError
from ssd_annotated.data.xml import read_xml

fuzzing.quiet()


# ---------------------------------------------------------------- drawn from a seed


@pytest.mark.parametrize("name", fuzzing.MAKERS)
def test_readers_raise_nothing_but_documented_errors(name, tmp_path, capfd):
    count = 10 if name == "checkpoints" else 30  # which take the longest
    with unchecked():
        found = fuzzing.attack(name, tmp_path, seed=0, count=count)
    capfd.readouterr()  # image libraries write to stderr by themselves
    assert (found.inputs, found.bugs) == (count, [])


def test_an_undocumented_error_is_found(tmp_path, monkeypatch):
    def read(file):
        if file.stem == "input":
            raise KeyError("x")

    target = fuzzing.Target([b"x"], fuzzing.mutate, ".x", read)
    monkeypatch.setitem(fuzzing.MAKERS, "bad reader", lambda _: target)
    found = fuzzing.attack("bad reader", tmp_path, seed=3, count=2)
    assert found.bugs[1] == "bad reader, seed (3, 1): KeyError: 'x'"
    assert (found.inputs, found.accepted) == (2, 0)


def test_an_input_that_takes_too_much_is_found(tmp_path, monkeypatch):
    def read(file):
        if file.stem == "input":  # from the system, not from what the process has kept
            with mmap.mmap(-1, 400 * 2**20) as memory:
                memory[::4096] = bytes(len(memory) // 4096)  # a byte in each page

    monkeypatch.setattr(fuzzing, "MEBIBYTES", 100)
    monkeypatch.setattr(fuzzing, "SECONDS", 0)
    target = fuzzing.Target([b"x"], fuzzing.mutate, ".x", read)
    monkeypatch.setitem(fuzzing.MAKERS, "hungry reader", lambda _: target)
    # A second one might be served from what the first gave back.
    found = fuzzing.attack("hungry reader", tmp_path, seed=3, count=1)
    assert [bug.split(": took ")[0] for bug in found.bugs] == ["hungry reader, seed (3, 0)"] * 2
    assert 350 <= found.memory < 410  # what was freed meanwhile is missing


def test_the_same_seed_makes_the_same_files():
    png = picture("PNG")
    for mutate, data in (
        *((fuzzing.mutate, b"<annotation>" * 9), (fuzzing.mutate, b"")),
        (fuzzing.mutate_parts, png),
    ):
        one, other = (mutate(np.random.default_rng((0, 5)), data) for _ in range(2))
        assert one == other
    drawn = {fuzzing.mutate(np.random.default_rng((0, k)), b"<annotation>" * 9) for k in range(50)}
    assert len(drawn) > 40


# ---------------------------------------------------------------- images


def picture(kind, **options):
    ramp = np.linspace(0, 255, 24 * 18 * 3).astype(np.uint8).reshape(18, 24, 3)
    return fuzzing.encoded(ramp, kind, **options)


@pytest.mark.parametrize("kind", fuzzing.IMAGES)
def test_images_cut_at_every_tenth_byte(kind, tmp_path, capfd):
    data, file = picture(kind), tmp_path / f"cut.{kind.lower()}"
    accepted, refusals = [], []
    for length in range(0, len(data), 10):
        file.write_bytes(data[:length])
        try:
            accepted.append((length, read_image(file)))
        except ValueError as error:
            refusals.append(str(error))
    capfd.readouterr()
    file.write_bytes(data)
    whole = read_image(file)
    assert all(message.startswith(f"{file}: corrupt image: ") for message in refusals)
    assert len(refusals) > len(accepted)
    for length, image in accepted:  # cut behind the pixels: what is missing is no picture
        assert length > len(data) / 2
        assert np.array_equal(image, whole)


@pytest.mark.parametrize("kind", ["GIF", "WebP", "PNG"])
def test_of_an_animation_the_first_picture_is_seen(kind, tmp_path):
    frames = [Image.new("RGB", (24, 18), colour) for colour in ("red", "blue")]
    file = tmp_path / f"moving.{kind.lower()}"
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=100)
    image = read_image(file)
    assert image.shape == (18, 24, 3)
    assert np.abs(image.astype(int) - (255, 0, 0)).max() < 20


def png_that_promises(width, height, damaged=False):
    """A header of some size and no pixels, with a right checksum or without."""

    def chunk(name, content):
        check = zlib.crc32(name + content) ^ damaged
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


@pytest.mark.parametrize(
    ("size", "damaged", "message"),
    [
        ((60_000, 60_000), False, "corrupt image: bomb.png: Image size"),  # Pillow's own limit
        ((15_000, 10_001), False, r"too large: 15000 × 10001, more than 150,000,000 pixels or"),
        ((15_000, 10_001), True, "corrupt image: bomb.png: cannot identify"),
    ],
)
def test_a_small_file_that_promises_gigabytes(tmp_path, size, damaged, message):
    file = tmp_path / "bomb.png"
    file.write_bytes(png_that_promises(*size, damaged))
    fuzzing.forget_peak()
    before = fuzzing.peak()
    with refuses(message):
        read_image(file)
    with refuses(message, DataError):
        pixels.read_header(file)
    assert fuzzing.peak() - before < 100


@pytest.mark.parametrize("claim", [2**30, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("part", [b"tEXt", b"IDAT", b"IEND"])
def test_a_part_of_a_png_that_claims_gigabytes(tmp_path, part, claim):
    # Found by the fuzzer: OpenCV reserved what the part claimed.
    parts = [*fuzzing.png_parts(picture("PNG")), (b"tEXt", b"Title\0a")]
    parts.sort(key=lambda p: (b"IHDR", b"IDAT", b"tEXt", b"IEND").index(p[0]))
    data = fuzzing.PNG + b"".join(fuzzing.png_part(*p) for p in parts)
    place, file = data.index(part) - 4, tmp_path / "claims.png"
    file.write_bytes(data)
    ((width, height), _), whole = pixels.read_header(file), read_image(file)
    assert whole.shape == (height, width, 3)
    file.write_bytes(data[:place] + struct.pack(">I", claim) + data[place + 4 :])
    fuzzing.forget_peak()
    before = fuzzing.peak()
    with refuses(rf"{file}: corrupt image: its part b'{part.decode()}' claims {claim:,} bytes"):
        read_image(file)
    assert "claims" in fuzzing.problem_of(file, (width, height), upright=False).what
    assert fuzzing.peak() - before < 100


def flat(kind, **options):
    """A picture of 4 million pixels in one colour, and its transparency, if asked for."""
    mode = options.pop("mode", "RGB")
    picture = Image.new(mode, (2000, 2000))
    if options.pop("moving", False):
        options |= {"save_all": True, "append_images": [Image.new(mode, (2000, 2000), 9)]}
    return fuzzing.encoded(picture, kind, **options)


@pytest.mark.parametrize(
    ("kind", "options", "bytes_each"),
    [
        ("PNG", {"mode": "RGBA"}, 6),
        ("PNG", {"moving": True}, 6),
        ("BMP", {}, 6),
        ("GIF", {"mode": "P"}, 9),
        ("WebP", {"mode": "RGBA", "method": 0}, 8),
        ("JPEG", {}, 6),
        ("JPEG", {"progressive": True, "subsampling": 0}, 3 + 2 * 3),
        ("JPEG", {"progressive": True, "subsampling": 0, "mode": "CMYK"}, 3 + 2 * 4),
        ("TIFF", {"compression": "tiff_lzw"}, 6),
        ("TIFF", {"compression": "tiff_lzw", "strip_size": 2**30}, 3 + 4 + 3),
    ],
)
def test_what_the_decoder_needs_is_known_and_limited(
    tmp_path, monkeypatch, kind, options, bytes_each
):
    options = dict(options)
    monkeypatch.setattr(TiffImagePlugin, "STRIP_SIZE", options.pop("strip_size", 2**16))
    file = tmp_path / f"large.{kind.lower()}"
    file.write_bytes(flat(kind, **options))
    monkeypatch.setattr(pixels, "MOST_BYTES", 2000 * 2000 * bytes_each)
    assert read_image(file).shape == (2000, 2000, 3)
    rises = []
    for _ in range(4):  # what is new costs memory once, and others in the process take some, too
        fuzzing.forget_peak()
        before = fuzzing.peak()
        read_image(file)
        rises.append(fuzzing.peak() - before)
    held = file.stat().st_size + 2000 * 2000 * bytes_each
    assert min(rises) < held / 2**20 + 3
    monkeypatch.setattr(pixels, "MOST_BYTES", 2000 * 2000 * bytes_each * 0.98)
    with refuses(f"large.{kind.lower()}: too large: 2000 × 2000, more than"):
        read_image(file)


@pytest.mark.parametrize("error", [IndexError("index out of range"), EOFError(), KeyError(3)])
def test_whatever_pillow_stumbles_over_is_a_corrupt_image(tmp_path, monkeypatch, error):
    def stumble(_):
        raise error

    (tmp_path / "a.png").write_bytes(picture("PNG"))
    monkeypatch.setattr(Image, "open", stumble)
    with refuses("corrupt image: a.png: "):
        read_image(tmp_path / "a.png")


def test_an_animation_cut_in_its_second_picture_still_has_its_first(tmp_path):
    ramp = Image.fromarray(np.arange(24 * 18 * 3, dtype=np.uint8).reshape(18, 24, 3))
    moving = {"save_all": True, "append_images": [ramp.rotate(180)]}
    data, file = fuzzing.encoded(ramp, "PNG", **moving), tmp_path / "cut.png"
    file.write_bytes(data)
    whole = read_image(file)
    for end in range(data.index(b"fdAT") + 8, len(data), 10):
        file.write_bytes(data[:end])
        assert np.array_equal(read_image(file), whole)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"save_all": True}])
def test_a_webp_that_claims_a_large_canvas_is_not_opened(tmp_path, monkeypatch, options):
    file, size = tmp_path / "large.webp", (12_000, 16_000)
    if "save_all" in options:
        options = options | {"append_images": [Image.new("RGB", (3, 2), "red")]}
    data = bytearray(fuzzing.encoded(Image.new("RGB", (3, 2)), "WebP", **options))
    file.write_bytes(data)
    assert pixels.webp_canvas(file) == Image.open(file).size == (3, 2)
    width, height = size
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        above = int.from_bytes(data[21:25], "little") >> 28
        data[21:25] = (width - 1 | (height - 1) << 14 | above << 28).to_bytes(4, "little")
    else:
        data[26:30] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    file.write_bytes(data)
    assert pixels.webp_canvas(file) == size
    monkeypatch.setattr(Image, "open", lambda _: pytest.fail("Pillow reserves the canvas"))
    with refuses("large.webp: too large: 12000 × 16000, more than"):
        read_image(file)


def test_a_damaged_animation_behind_a_still_picture_does_not_end_the_process(tmp_path):
    ramp = Image.fromarray(np.arange(24 * 18 * 3, dtype=np.uint8).reshape(18, 24, 3))
    moving = {"save_all": True, "append_images": [ramp.rotate(180)]}
    parts = fuzzing.png_parts(fuzzing.encoded(ramp, "PNG", **moving))
    parts.remove(next(part for part in parts if part[0] == b"fcTL"))  # the first is now still
    unknown_filter = zlib.compress(bytes([9]) * 18 * (1 + 24 * 3))
    damaged = [(n, c[:4] + unknown_filter if n == b"fdAT" else c) for n, c in parts]
    file = tmp_path / "behind.png"
    file.write_bytes(fuzzing.PNG + b"".join(fuzzing.png_part(*part) for part in damaged))
    assert np.array_equal(read_image(file), ramp)  # OpenCV alone: a segmentation fault


# ---------------------------------------------------------------- XML and names


def bomb():
    lines = ['<!ENTITY a0 "ha">', *(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 30))]
    return f"<!DOCTYPE x [{''.join(lines)}]><annotation>&a29;</annotation>"


@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation>&f;</annotation>',
        '<!DOCTYPE x [<!ENTITY % f SYSTEM "http://127.0.0.1:9/x"> %f;]><annotation/>',
    ],
    ids=["laughs", "file", "network"],
)
def test_xml_with_entities_is_refused(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match="malformed XML: Entit"):
        read_xml(tmp_path / "a.xml")


@pytest.mark.parametrize(
    "text",
    ["<a>" * 10**5, "<a>" * 10**5 + "</a>" * 10**5, f"<annotation {'a' * 10**6}=''/>"],
    ids=["never closed", "deep", "wide"],
)
def test_xml_without_end(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    started = time.process_time()
    with suppress(DataError):
        read_xml(tmp_path / "a.xml")
    assert time.process_time() - started < fuzzing.SECONDS


@pytest.fixture
def secret(tmp_path):
    """An image beside the folder of images, which no name may reach."""
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(picture("PNG"))
    (tmp_path / "images" / "deep" / "a.png").write_bytes(picture("PNG"))
    return tmp_path / "images"


@pytest.mark.parametrize(
    "name", ["../secret.png", "deep/../../secret.png", "{}/secret.png", "..\\secret.png", "a\0b"]
)
def test_a_name_leads_to_no_other_folder(secret, name):
    name = name.format(secret.parent)
    with refuses("no image: expected", FileNotFoundError):
        entries.find_image(secret, name)


@pytest.mark.parametrize(
    "name", ["deep/a.png", "deep\\a.png", "./deep/../deep/a.png", "{}/deep/a.png"]
)
def test_a_name_within_the_folder_is_found(secret, name):
    assert entries.find_image(secret, name.format(secret)).samefile(secret / "deep" / "a.png")


def test_a_link_that_somebody_put_into_the_folder_is_followed(secret):
    # Data sets are often made of links: whoever can write into the folder may say what is in it.
    (secret / "link.png").symlink_to(secret.parent / "secret.png")
    assert entries.find_image(secret, "link.png") == secret / "link.png"


# ---------------------------------------------------------------- pickles


class Payload:
    """What runs when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def planted(mark):
    """The payload as a pickle, in torch's old and new format, and in an array of NumPy."""
    out = [io.BytesIO() for _ in range(4)]
    pickle.dump(Payload(mark), out[0])
    torch.save({"spec": Payload(mark)}, out[1])
    torch.save({"spec": Payload(mark)}, out[2], _use_new_zipfile_serialization=False)
    np.save(out[3], np.array([Payload(mark)], dtype=object), allow_pickle=True)
    return [part.getvalue() for part in out]


def test_the_payload_works(tmp_path):
    for data in planted(tmp_path / "mark")[:1]:
        pickle.loads(data)
        assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", fuzzing.MAKERS)
def test_nothing_is_unpickled(name, tmp_path):
    mark = tmp_path / "mark"
    target = fuzzing.MAKERS[name](tmp_path)
    for data in planted(mark):
        file = tmp_path / f"planted{target.suffix}"
        file.write_bytes(data)
        with unchecked(), suppress(*fuzzing.DOCUMENTED):
            target.read(file)
        assert not mark.exists()


def test_records_that_look_like_commands_stay_text(tmp_path):
    (tmp_path / "input.jsonl").write_text(json.dumps({"step": "__import__('os')"}) + "\n")
    with refuses("line 1 is no record of a step"):
        fuzzing.MAKERS["metrics.jsonl"](tmp_path).read(tmp_path / "input.jsonl")


def test_a_pipe_is_no_image_and_nobody_waits_for_its_end(tmp_path):
    def late(*_):
        raise TimeoutError("it waits")

    os.mkfifo(tmp_path / "a.png")
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(5)
    try:
        with refuses(r"corrupt image: a\.png: not a regular file"):
            pixels.read_header(tmp_path / "a.png")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
