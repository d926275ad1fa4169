"""ONNX files give the same numbers as torch, and are enough for detection."""

import contextlib
import doctest
import io
import json
import math
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import cv2
import pytest
import torch
from refusals import refuses, unchecked

from ssd_annotated.app import export
from ssd_annotated.app.export import export_onnx
from ssd_annotated.checkpoint import pretrained
from ssd_annotated.coding import decode
from ssd_annotated.data.graffiti import GraffitiDigits
from ssd_annotated.detection import detect
from ssd_annotated.model import ssd300_vgg16

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The shipped model and its file."""
    model, path = pretrained(), tmp_path_factory.mktemp("onnx") / "digits.onnx"
    with unchecked():  # the shape checks are not part of the network
        export_onnx(model, path)
    return model, path


def run(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(values) for values in session.run(None, {"images": images.numpy()})]


@torch.no_grad()
def assert_equal_to_torch(model, path, batch):
    side, recipe = model.recipe.image_size, model.recipe
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))
    offsets, logits = model(images)
    boxes, scores = run(path, images)
    expected = decode(offsets, model.priors, recipe.variances, recipe.max_log_size)
    expected = expected.clamp(0, 1) if recipe.clip else expected
    torch.testing.assert_close(boxes, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(scores, logits.softmax(dim=2), rtol=0, atol=1e-4)
    return boxes


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_small_model_says_what_torch_says_for_any_batch(digits, batch):
    model, path = digits
    assert_equal_to_torch(model, path, batch)


def test_ssd300_with_limits_from_another_precision_and_mode(tmp_path, capfd):
    torch.manual_seed(0)
    model = ssd300_vgg16(num_classes=5).half().train()
    limits = {"max_log_size": math.log(3), "clip": True, "variances": (0.2, 0.3)}
    model.recipe = replace(model.recipe, **limits)
    with torch.no_grad():
        for head in model.localization_heads:
            head.weight *= 60  # so that the limit on sizes and the border are reached
    with unchecked():
        export_onnx(model, tmp_path / "ssd300.onnx")
    assert capfd.readouterr().out == ""
    assert [file.name for file in tmp_path.iterdir()] == ["ssd300.onnx"]
    assert model.training
    assert model.priors.dtype == torch.float16
    for batch in (1, 2):
        boxes = assert_equal_to_torch(model.float().eval(), tmp_path / "ssd300.onnx", batch)
        assert (boxes.min(), boxes.max()) == (0, 1)


def test_the_file_tells_what_surrounds_the_network(digits):
    model, path = digits
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map[export.METADATA])
    assert about["architecture"] == "tiny_ssd"
    recipe = {k: tuple(v) if isinstance(v, list) else v for k, v in about["recipe"].items()}
    assert recipe == asdict(model.recipe)


def test_the_example_finds_what_detect_finds(digits, tmp_path, monkeypatch):
    model, path = digits
    image = GraffitiDigits("test", length=1, seed=7)[0][0]
    cv2.imwrite(str(tmp_path / "photo.png"), image[..., ::-1])
    code = "".join(e.source for e in doctest.DocTestParser().get_examples(export_onnx.__doc__))
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code.replace("model.onnx", str(path)), {})
    (found,) = detect(model, [image], score_threshold=0.5)
    names = [model.recipe.class_names[label] for label in sorted(found.labels.tolist())]
    assert len(names) > 1
    assert [line.split()[0] for line in printed.getvalue().splitlines()] == names


def test_opencv_runs_the_network(digits):
    _, path = digits
    net = cv2.dnn.readNetFromONNX(str(path))
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    net.setInput(images.numpy(), "images")
    for found, expected in zip(net.forward(["boxes", "scores"]), run(path, images), strict=True):
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)


def test_without_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with refuses(r"pip install 'ssd-annotated\[onnx\]'", ImportError):
        export_onnx(pretrained(), tmp_path / "digits.onnx")


def test_a_file_is_written_whole_or_not_at_all(monkeypatch, tmp_path):
    def save(_file, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    (tmp_path / "digits.onnx").write_bytes(b"the one before")
    program = SimpleNamespace(model_proto=onnx.ModelProto())
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: program)
    monkeypatch.setattr(onnx, "save", save)
    with refuses("disk full", OSError):
        export_onnx(pretrained(), tmp_path / "digits.onnx")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"the one before"]
