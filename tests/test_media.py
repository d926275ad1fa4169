"""Photographs, videos and cameras: inputs are read right or refused, outputs are complete."""

import json
import re
import struct
import tracemalloc
from itertools import islice

import cv2
import fuzzing
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses
from turning import turned

from ssd_annotated.app import media
from ssd_annotated.app.media import Frame, Images, Photograph, Video, is_video, read_image
from ssd_annotated.app.writers import (
    annotated_images,
    annotated_video,
    check_target,
    identities,
    json_document,
    json_lines,
    write_image,
)
from ssd_annotated.nms import Detections

NAMES = ("background", "dog", "Катя")


def noise(width=40, height=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(image, path, **options):
    Image.fromarray(image).save(path, **options)
    return path


def some(*boxes):
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.linspace(0.9, 0.6, len(boxes)),
        torch.arange(len(boxes)) % 2 + 1,
    )


# --- Images in


def test_a_folder_in_the_order_of_its_names(tmp_path):
    for number, name in enumerate(["b.png", "a.PNG", "ü 漢字.png", ".hidden.png", "c.txt"]):
        save(noise(seed=number), tmp_path / name, format="png")
    (tmp_path / "inner.png").mkdir()
    save(noise(), tmp_path / "inner.png" / "deep.png")
    images = Images(tmp_path)
    seen = list(images)
    assert [photograph.file.name for photograph in seen] == ["a.PNG", "b.png", "ü 漢字.png"]
    assert len(images) == 3
    for (_, image), seed in zip(seen, (1, 0, 2), strict=True):
        assert np.array_equal(image, noise(seed=seed))
    assert [file for file, _ in images] == images.files  # and once more


def test_a_single_file_needs_no_particular_suffix(tmp_path):
    file = save(noise(), tmp_path / "upload", format="png")
    ((found, image),) = Images(str(file))
    assert found == file
    assert np.array_equal(image, noise())


def test_pixels_are_read_when_they_are_asked_for(tmp_path):
    for name in "abc":
        save(noise(), tmp_path / f"{name}.png")
    images = iter(Images(tmp_path))
    next(images)
    (tmp_path / "b.png").unlink()
    with refuses(r"b\.png: no such file", FileNotFoundError):
        next(images)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_seen_upright(tmp_path, orientation):
    upright = np.zeros((40, 64, 3), dtype=np.uint8)
    upright[:20, :32] = (255, 0, 0)
    upright[20:, 32:] = (0, 0, 255)
    # EXIF describes the stored pixels: this is what turns the upright ones into them.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, "quality": 95, "subsampling": 0}
    file = save(np.ascontiguousarray(stored), tmp_path / "phone.jpg", **options)
    image = read_image(file)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 4


def test_every_kind_of_pixel_becomes_rgb_of_8_bits(tmp_path):
    rgb, grey = noise(), noise()[..., 0]
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 7, dtype=np.uint8)])
    save(grey, tmp_path / "grey.png")
    save(alpha, tmp_path / "alpha.png")
    cv2.imwrite(str(tmp_path / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "deep_grey.png"), grey.astype(np.uint16) * 257)
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "print.tif")
    save(rgb[:1, :1], tmp_path / "tiny.png")
    images = {file.stem: image for file, image in Images(tmp_path)}
    assert {image.dtype for image in images.values()} == {np.dtype(np.uint8)}
    assert np.array_equal(images["grey"], np.dstack([grey] * 3))
    assert np.array_equal(images["alpha"], rgb)
    assert np.array_equal(images["deep"], rgb)
    assert np.array_equal(images["deep_grey"], np.dstack([grey] * 3))
    assert images["palette"].shape == images["print"].shape == rgb.shape
    assert np.array_equal(images["tiny"], rgb[:1, :1])


def damage(folder):
    """Three bad images between two good ones."""
    save(noise(), folder / "a.png")
    (folder / "b.jpg").write_text("no image")
    (folder / "c.png").touch()
    save(noise(200, 200), folder / "d.jpg")
    data = (folder / "d.jpg").read_bytes()
    (folder / "d.jpg").write_bytes(data[: len(data) // 2])
    save(noise(), folder / "e.png")


def test_the_first_bad_image_is_an_error_that_names_it(tmp_path):
    damage(tmp_path)
    with refuses(r"b\.jpg: corrupt image: b\.jpg: cannot identify image file"):
        list(Images(tmp_path))


@pytest.mark.parametrize("name", ["b.jpg", "c.png", "d.jpg"])
def test_text_nothing_and_half_an_image_are_refused(tmp_path, name):
    damage(tmp_path)
    with refuses(f"{name}: corrupt image"):
        list(Images(tmp_path / name))


def test_bad_images_are_left_out_and_listed(tmp_path):
    damage(tmp_path)
    images = Images(tmp_path, on_bad="skip")
    for _ in range(2):  # not added up
        assert [file.name for file, _ in images] == ["a.png", "e.png"]
        assert [problem.file.name for problem in images.problems] == ["b.jpg", "c.png", "d.jpg"]
    start = f"{tmp_path / 'b.jpg'}: corrupt image: b.jpg: cannot identify image file"
    assert str(images.problems[0]).startswith(start)


def test_sources_that_are_none(tmp_path):
    with refuses("gone: no such file or folder", FileNotFoundError):
        Images(tmp_path / "gone")
    with refuses(r"no image in this folder; looked for \.jpg"):
        Images(tmp_path)
    with refuses("on_bad must be 'raise' or 'skip', not 'ignore'"):
        Images(tmp_path, on_bad="ignore")
    with refuses("corrupt image: .*directory"):
        read_image(tmp_path)


# --- Videos in


def film(path, count=12, size=(64, 48), fourcc="mp4v", fps=8):
    """Frames that grow lighter, red by 10 and blue by 5 a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), fps, size)
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {fourcc}")
    for number in range(count):
        writer.write(np.full((size[1], size[0], 3), (5 * number, 0, 10 * number), dtype=np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(("name", "fourcc"), [("ein Fülm.mp4", "mp4v"), ("old.avi", "MJPG")])
def test_frames_in_order_with_their_times_in_rgb(tmp_path, name, fourcc):
    with Video(film(tmp_path / name, fourcc=fourcc)) as video:
        assert (video.fps, video.count, video.is_camera) == (8, 12, False)
        frames = list(video)
    assert [frame.number for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(12) / 8, atol=1e-3)
    for number, _, image in frames:
        assert image.shape == (48, 64, 3)
        assert np.abs(image.mean(axis=(0, 1)) - (10 * number, 0, 5 * number)).max() < 12


def test_a_telephone_turned_on_its_side(tmp_path):
    path = film(tmp_path / "phone.mp4")
    path.write_bytes(turned(path.read_bytes()))
    with Video(path) as video:
        assert next(iter(video)).image.shape == (64, 48, 3)


def test_a_film_that_cannot_be_opened(tmp_path):
    with refuses(r"gone\.mp4: no such file", FileNotFoundError):
        Video(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("no film" * 99)
    (tmp_path / "empty.avi").touch()
    cut = film(tmp_path / "cut.mp4")
    cut.write_bytes(cut.read_bytes()[:-600])  # an MP4 has its table of contents at its end
    for name, what in (
        *(("text.mp4", ": empty, or text"), ("empty.avi", ": empty, or text")),
        ("cut.mp4", ", or it ends early"),
    ):
        with refuses(f"{name}: not a video{what}"):
            Video(tmp_path / name)
    film(tmp_path / "none.mp4", count=0)
    with refuses(r"none\.mp4: not a video, or it ends early"):
        Video(tmp_path / "none.mp4")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile other.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.mp4\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_list_of_films_opens_no_other_file(tmp_path, name, text):
    # FFmpeg would, whatever the name.
    film(tmp_path / "other.mp4")
    (tmp_path / name).write_text(text)
    with refuses(f"{name}: not a video: empty, or text"):
        Video(tmp_path / name)


def patched(path, box, *numbers, skip=4):
    """An MP4 with other numbers, of four bytes each, so many bytes behind the name of a box."""
    data = bytearray(path.read_bytes())
    place = data.index(box) + 4 + skip
    data[place : place + 4 * len(numbers)] = struct.pack(f">{len(numbers)}I", *numbers)
    path.write_bytes(data)
    return path


def test_a_film_that_claims_millions_of_frames(tmp_path):
    # FFmpeg would reserve memory for each of them, gigabytes for a file of a thousand bytes.
    path = patched(film(tmp_path / "claims.mp4"), b"stsz", 1, 60_000_000)
    patched(path, b"stsc", 1, 60_000_000, skip=8)
    fuzzing.forget_peak()
    before = fuzzing.peak()
    with refuses(r"claims\.mp4: not a video: claims 60,000,000 samples in 1,\d\d\d bytes"):
        Video(path)
    assert fuzzing.peak() - before < 50


def test_a_film_in_which_opencv_raises_ends_there(tmp_path, monkeypatch):
    with Video(film(tmp_path / "raises.mp4")) as video:
        frames, damage = iter(video), cv2.error("Assertion failed")
        assert next(frames).number == 0
        monkeypatch.setattr(media.Video, "count", 40)
        monkeypatch.setattr(video, "_capture", Raising(damage))
        with refuses(r"raises\.mp4: ends early: 1 of 40 frames could be read"):
            next(frames)


class Raising:
    """What stands for OpenCV's reader of a damaged AVI."""

    def __init__(self, error):
        self.error = error

    def read(self):
        raise self.error

    def get(self, _):
        return 0

    def release(self):
        pass


@pytest.mark.parametrize("number", [0, 1, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize(
    ("box", "skip"), [(b"stts", 8), (b"stts", 12), (b"mdhd", 12), (b"mdhd", 16), (b"mp4v", 24)]
)
def test_a_film_whose_counts_rates_and_sizes_are_absurd(tmp_path, box, skip, number):
    path = patched(film(tmp_path / "odd.mp4"), box, number, skip=skip)
    seen, said = [], ""
    with Video(path) as video:
        assert video.fps is None or 0 < video.fps <= 1000
        try:
            seen += video
        except ValueError as error:
            said = str(error)
    assert re.match(rf"({path}: (ends early: .*|no frame .*))?$", said)
    assert len(seen) in (0, 1, 12)
    assert all(frame.image.shape == (48, 64, 3) for frame in seen)


def test_frames_that_would_fill_the_memory(tmp_path, monkeypatch):
    path = film(tmp_path / "some.mp4")
    monkeypatch.setattr(media, "MOST_FRAME_PIXELS", 64 * 48)
    Video(path)
    monkeypatch.setattr(media, "MOST_FRAME_PIXELS", 64 * 48 - 1)
    with refuses(r"some\.mp4: too large: 64 × 48, more than 3,071 pixels"):
        Video(path)


def cut_avi(path):
    film(path, count=60, fourcc="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def test_a_film_that_ends_early(tmp_path):
    path = cut_avi(tmp_path / "cut.avi")
    with refuses(r"cut\.avi: ends early: \d+ of 60 frames could be read"), Video(path) as video:
        list(video)
    with Video(path, on_bad="skip") as video:
        count = len(list(video))
        (problem,) = video.problems
    assert 10 < count < 50
    assert str(problem) == f"{path}: ends early: {count} of 60 frames could be read"
    with Video(path) as video:
        assert len(list(islice(video, 5))) == 5  # no more were asked for


def test_a_film_without_a_frame(tmp_path, monkeypatch):
    class Empty:
        isOpened = release = lambda _: True  # noqa: N815
        read = lambda _: (False, None)  # noqa: E731
        get = lambda *_: 0.0  # noqa: E731

    monkeypatch.setattr(cv2, "VideoCapture", lambda _: Empty())
    path = film(tmp_path / "some.mp4")
    with Video(path, on_bad="skip") as video:
        assert video.fps is None
        assert video.count is None
        with refuses(r"some\.mp4: no frame"):
            list(video)


class Camera:
    """What OpenCV's camera does, for as many frames as there are."""

    def __init__(self, source, frames=3):
        self.source, self.left, self.open = source, frames, source == 0

    def isOpened(self):  # noqa: N802
        return self.open

    def read(self):
        self.left -= 1
        return self.left >= 0, noise()[..., ::-1].copy()

    def get(self, _):
        return -1.0

    def release(self):
        self.open = False


def test_a_camera(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with Video(0) as video:
        assert (video.name, video.is_camera, video.count, video.fps) == (
            "camera 0",
            True,
            None,
            None,
        )
        frames = list(islice(video, 2))
        assert np.array_equal(frames[1].image, noise())
        assert 0 <= frames[0].seconds <= frames[1].seconds < 5
        with refuses("camera 0: no more frames after 1", OSError):
            list(video)
    with refuses("camera 7: cannot be opened", OSError):
        Video(7)


def test_what_is_a_video():
    assert is_video("holiday.MP4")
    assert is_video("a.b.avi")
    assert not is_video("photo.jpg")
    assert not is_video("mp4")


# --- Writing


def test_inputs_are_never_overwritten(tmp_path):
    photo = save(noise(), tmp_path / "photo.png")
    (tmp_path / "link.png").symlink_to(photo)
    for name in ("photo.png", "link.png", "../" + tmp_path.name + "/photo.png"):
        with refuses("would overwrite an input"):
            check_target(tmp_path / name, ".png", identities([photo]))
    assert check_target(tmp_path / "other.PNG", ".png", identities([photo])).name == "other.PNG"
    with refuses(r"found\.txt: expected a name that ends in \.json"):
        check_target(tmp_path / "found.txt", ".json", set())


def test_one_document_for_a_folder(tmp_path):
    path = tmp_path / "found.json"
    photographs = [Photograph(tmp_path / name, noise()) for name in ("ä.png", "b.png", "c.png")]
    boxes = some((0.1, 0.2, 0.5, 0.9), (-1, 0, 0.33333, float("inf")))
    with json_document(path, {"architecture": "tiny_ssd"}, NAMES) as add:
        for photograph, found in zip(photographs, (boxes, some(), some((0, 0, 1, 1)))):
            add(photograph, found)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["model"] == {"architecture": "tiny_ssd"}
    assert content["images"] == [
        {
            "file": "ä.png",
            "width": 40,
            "height": 30,
            "detections": [
                {"label": 1, "name": "dog", "score": 0.9, "box_px": [4.0, 6.0, 20.0, 27.0]},
                {"label": 2, "name": "Катя", "score": 0.6, "box_px": [0.0, 0.0, 13.33, 30.0]},
            ],
        },
        {"file": "b.png", "width": 40, "height": 30, "detections": []},
        {
            "file": "c.png",
            "width": 40,
            "height": 30,
            "detections": [{"label": 1, "name": "dog", "score": 0.9, "box_px": [0, 0, 40, 30]}],
        },
    ]


def test_a_document_of_nothing_is_one_too(tmp_path):
    with json_document(tmp_path / "a.json", {}, NAMES):
        pass
    assert json.loads((tmp_path / "a.json").read_text()) == {"model": {}, "images": []}


def test_a_document_is_written_as_it_comes(tmp_path):
    path = tmp_path / "a.json"
    photograph, found = Photograph(tmp_path / "a.png", noise()), some(*[(0, 0, 1, 1)] * 50)
    with json_document(path, {}, NAMES) as add:
        add(photograph, found)
        tracemalloc.start()
        for _ in range(200):
            add(photograph, found)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert path.stat().st_size > 500_000
    assert held < 50_000


def test_a_line_for_each_frame(tmp_path):
    path = tmp_path / "found.jsonl"
    with json_lines(path, NAMES) as add:
        add(Frame(0, 0.0, noise()), some((0, 0, 0.5, 0.5)))
        add(Frame(1, 0.04, noise()), some())
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    box = {"label": 1, "name": "dog", "score": 0.9, "box_px": [0.0, 0.0, 20.0, 15.0]}
    shape = {"width": 40, "height": 30}
    assert first == {"frame": 0, "seconds": 0.0, **shape, "detections": [box]}
    assert second == {"frame": 1, "seconds": 0.04, **shape, "detections": []}


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".bmp", ".tif", ".webp"])
def test_images_out_are_images_in(tmp_path, suffix):
    image = np.full((30, 40, 3), (200, 100, 20), dtype=np.uint8)
    write_image(image, tmp_path / "new" / f"ü{suffix}")
    assert np.abs(read_image(tmp_path / "new" / f"ü{suffix}").astype(int) - image).max() < 8


def test_images_that_no_format_holds(tmp_path):
    with refuses(r"a\.xyz: OpenCV cannot write this format"):
        write_image(noise(), tmp_path / "a.xyz")
    with refuses(r"a\.webp: OpenCV cannot write"):
        write_image(np.zeros((1, 20_000, 3), dtype=np.uint8), tmp_path / "a.webp")
    assert list(tmp_path.iterdir()) == []


def test_annotated_images_keep_their_names(tmp_path):
    with annotated_images(tmp_path / "drawn", NAMES) as add:
        add(Photograph(tmp_path / "a.png", noise()), some((0, 0, 1, 1)))
    image = read_image(tmp_path / "drawn" / "a.png")
    assert image.shape == noise().shape
    assert (image != noise()).any()


@pytest.mark.parametrize("size", [(64, 48), (33, 21), (1, 1)])
def test_a_film_out_is_a_film_in(tmp_path, size):
    film(tmp_path / "codec.mp4", count=1)
    path = tmp_path / "drawn.mp4"
    with annotated_video(path, 12.5, NAMES) as add:
        for number in range(5):
            image = np.full((size[1], size[0], 3), (30 * number, 100, 0), dtype=np.uint8)
            add(Frame(number, number / 12.5, image), some())
        assert not path.exists()
    with Video(path) as video:
        assert video.fps == 12.5
        frames = list(video)
    assert len(frames) == 5
    for number, _, image in frames:
        # Odd sides get one more row or column of the same.
        assert image.shape[:2] == (size[1] + size[1] % 2, size[0] + size[0] % 2)
        assert np.abs(image.mean(axis=(0, 1)) - (30 * number, 100, 0)).max() < 12


def test_a_film_of_two_sizes_is_refused(tmp_path):
    film(tmp_path / "codec.mp4", count=1)
    with (
        refuses(r"a frame of shape \(48, 64, 3\) after \(30, 40, 3\)"),
        annotated_video(tmp_path / "drawn.mp4", None, NAMES) as add,
    ):
        add(Frame(0, 0.0, noise()), some())
        add(Frame(1, 0.1, noise(64, 48)), some())
    assert [file.name for file in tmp_path.iterdir()] == ["codec.mp4"]


def test_a_film_too_large_for_the_codec_is_refused(tmp_path, capfd):
    with (
        refuses("OpenCV cannot write a video of 20000 × 2 pixels", OSError),
        annotated_video(tmp_path / "drawn.mp4", None, NAMES) as add,
    ):
        add(Frame(0, 0.0, noise(20_000, 2)), some())
    capfd.readouterr()
    assert list(tmp_path.iterdir()) == []


def test_the_file_suffixes_of_photographs_are_those_of_data_sets():
    assert not set(media.VIDEO_SUFFIXES) & set(media.SUFFIXES)
