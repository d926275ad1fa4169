"""Detection from images: equal to its steps by hand, in batches of any size; files in and out."""

import copy
import inspect
import json
import os
import signal
import weakref
from dataclasses import asdict, fields, replace

import cv2
import numpy as np
import pytest
import torch
from children import Child
from refusals import refuses
from turning import turned

from ssd_annotated.app import media
from ssd_annotated.app import writers as app_writers
from ssd_annotated.app.detect import detect_images, detect_video
from ssd_annotated.app.draw import draw_detections
from ssd_annotated.app.media import Video, read_image
from ssd_annotated.app.writers import write_image
from ssd_annotated.checkpoint import pretrained
from ssd_annotated.detection import detect, detect_stream
from ssd_annotated.model import tiny_ssd
from ssd_annotated.nms import postprocess
from ssd_annotated.transforms import prepare

# Layers this small are enough work for one thread; more threads only wait for each other.
torch.set_num_threads(1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = tiny_ssd(num_classes=4, image_size=64, widths=(4, 4, 8, 8, 8, 8))
    # Untrained, it scores every class alike; louder heads make it choose.
    with torch.no_grad():
        for head in model.confidence_heads:
            head.weight *= 10
    return model.eval()


def photographs(count, seed=0):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(20, 120, (count, 2))
    return [generator.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_detect_is_prepare_predict_postprocess(model):
    images = photographs(3)
    expected = []
    with torch.no_grad():
        for image in images:
            predictions = model(prepare(image, model.recipe)[None])
            expected += postprocess(predictions, model.priors)
    found = detect(model, images)
    assert all(len(one.boxes) for one in found)
    assert_same(found, expected)


@pytest.mark.parametrize(
    "change",
    [
        {"score_threshold": 0.4},
        {"top_k": 2},
        {"nms_threshold": 0.1},
        {"max_detections": 3},
        {"variances": (0.3, 0.5)},
        {"max_log_size": 0.01},
        {"clip": True},
        {"class_agnostic": True},
        {"mean": (0.1, 0.9, 0.5), "std": (0.5, 0.4, 0.3)},
    ],
)
def test_every_part_of_the_recipe_counts(model, change):
    images = photographs(1)
    usual = detect(model, images)[0]
    model.recipe = replace(model.recipe, **change)
    (found,) = detect(model, images)
    settings = {
        field.name: getattr(model.recipe, field.name)
        for field in fields(model.recipe)
        if field.name in inspect.signature(postprocess).parameters
    }
    with torch.no_grad():
        predictions = model(prepare(images[0], model.recipe)[None])
    assert_same([found], postprocess(predictions, model.priors, **settings))
    assert len(found.scores) != len(usual.scores) or not torch.equal(found.boxes, usual.boxes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_after_a_network_of_half_precision_all_is_single(model, dtype):
    # Scores of eight bits tie, and the first of them would suppress the best.
    images = photographs(2)
    half = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        batch = torch.stack([prepare(image, model.recipe) for image in images])
        offsets, logits = half(batch.to(dtype))
    expected = postprocess((offsets.float(), logits.float()), half.priors.float())
    found = detect(half, images)
    assert {values.dtype for one in found for values in one} == {torch.float32, torch.int64}
    assert_same(found, expected)


def test_double_precision_stays(model):
    (found,) = detect(model.double(), photographs(1))
    assert found.boxes.dtype == found.scores.dtype == torch.float64


@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
def test_the_batch_size_changes_nothing(model, batch_size):
    images = photographs(5)
    model = model.double()  # in single precision two scores can tie in one batch and not in another
    assert_same(detect(model, images, batch_size), [detect(model, [one])[0] for one in images])


def test_best_first(model):
    (found,) = detect(model, photographs(1))
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    assert found.labels.min() >= 1


def test_no_images_no_detections(model):
    assert detect(model, []) == []


def test_a_model_in_training_is_used_in_eval_mode_and_given_back(model):
    images = photographs(3)
    expected = detect(model, images)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = detect(model.train(), images)
    assert model.training
    assert_same(found, expected)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not found[0].scores.requires_grad


def test_a_model_in_training_is_given_back_after_an_error_too(model):
    model.train()
    with refuses("must be uint8 RGB, not float32"):
        detect(model, [*photographs(1), np.zeros((8, 8, 3), dtype=np.float32)])
    assert model.training


def test_a_part_that_was_frozen_stays_frozen(model):
    model.train()
    model.trunk.eval()
    detect(model, photographs(1))
    assert model.training
    assert not model.trunk.training


def test_a_file_that_could_not_be_read_is_no_image(model):
    with refuses("an image must be a NumPy array, not NoneType", TypeError):
        detect(model, [None])


def test_one_array_is_no_list_of_images(model):
    with refuses(r"images must be a list of arrays, not one array of shape \(8, 8, 3\)"):
        detect(model, np.zeros((8, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(model, batch_size):
    with refuses(f"batch_size must be at least 1, not {batch_size}"):
        detect(model, photographs(1), batch_size)


# --- Changes for one call, and streams


def test_a_recipe_can_be_changed_for_one_call(model):
    images = photographs(2)
    recipe = model.recipe
    found = detect(model, images, score_threshold=0.4, nms_threshold=0.2)
    assert model.recipe is recipe
    model.recipe = replace(recipe, score_threshold=0.4, nms_threshold=0.2)
    assert_same(found, detect(model, images))


def test_a_higher_threshold_finds_the_same_but_less(model):
    model.recipe = replace(model.recipe, top_k=None, max_detections=None)
    for all_, some in zip(
        detect(model, photographs(3)), detect(model, photographs(3), score_threshold=0.3)
    ):
        sure = all_.scores > 0.3
        assert 0 < sure.sum() < len(sure)
        assert all(torch.equal(a[sure], b) for a, b in zip(all_, some, strict=True))


def test_a_change_of_what_no_recipe_has_is_named(model):
    with refuses("a recipe has no score, threshold; it has image_size, .*score_threshold"):
        detect(model, [], score=0.5, threshold=0.1)


def test_a_stream_takes_a_batch_at_a_time(model):
    taken = []

    def endless():
        for image in photographs(5) * 1000:
            taken.append(image)
            yield image

    stream = detect_stream(model, endless(), batch_size=3)
    assert taken == []
    found = [next(stream) for _ in range(4)]
    assert len(taken) == 6
    assert_same(found, detect(model, photographs(5)[:4]))


def test_between_two_images_of_a_stream_the_model_is_its_owners(model):
    stream = detect_stream(model.train(), photographs(2), batch_size=1)
    next(stream)
    assert model.training
    assert torch.is_grad_enabled()


def test_a_stream_refuses_before_it_starts(model):
    with refuses("batch_size must be at least 1, not 0"):
        detect_stream(model, [], 0)


# --- Folders


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    for image, name in zip(photographs(5), ["a.png", "b.bmp", "ç.png", "d.png", "e.tif"]):
        write_image(image, path / name)
    return path


def test_a_folder_is_drawn_and_written_down(model, folder, tmp_path, capfd):
    drawings, document = tmp_path / "out" / "drawn", tmp_path / "out" / "found.json"
    tally = detect_images(
        model, folder, drawings=drawings, document=document, batch_size=2, score_threshold=0.4
    )
    found = detect(model, photographs(5), score_threshold=0.4)
    assert tally == (5, sum(len(one.scores) for one in found), [], 0)
    content = json.loads(document.read_text())
    recipe = replace(model.recipe, score_threshold=0.4)
    assert content["model"]["architecture"] == "tiny_ssd"
    assert content["model"]["recipe"] == json.loads(json.dumps(asdict(recipe)))
    for name, entry, one, image in zip(
        ["a.png", "b.bmp", "d.png", "e.tif", "ç.png"],
        content["images"],
        *zip(*[(found[i], photographs(5)[i]) for i in (0, 1, 3, 4, 2)]),
        strict=True,
    ):
        assert entry["file"] == name
        assert (entry["height"], entry["width"]) == image.shape[:2]
        assert [thing["label"] for thing in entry["detections"]] == one.labels.tolist()
        drawn = draw_detections(image, one, model.recipe.class_names)
        assert np.array_equal(read_image(drawings / name), drawn)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "5/5" in captured.err


def test_one_photograph_only(model, folder, tmp_path, capfd):
    document = tmp_path / "found.json"
    options = {"score_threshold": 0.9999, "progress": False}
    tally = detect_images(model, str(folder / "b.bmp"), document=str(document), **options)
    assert tally == (1, 0, [], 0)
    assert capfd.readouterr().err == ""
    assert [image["file"] for image in json.loads(document.read_text())["images"]] == ["b.bmp"]


def test_drawings_want_to_be_sure(model, folder, tmp_path):
    detect_images(model, folder, document=tmp_path / "found.json")
    about = json.loads((tmp_path / "found.json").read_text())["model"]
    assert about["recipe"]["score_threshold"] == 0.5


def test_no_more_than_a_batch_is_held(model, tmp_path, monkeypatch):
    for number in range(20):
        write_image(photographs(1)[0], tmp_path / "photos" / f"{number}.png")
    read, seen, alive = media.read_image, [], []

    def remember(file):
        alive.append(sum(image() is not None for image in seen))
        image = read(file)
        seen.append(weakref.ref(image))
        return image

    monkeypatch.setattr(media, "read_image", remember)
    detect_images(model, tmp_path / "photos", drawings=tmp_path / "drawn", batch_size=4)
    assert len(alive) == 20
    assert 3 <= max(alive) <= 5  # a batch, and the one that was just written


def test_bad_photographs_are_left_out_or_stop_the_run(model, folder, tmp_path):
    (folder / "b.bmp").write_text("no image")
    targets = {"drawings": tmp_path / "drawn", "document": tmp_path / "found.json"}
    with refuses(r"b\.bmp: corrupt image"):
        detect_images(model, folder, **targets)
    assert not targets["document"].exists()
    tally = detect_images(model, folder, on_bad="skip", **targets)
    assert (tally.images, [problem.file.name for problem in tally.problems]) == (4, ["b.bmp"])
    assert len(json.loads(targets["document"].read_text())["images"]) == 4


def test_nothing_is_left(model, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with refuses(r"read 0 of 1 images: .*a\.png: corrupt image"):
        detect_images(model, tmp_path, document=tmp_path / "found.json", on_bad="skip")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_photographs_are_never_overwritten(model, folder, tmp_path):
    with refuses(r"a\.png: would overwrite an input"):
        detect_images(model, folder, drawings=folder)
    with refuses(r"b\.bmp: would overwrite an input"):
        detect_images(model, folder / "b.bmp", drawings=folder)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "e.tif").symlink_to(folder / "e.tif")
    with refuses(r"e\.tif: would overwrite an input"):
        detect_images(model, folder, drawings=tmp_path / "elsewhere")
    assert np.array_equal(read_image(folder / "e.tif"), photographs(5)[4])


def test_a_folder_and_nothing_to_write(model, folder, tmp_path):
    with refuses("nothing to write: give drawings, a document, or both"):
        detect_images(model, folder)
    with refuses(r"found\.txt: expected a name that ends in \.json"):
        detect_images(model, folder, document=tmp_path / "found.txt")
    with refuses("a recipe has no colour"):
        detect_images(model, folder, document=tmp_path / "found.json", recipe={"colour": "red"})


# --- Folders that are resumed


def lines(document):
    return [json.loads(line) for line in document.read_text().splitlines()]


def killed_in_a_folder(folder, drawings, document, number):
    """Detect, one photograph at a time, and be killed while photograph `number` is drawn."""
    draw, calls = app_writers.draw_detections, []

    def draw_or_die(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(*arguments)

    app_writers.draw_detections = draw_or_die
    options = {"drawings": drawings, "document": document, "batch_size": 1, "progress": False}
    detect_images(pretrained(), folder, **options)


def test_a_killed_folder_is_resumed(folder, tmp_path):
    model = pretrained()
    whole = {"drawings": tmp_path / "whole", "document": tmp_path / "whole.jsonl"}
    detect_images(model, folder, progress=False, **whole)
    again = {"drawings": tmp_path / "again", "document": tmp_path / "again.jsonl"}
    end = Child(killed_in_a_folder, folder, *again.values(), 4).end()
    assert end.status == -signal.SIGKILL
    assert [line["file"] for line in lines(again["document"])] == ["a.png", "b.bmp", "d.png"]
    with again["document"].open("a") as file:
        file.write('{"file": "e.tif", "wid')  # what a power cut leaves
    (again["drawings"] / "b.bmp").unlink()  # is drawn again, and listed once
    (folder / "d.png").write_text("no image")  # is done, so that nobody reads it
    tally = detect_images(model, folder, progress=False, skip_existing=True, **again)
    assert (tally.images, tally.skipped) == (3, 2)
    assert lines(again["document"]) == lines(whole["document"])
    for file in folder.iterdir():
        one, other = (targets["drawings"] / file.name for targets in (whole, again))
        assert one.read_bytes() == other.read_bytes()
    tally = detect_images(model, folder, progress=False, skip_existing=True, **again)
    assert tally == (0, 0, [], 5)
    # Without the option all begins anew, and d.png is missed.
    with refuses(r"d\.png: corrupt image"):
        detect_images(model, folder, progress=False, **again)
    assert len(lines(again["document"])) < 5


@pytest.mark.parametrize("keep", ["drawings", "document"])
def test_one_output_is_enough_to_resume_from(model, folder, tmp_path, keep):
    targets = {"drawings": tmp_path / "drawn", "document": tmp_path / "found.jsonl"}
    options = {keep: targets[keep], "progress": False}
    detect_images(model, folder / "b.bmp", **options)
    assert detect_images(model, folder, skip_existing=True, **options)[::3] == (4, 1)


def test_what_cannot_be_continued(model, folder, tmp_path):
    with refuses(r"found\.json: only a \.jsonl file can be continued"):
        detect_images(model, folder, document=tmp_path / "found.json", skip_existing=True)
    for text in ("no json\n", "[1]\n", '{"frame": 0}\n', "[" * 10**5 + "\n"):
        (tmp_path / "found.jsonl").write_text(text)
        with refuses(r"found\.jsonl: holds something other than detections in images"):
            detect_images(model, folder, document=tmp_path / "found.jsonl", skip_existing=True)
        assert (tmp_path / "found.jsonl").read_text() == text


def test_damage_in_many_files_never_stops_the_rest(model, folder, tmp_path):
    for number in range(30):
        (folder / f"{number}.jpg").write_bytes(bytes(number))
    targets = {"drawings": tmp_path / "drawn", "document": tmp_path / "found.jsonl"}
    for skipped in (0, 5):
        tally = detect_images(model, folder, on_bad="skip", skip_existing=True, **targets)
        assert (tally.images, len(tally.problems), tally.skipped) == (5 - skipped, 30, skipped)


# --- Videos


def save_film(path, count):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (80, 60))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG")
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        writer.write(cv2.GaussianBlur(image, (0, 0), 3))
    writer.release()
    return path


@pytest.fixture
def film(tmp_path):
    return save_film(tmp_path / "film.avi", 7)


def test_a_film_is_drawn_and_written_down(model, film, tmp_path, capfd):
    drawings, document = tmp_path / "out" / "drawn.mp4", tmp_path / "out" / "found.jsonl"
    seen = []
    tally = detect_video(
        model,
        film,
        drawings=drawings,
        document=document,
        on_frame=lambda frame, found: seen.append((frame, found)),
        batch_size=3,
        score_threshold=0.4,
    )
    with Video(film) as video:
        frames = [frame.image for frame in video]
    found = detect(model, frames, score_threshold=0.4)
    assert_same([one for _, one in seen], found)
    assert tally == (7, sum(len(one.scores) for one in found), [], 0)
    lines = [json.loads(line) for line in document.read_text().splitlines()]
    assert [(line["frame"], round(line["seconds"] * 5)) for line in lines] == [
        (number, number) for number in range(7)
    ]
    assert [len(line["detections"]) for line in lines] == [len(one.scores) for one in found]
    with Video(drawings) as video:
        assert video.fps == 5
        drawn = [frame.image for frame in video]
    for image, one, written in zip(frames, found, drawn, strict=True):
        expected = draw_detections(image, one, model.recipe.class_names)
        assert np.abs(expected.astype(int) - written).mean() < 15
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "7/7" in captured.err


def test_as_many_frames_as_wanted(model, film, tmp_path):
    document = tmp_path / "found.jsonl"
    tally = detect_video(model, film, document=document, frames=4, progress=False)
    assert tally.images == len(document.read_text().splitlines()) == 4
    with refuses("frames must be at least 1, not 0"):
        detect_video(model, film, document=document, frames=0)


def test_a_film_that_ends_early_leaves_nothing_or_what_there_is(model, tmp_path):
    film = save_film(tmp_path / "film.avi", 40)
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 2 // 3])
    targets = {"drawings": tmp_path / "drawn.mp4", "document": tmp_path / "found.jsonl"}
    with refuses(r"film\.avi: ends early: \d+ of 40 frames could be read"):
        detect_video(model, film, progress=False, **targets)
    assert [file.name for file in tmp_path.iterdir()] == ["film.avi"]
    tally = detect_video(model, film, on_bad="skip", progress=False, **targets)
    assert 10 < tally.images < 35
    assert f"{tally.images} of 40" in str(*tally.problems)
    with Video(targets["drawings"]) as video:
        assert len(list(video)) == tally.images
    assert len(targets["document"].read_text().splitlines()) == tally.images


def test_a_film_taken_on_its_side_is_drawn_upright_and_without_sound(model, tmp_path):
    film = save_film(tmp_path / "film.avi", 3)
    frames = [frame.image for frame in Video(film)]
    path = tmp_path / "phone.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5, (80, 60))
    for image in frames:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    path.write_bytes(turned(path.read_bytes()))
    targets = {"drawings": tmp_path / "drawn.mp4", "document": tmp_path / "found.jsonl"}
    detect_video(model, path, progress=False, score_threshold=0.99, **targets)
    assert [(line["width"], line["height"]) for line in lines(targets["document"])] == [
        (60, 80)
    ] * 3
    with Video(targets["drawings"]) as video:
        for frame, image in zip(video, frames, strict=True):
            # The matrix turns the stored pixels by a quarter, clockwise.
            assert np.abs(frame.image.astype(int) - np.rot90(image, -1)).mean() < 10
    assert b"vide" in targets["drawings"].read_bytes()
    assert b"soun" not in targets["drawings"].read_bytes()


def test_films_are_never_overwritten(model, film, tmp_path):
    with refuses(r"film\.avi: expected a name that ends in \.mp4"):
        detect_video(model, film, drawings=film)
    film = film.rename(film.with_suffix(".mp4"))
    with refuses(r"film\.mp4: would overwrite an input"):
        detect_video(model, film, drawings=film)
    with refuses(r"nothing to write: give drawings, a document, both, or on_frame"):
        detect_video(model, film)
    with refuses(r"found\.json: expected a name that ends in \.jsonl"):
        detect_video(model, film, document=tmp_path / "found.json")


@pytest.fixture
def camera(film, monkeypatch):
    """Camera 0 shows a film."""
    capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: capture(source or str(film)))


def interrupt_after(count):
    left = iter(range(count))

    def on_frame(*_):
        if next(left, None) is None:
            raise KeyboardInterrupt("Ctrl-C")

    return on_frame


@pytest.mark.usefixtures("camera")
def test_a_camera_until_ctrl_c(model, tmp_path):
    targets = {"drawings": tmp_path / "drawn.mp4", "document": tmp_path / "found.jsonl"}
    stop = interrupt_after(3)
    tally = detect_video(model, 0, on_frame=stop, batch_size=1, progress=False, **targets)
    assert tally.images == 4
    lines = targets["document"].read_text().splitlines()
    with Video(targets["drawings"]) as video:
        assert len(list(video)) == len(lines) == tally.images


def test_ctrl_c_stops_a_film_and_leaves_nothing(model, film, tmp_path):
    with refuses("Ctrl-C", KeyboardInterrupt):
        detect_video(model, film, document=tmp_path / "a.jsonl", on_frame=interrupt_after(3))
    assert [file.name for file in tmp_path.iterdir()] == ["film.avi"]


def test_ctrl_c_before_the_first_frame_of_a_camera(model, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt("Ctrl-C")

    class Camera:
        isOpened = release = lambda _: True  # noqa: N815
        get = lambda *_: 0.0  # noqa: E731
        read = interrupt

    monkeypatch.setattr(cv2, "VideoCapture", lambda _: Camera())
    with refuses("Ctrl-C", KeyboardInterrupt):
        detect_video(model, 0, document=tmp_path / "a.jsonl")
    assert list(tmp_path.iterdir()) == []
