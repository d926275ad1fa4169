"""The ONNX around a network: preparation is `prepare`, the search for detections `postprocess`."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from refusals import unchecked

from ssd_annotated.app.around import (
    FLOAT,
    INT64,
    UINT8,
    Nodes,
    add_preparation,
    add_search,
    most_detections,
)
from ssd_annotated.app.export import export_onnx
from ssd_annotated.checkpoint import pretrained
from ssd_annotated.data.graffiti import GraffitiDigits
from ssd_annotated.data.spray import photographs
from ssd_annotated.detection import detect
from ssd_annotated.model import Recipe
from ssd_annotated.nms import postprocess
from ssd_annotated.transforms import prepare

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
NAMES = ("background", "a", "b", "c")


def session(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def runner(nodes, inputs, outputs):
    """A function that runs these nodes alone; `inputs` and `outputs` are (name, type, shape)."""
    values = [[onnx.helper.make_tensor_value_info(*v) for v in part] for part in (inputs, outputs)]
    graph = onnx.helper.make_graph(nodes.nodes, "part", *values, initializer=nodes.constants)
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    ran = session(model.SerializeToString())
    return lambda *arrays: ran.run(None, {v[0]: a for v, a in zip(inputs, arrays, strict=True)})


# ---------------------------------------------------------------- preparation


def preparation(recipe):
    nodes, side = Nodes("prepare"), recipe.image_size
    name = add_preparation(nodes, "images", recipe)
    images = ("images", UINT8, ["batch", "height", "width", 3])
    return runner(nodes, [images], [(name, FLOAT, ["batch", 3, side, side])])


@pytest.fixture(scope="module")
def pictures():
    """Photographs, and noise that is larger, smaller, much smaller, of the side's own size."""
    rng = np.random.default_rng(0)
    sizes = ((64, 64), (128, 128), (100, 333), (50, 40), (1, 1), (1, 200), (640, 480))
    noise = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    return noise + list(photographs("test").values())


@pytest.mark.parametrize(
    ("resize", "levels", "share"),
    # Torch resizes in floating point, as ONNX does; a position of 640 px is rounded by 4e-5 px,
    # which is a hundredth of a level where black meets white. OpenCV and Pillow compute with
    # integers, so that a value near a half is rounded to the other side: of one pixel in five or
    # fewer by OpenCV (whose factors have 11 bits), of one in sixty by Pillow (22 bits).
    [("torch", 1e-2, 0.0), ("opencv", 1.001, 0.2), ("pillow", 1.001, 1 / 60)],
)
def test_images_of_any_size_are_prepared(pictures, resize, levels, share):
    recipe = Recipe(64, NAMES, std=(0.2, 0.3, 0.4), resize=resize)
    ran = preparation(recipe)
    for image in pictures:
        (found,) = ran(np.stack([image, image[::-1]]))
        for one, picture in zip(found, (image, image[::-1]), strict=True):
            difference = (torch.from_numpy(one) - prepare(picture, recipe)).abs()
            difference *= 255 * torch.tensor(recipe.std)[:, None, None]
            assert difference.max() <= levels
            assert (difference > 1e-2).float().mean() <= share


# ---------------------------------------------------------------- the search


def search(recipe, num_priors):
    nodes, most = Nodes("find"), most_detections(recipe, num_priors)
    names = add_search(nodes, "boxes", "scores", recipe, num_priors)
    inputs = [
        ("boxes", FLOAT, ["batch", num_priors, 4]),
        ("scores", FLOAT, ["batch", num_priors, len(recipe.class_names)]),
    ]
    shapes = (["batch", most, 4], ["batch", most], ["batch", most])
    return runner(nodes, inputs, list(zip(names, (FLOAT, FLOAT, INT64), shapes)))


def random_predictions(seed, num_priors=60, batch=3):
    """Crowded boxes, some beside the image, some far beyond it; some of the scores are equal."""
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, num_priors, 2, generator=rng) * 1.6 - 0.5
    size = torch.rand(batch, num_priors, 2, generator=rng) * 0.5 + 0.05
    boxes = torch.cat([corner, corner + size], dim=2)
    boxes[:, ::17, 2:] += 40
    logits = torch.randn(batch, num_priors, len(NAMES), generator=rng) * 2
    logits[:, 5:20] = logits[:, 25:40]
    logits[-1] = torch.tensor([9.0, 0, 0, 0])  # nothing in the last image
    return boxes, logits


RECIPES = {
    "as the paper": {},
    "few of a class": {"top_k": 4},
    "few of an image": {"max_detections": 6, "score_threshold": 0.3},
    "no limits": {"top_k": None, "max_detections": None, "nms_threshold": 0.9},
    "classes together": {"class_agnostic": True},
    "classes together, few": {"class_agnostic": True, "top_k": 4, "max_detections": None},
    "every score": {"score_threshold": 0.0, "nms_threshold": 1.0},
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_the_search_finds_what_postprocess_finds(changes):
    recipe = Recipe(64, NAMES, **changes)
    ran, total = search(recipe, 60), 0
    priors = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).repeat(60, 1)
    for seed in range(40):
        boxes, logits = random_predictions(seed)
        # Offsets from a prior that is the image itself, with variances 1: the boxes themselves.
        low, high = boxes[..., :2], boxes[..., 2:]
        offsets = torch.cat([(low + high) / 2 - 0.5, (high - low).log()], dim=2)
        settings = {name: getattr(recipe, name) for name in ("class_agnostic", *SETTINGS)}
        expected = postprocess((offsets, logits), priors, variances=(1.0, 1.0), **settings)
        found = ran(boxes.numpy(), logits.softmax(dim=2).numpy())
        for image, wanted in zip(zip(*found), expected, strict=True):
            there = image[2] > 0
            total += there.sum()
            assert there.sum() == len(wanted.scores)
            assert not there[there.sum() :].any()
            assert not np.any([part[~there].any() for part in image])
            np.testing.assert_allclose(image[0][there], wanted.boxes, atol=1e-4)
            np.testing.assert_allclose(image[1][there], wanted.scores, atol=1e-6)
            assert image[2][there].tolist() == wanted.labels.tolist()
    assert total > 400


SETTINGS = ("score_threshold", "top_k", "nms_threshold", "max_detections")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_detections": 200}, 180),
        ({"max_detections": 7}, 7),
        ({"max_detections": None, "top_k": 10}, 30),
        ({"max_detections": None, "top_k": None}, 180),
        ({"max_detections": None, "top_k": None, "class_agnostic": True}, 60),
    ],
)
def test_the_most_that_an_image_can_have(changes, expected):
    assert most_detections(Recipe(64, NAMES, **changes), 60) == expected


# ---------------------------------------------------------------- the whole file


def twenty():
    """Scenes of graffiti and photographs: eight of the network's own size, twelve of others."""
    scenes = [GraffitiDigits("test", length=8, seed=7)[k][0] for k in range(8)]
    for k, side in enumerate((97, 192, 300, 500, 150, 200)):
        scenes.append(
            GraffitiDigits("test", length=9, seed=7, image_size=side)[k][0][: side - 9 * k]
        )
    pictures = list(photographs("test").values()) + list(photographs("train").values())
    return scenes + pictures[:6]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = pretrained()
    path = tmp_path_factory.mktemp("onnx") / "digits.onnx"
    with unchecked():
        export_onnx(model, path, nms=True)
    return model, path


def test_the_file_finds_what_detect_finds_in_twenty_pictures(exported):
    # OpenCV's whole numbers differ from ONNX's by a level here and there (see above), which moves
    # a score by up to 0.036. Pictures that need no resizing give the same numbers.
    model, path = exported
    ran, seen = session(path), 0
    for image in twenty():
        (wanted,) = detect(model, [image], score_threshold=0.3)
        boxes, scores, labels = (part[0] for part in ran.run(None, {"images": image[None]}))
        equal = image.shape[:2] == (128, 128)
        limits = {"atol": 1e-4} if equal else {"atol": 0.05}
        clear = scores > (0.3 if equal else 0.25)
        # A score at the threshold may lie on its other side.
        least = clear.sum() if equal else (scores > 0.35).sum()
        assert least <= len(wanted.scores) <= clear.sum()
        for box, score, label in zip(*(part.tolist() for part in wanted)):
            same = clear & (labels == label)
            place = np.abs(boxes[same] - box).max(axis=1).argmin()
            np.testing.assert_allclose(boxes[same][place], box, **limits)
            np.testing.assert_allclose(scores[same][place], score, **limits)
            seen += 1
    assert seen > 25


def test_a_batch_is_its_images(exported):
    _, path = exported
    ran, images = session(path), np.stack([twenty()[k] for k in range(3)])
    together = ran.run(None, {"images": images})
    for k in range(3):
        alone = ran.run(None, {"images": images[k : k + 1]})
        for whole, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[k], one[0], atol=1e-5)


def test_the_file_is_valid_and_says_its_operators_version(exported):
    file = onnx.load(exported[1])
    onnx.checker.check_model(file, full_check=True)
    assert [(one.domain, one.version) for one in file.opset_import] == [("", 18)]
    kinds = {node.op_type for node in file.graph.node}
    assert {"Resize", "NonMaxSuppression"} <= kinds
    assert {node.domain for node in file.graph.node} == {""}


@pytest.mark.skipif(int(cv2.__version__[0]) < 5, reason="OpenCV 4's DNN lacks operators")
def test_opencv_runs_the_whole_file(exported):
    net, ran = cv2.dnn.readNetFromONNX(str(exported[1])), session(exported[1])
    for image in twenty()[8:11]:
        images = np.stack([image, image[::-1]])
        net.setInput(images, "images")
        found = net.forward(["boxes", "scores", "labels"])
        for one, other in zip(found, ran.run(None, {"images": images}), strict=True):
            # A resized level that lies at a half may be rounded to the other side.
            np.testing.assert_allclose(one, other, atol=1e-3)


# ---------------------------------------------------------------- the programs in examples/

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
#: Runs a program where torch and this package cannot be imported, and no window can be opened.
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("torch", "ssd_annotated")))
import cv2
shown = []
cv2.imshow = lambda title, frame: shown.append(frame.copy())
cv2.waitKey = lambda _: ord("q") if len(shown) == 3 else -1
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
for number, frame in enumerate(shown):
    cv2.imwrite(f"shown{number}.png", frame)
"""


def program(folder, *arguments):
    command = [sys.executable, "-c", ALONE, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scene():
    """A scene with several digits that are clearly seen."""
    return GraffitiDigits("test", length=1, seed=7, image_size=200)[0][0]


def test_the_program_for_a_picture(exported, scene, tmp_path):
    model, path = exported
    cv2.imwrite(str(tmp_path / "photo.png"), scene[..., ::-1])
    printed = program(tmp_path, EXAMPLES / "picture.py", path, "photo.png").splitlines()
    (found,) = detect(model, [scene], score_threshold=0.5)
    assert len(printed) == len(found.labels) > 1
    for line, box, label in zip(printed, found.boxes, found.labels.tolist()):
        name, _, *corners = line.split()
        assert name == model.recipe.class_names[label]
        np.testing.assert_allclose(list(map(int, corners)), 200 * box, atol=2)


def test_the_program_for_a_camera(exported, scene, tmp_path):
    film = cv2.VideoWriter(
        str(tmp_path / "camera.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (200, 200)
    )
    for _ in range(5):
        film.write(np.ascontiguousarray(scene[..., ::-1]))
    film.release()
    program(tmp_path, EXAMPLES / "camera.py", exported[1], "camera.avi")
    assert len(list(tmp_path.glob("shown*.png"))) == 3, "until q is pressed"
    frame = cv2.imread(str(tmp_path / "shown2.png")).astype(int)
    drawn = (np.abs(frame - (0, 200, 255)).sum(axis=2) == 0).sum()
    assert drawn > 100
    assert np.median(np.abs(frame - scene[..., ::-1])) < 5, "and the picture is still there"
