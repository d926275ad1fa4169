"""The command line: what it understands, what it prints where, and how it fails."""

import ctypes
import inspect
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import click
import cv2
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torchvision.models.detection import ssdlite320_mobilenet_v3_large as torchvision_ssdlite

import ssd_annotated
from ssd_annotated.app import arguments, building, cli, export, reports
from ssd_annotated.app import detect as app_detect
from ssd_annotated.app.detect import Tally
from ssd_annotated.checkpoint import load_model, pretrained, save_model
from ssd_annotated.data import graffiti
from ssd_annotated.data.augment import AUGMENTATIONS
from ssd_annotated.data.fit import fit_priors, outlook, seen_targets
from ssd_annotated.data.graffiti import CLASS_NAMES, GraffitiDigits, export_voc
from ssd_annotated.data.layout import VARIANTS
from ssd_annotated.data.survey import survey, survey_table
from ssd_annotated.data.voc import VOCFolder
from ssd_annotated.detection import detect
from ssd_annotated.evaluation.coco import evaluate_coco
from ssd_annotated.evaluation.mistakes import find_mistakes, mistakes_table
from ssd_annotated.evaluation.voc import evaluate, evaluation_table
from ssd_annotated.model import ModelSpec, tiny_ssd
from ssd_annotated.priors import PRESETS, make_priors, rescale_priors, tiny_priors
from ssd_annotated.training import run as run_module
from ssd_annotated.training.rungs import Standing, find_rungs
from ssd_annotated.training.settings import QUICK, SMALL, Settings

COMMANDS = sorted(cli.main.commands)
MODULE = [sys.executable, "-m", "ssd_annotated"]


def run(*arguments, **options):
    """The result of a command line, in this process."""
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], **options)


def done(*arguments):
    """Stdout of a command line that must succeed."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of graffiti in VOC's layout: 14 images to train on, 4 to test with."""
    folder = tmp_path_factory.mktemp("digits")
    for split, length in (("train", 14), ("test", 4)):  # 14 are enough for all digits
        export_voc(GraffitiDigits(split, length=length), folder)
    return folder


# --- Starting, helping and failing ----------------------------------------------------------------


def test_help_imports_nothing_heavy_and_exits_with_0():
    code = """
import sys
from ssd_annotated.app.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
heavy = {"torch", "torchvision", "numpy", "cv2", "matplotlib", "tqdm"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command):
    text = done(command, "--help")
    assert "Usage:" in text
    assert f"ssd-annotated {command} " in text, "an example"
    assert text == done(command, "-h")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_has_a_help_text(command):
    command = cli.main.commands[command]
    for parameter in command.get_params(click.Context(command)):
        assert isinstance(parameter, click.Argument) or parameter.help


def test_examples_in_help_texts_are_understood():
    texts = [cli.main.help, *(command.help for command in cli.main.commands.values())]
    examples = re.findall(r"^ +ssd-annotated (.+)$", "\n".join(texts), re.MULTILINE)
    assert len(examples) >= len(COMMANDS)
    for example in examples:
        name, *arguments = example.split()
        cli.main.commands[name].make_context(name, arguments)  # parses, or raises


def test_the_command_is_installed():
    file = Path(__file__).parent.parent / "pyproject.toml"
    scripts = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["scripts"]
    module, name = scripts["ssd-annotated"].split(":")
    assert getattr(import_module(module), name) is cli.main


def test_version_is_the_packages():
    assert done("--version").split()[-1] == ssd_annotated.__version__


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["train"], ["check"], ["detect", "--no-such-option"], []]
)
def test_a_wrong_command_exits_with_2_and_points_to_the_help(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert not result.stdout
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("a bad box"), "a bad box"),
        (FileNotFoundError(2, "No such file or directory", "there.pt"), "there.pt: No such file"),
        (OSError("no camera 3"), "no camera 3"),
        (ImportError("pip install 'ssd-annotated[onnx]'"), "pip install"),
        (FloatingPointError("the loss is no longer finite"), "the loss is no longer finite"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "DefaultCPUAllocator: c"),
        (cv2.error("Insufficient memory: Failed to allocate 3 bytes"), "Insufficient memory"),
        (MemoryError("Unable to allocate 2 TiB"), "out of memory: Unable to allocate 2 TiB"),
        (MemoryError(), "out of memory\n"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal"),
            "DataLoader worker (pid 7)",
        ),
    ],
)
def test_what_users_can_mend_is_a_message_and_exits_with_1(monkeypatch, tmp_path, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr("ssd_annotated.data.graffiti.export_voc", fail)
    result = run("graffiti", "--out", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {message}")
    assert "Traceback" not in result.output
    with pytest.raises(type(error)):
        run("--traceback", "graffiti", "--out", tmp_path, catch_exceptions=False)


def test_a_bug_stays_an_exception(monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("ssd_annotated.data.graffiti.export_voc", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        run("graffiti", "--out", tmp_path, catch_exceptions=False)


def test_ctrl_c_exits_with_130(monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd_annotated.data.graffiti.export_voc", interrupt)
    result = run("graffiti", "--out", tmp_path)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


# --- Arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("VOC2007", ("VOC2007", None)),
        ("VOC2007:trainval", ("VOC2007", "trainval")),
        ("/data/VOC2007/:test", ("/data/VOC2007/", "test")),
        ("a:train", ("a", "train")),
        ("my:data:train", ("my:data", "train")),
        (r"C:\data\VOC", (r"C:\data\VOC", None)),
        (r"C:\data\VOC:train", (r"C:\data\VOC", "train")),
        ("C:/data/VOC:train", ("C:/data/VOC", "train")),
        ("val2017:annotations/val.json", ("val2017", "annotations/val.json")),
        ("val2017:/coco/val.json", ("val2017", "/coco/val.json")),
        (r"C:\coco\val:D:\coco\val.json", (r"C:\coco\val", r"D:\coco\val.json")),
        (r"C:\coco\val:\coco\val.json", (r"C:\coco\val", r"\coco\val.json")),
    ],
)
def test_data_is_split_where_it_is_meant(text, expected):
    assert arguments.Data().convert(text, None, None) == expected


@pytest.mark.parametrize("text", [":train", "VOC2007:", ":"])
def test_half_of_a_data_argument_is_refused(text):
    with pytest.raises(click.BadParameter, match="is not ROOT:SET"):
        arguments.Data().convert(text, None, None)


def test_settings_are_options_whose_defaults_are_the_fields():
    paper = Settings()
    text = " ".join(done("train", "--help").split("Options:")[1].split())
    for name in arguments.SETTINGS:
        option = f"--{name.replace('_', '-')}"
        default = getattr(paper, name)
        if default is not False:  # a flag
            shown = text.split(f" {option} ")[1].partition("[default: ")[2].partition("]")[0]
            assert shown == ("none" if default is None else str(default))


# --- graffiti and download ------------------------------------------------------------------------


def test_graffiti_is_written_as_asked(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(graffiti, "export_voc", lambda data, folder: written.append((data, folder)))
    options = ("--train", 3, "--test", 2, "--variant", "crowd", "--image-size", 64, "--seed", 5)
    assert done("graffiti", "--out", tmp_path, *options) == ""
    assert [(data.split, len(data), folder) for data, folder in written] == [
        ("train", 3, tmp_path),
        ("test", 2, tmp_path),
    ]
    for data, _ in written:
        assert (data.variant, data.image_size, data.seed) == (VARIANTS["crowd"], 64, 5)


def test_graffiti_does_not_overwrite(digits):
    result = run("graffiti", "--out", digits)
    assert result.exit_code == 1
    assert "train.txt exists" in result.stderr


@pytest.mark.parametrize("option", ["--train", "--test"])
def test_graffiti_has_no_more_scenes_than_names(tmp_path, option):
    result = run("graffiti", "--out", tmp_path / "digits", option, 10**6)
    assert result.exit_code == 2
    assert f"'{option}': 1000000 is not in the range x<=999999" in result.stderr


def test_graffiti_writes_nothing_if_a_number_cannot_be(tmp_path):
    result = run("graffiti", "--out", tmp_path / "walls", "--test", 0)
    assert result.exit_code == 2
    assert "length must be at least 1, not 0" in result.stderr
    assert not (tmp_path / "walls").exists()


@pytest.mark.parametrize(
    ("options", "sets"),
    [
        ([], [("2007", "trainval"), ("2012", "trainval"), ("2007", "test")]),
        (["--set", "2007:test"], [("2007", "test")]),
    ],
)
def test_download_says_what_to_train_on(monkeypatch, options, sets):
    monkeypatch.setattr(
        "ssd_annotated.data.voc.download_voc", lambda folder, year, _: Path(folder, f"VOC{year}")
    )
    lines = done("download", "--out", "data", *options).splitlines()
    assert lines == [str(Path("data", f"VOC{year}")) + f":{name}" for year, name in sets]


# --- check ----------------------------------------------------------------------------------------


def spoil(folder, name):
    """Turn the first box of an annotation inside out."""
    file = folder / "Annotations" / f"{name}.xml"
    tree = ElementTree.parse(file)
    box = tree.find("object/bndbox")
    box.find("xmin").text = box.find("xmax").text
    tree.write(file)


def clear(folder, split):
    """Take all objects out of the annotations."""
    for file in (folder / "Annotations").glob(f"{split}_*.xml"):
        tree = ElementTree.parse(file)
        for thing in tree.findall("object"):
            tree.getroot().remove(thing)
        tree.write(file)


@pytest.fixture
def own_digits(digits, tmp_path):
    """A copy of the folder, for tests to spoil."""
    return Path(shutil.copytree(digits, tmp_path / "own"))


def test_check_of_clean_data_exits_with_0(digits, tmp_path):
    figure = tmp_path / "survey.png"
    options = ("--model", "tiny", "--image-size", 128)
    text = done("check", digits, *options, "--figure", figure)
    whole = VOCFolder([(digits, "train"), (digits, "test")], CLASS_NAMES)
    first, _, rest = text.partition("\n\n")
    assert first == f"{digits}: PASCAL VOC's layout; taken: train, test (18 images)"
    assert rest.splitlines()[0].split()[:2] == ["images", str(len(whole))]
    table = survey_table(survey(whole, make_priors(tiny_priors(128))))
    specs = {128: tiny_priors(128), **{side: tiny_priors(side) for side in range(192, 641, 64)}}
    assert rest == f"{table}\n\n{outlook(whole, 128, specs)}\n"
    assert cv2.imread(str(figure)) is not None


def test_check_counts_what_the_priors_miss(digits):
    text = done("check", digits, "--model", "tiny", "--smallest", 0.01, "--largest", 0.02)
    classes = text.split("\n\n")[3].splitlines()
    assert len(classes) == 11
    assert all(line.endswith("100.0%") for line in classes[1:])


def test_what_cannot_be_printed_is_replaced(digits):
    result = CliRunner(charset="cp1252").invoke(cli.main, ["check", str(digits)])
    assert result.exit_code == 0, result.output
    assert "median size" in result.stdout


def test_check_lists_what_is_wrong_and_exits_with_1(own_digits):
    spoil(own_digits, "train_000002")
    result = run("check", f"{own_digits}:train")
    assert result.exit_code == 1
    lines = " ".join(result.stdout.split())
    assert re.search(r"train_000002.xml, object 1 \(\d\): degenerate box", lines)
    assert not result.stderr


@pytest.mark.parametrize("command", [("check",), ("train", "--out", "run")])
def test_without_an_object_the_command_line_knows_what_to_do(own_digits, command):
    clear(own_digits, "train")
    name, *options = command
    result = run(name, f"{own_digits}:train", *options)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no image has an object: annotate some")
    assert "class_names" not in result.stderr


def test_check_of_a_folder_that_is_none(tmp_path):
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}: no image in this folder; looked for .jpg")


@pytest.fixture
def coco_file(digits, tmp_path):
    """The annotations of the test split, in COCO's format."""
    folder = VOCFolder([(digits, "test")], CLASS_NAMES)
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES) if i]
    for index, record in enumerate(folder.records):
        width, height = record.size
        content["images"].append(
            {"id": index, "file_name": record.image.name, "width": width, "height": height}
        )
        target = folder.target(index)
        for (x0, y0, x1, y1), label in zip(target["boxes"].tolist(), target["labels"].tolist()):
            box = [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height]
            number = len(content["annotations"]) + 1
            thing = {"id": number, "image_id": index, "category_id": label, "bbox": box}
            content["annotations"].append(thing)
    file = tmp_path / "digits.json"
    file.write_text(json.dumps(content))
    return file


def test_coco_annotations_are_data_too(digits, coco_file):
    text = done("check", f"{digits / 'JPEGImages'}:{coco_file}")
    folder = VOCFolder([(digits, "test")], CLASS_NAMES)
    first, _, rest = text.partition("\n\n")
    images = f"(4 images in {digits / 'JPEGImages'})"
    assert first == f"{coco_file}: COCO's JSON; taken: all {images}"
    table = survey_table(survey(folder, make_priors(PRESETS["caffe-voc"])))
    assert rest.startswith(f"{table}\n\nseen with augmentation ")
    assert re.match(r"proposed: --augmentation (caffe|gentle) --sm", rest.splitlines()[-1])


def test_folders_of_both_formats_are_joined(digits, coco_file):
    text = done("check", f"{digits / 'JPEGImages'}:{coco_file}", f"{digits}:train")
    assert [line.split("; ")[1] for line in text.splitlines()[:2]] == [
        f"taken: all (4 images in {digits / 'JPEGImages'})",
        "taken: train (14 images)",
    ]
    assert text.split("\n\n")[1].split()[:2] == ["images", "18"]


@pytest.fixture
def flat(digits, tmp_path):
    """The same images and annotations side by side, without lists."""
    for folder in ("JPEGImages", "Annotations"):
        shutil.copytree(digits / folder, tmp_path / "flat", dirs_exist_ok=True)
    return tmp_path / "flat"


def test_a_folder_without_sets_is_trained_on_by_shares(flat, asked, tmp_path):
    data = (f"{flat}:0.8", "--val", f"{flat}:-0.2", "--on-bad", "raise")
    done("train", *data, "--out", tmp_path / "run", *TINY)
    (call,) = asked
    parts = [
        {record.image for record in dataset.records}
        for dataset in (call["dataset"].dataset, call["validation"])
    ]
    assert parts[0] | parts[1] == set(flat.glob("*.jpg"))
    assert not parts[0] & parts[1]
    result = run("train", flat, "--val", flat, "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 1
    assert (
        f"no image set 'val'; there are: none. Divide it into shares, {flat}:0.9" in result.stderr
    )
    assert len(asked) == 1


def test_what_is_worth_knowing_is_said(flat, asked, tmp_path):
    shutil.copy(flat / "test_000000.jpg", flat / "bare.jpg")
    expected = "1 image without annotation, left out: bare.jpg\n"
    result = run("train", flat, "--out", tmp_path / "run", *TINY)
    told = "images with the XML of their name beside them; taken: all (18 images)"
    taken = f"{flat}: no sets, so all of it is taken as 'train'"
    assert result.stderr == f"{flat}: {told}\n{taken}\n{expected}"
    assert expected in done("check", flat)
    assert len(asked[0]["dataset"]) == 18
    held_back = run("train", flat, "--val-fraction", 0.2, "--out", tmp_path / "run", *TINY)
    assert held_back.stderr == result.stderr


@pytest.mark.parametrize(("options", "left"), [([], 1), (["--crowds", "keep"], 2)])
def test_crowds_are_kept_if_asked_for(digits, coco_file, asked, tmp_path, options, left):
    content = json.loads(coco_file.read_text())
    del content["annotations"][2:]
    content["annotations"][0]["iscrowd"] = 1
    coco_file.write_text(json.dumps(content))
    data = f"{digits / 'JPEGImages'}:{coco_file}"
    done("train", data, "--out", tmp_path / "run", *TINY, "--augmentation", "none", *options)
    assert sum(len(target["labels"]) for _, target in asked[0]["dataset"]) == left


def test_crowds_alone_are_nothing_to_train_on(digits, coco_file, tmp_path):
    content = json.loads(coco_file.read_text())
    for thing in content["annotations"]:
        thing["iscrowd"] = 1
    coco_file.write_text(json.dumps(content))
    result = run("check", f"{digits / 'JPEGImages'}:{coco_file}")
    assert result.exit_code == 1
    assert result.stderr == "error: no object to train on\n"
    assert "9 crowds: left out of training, ignored in evaluation" in result.stdout
    options = ("--out", tmp_path / "run", *TINY, "--steps", 1)
    trained = run("train", f"{digits / 'JPEGImages'}:{coco_file}", *options)
    assert trained.exit_code == 2
    assert "DATA: no object to train on in 4 images" in trained.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "here", "--figure", "survey.xls"], "'survey.xls' does not end in .pdf or .png"),
        (["evaluate", "tiny-graffiti", "here", "--gallery", "a"], "'a' does not end in .pdf or"),
        (["evaluate", "tiny-graffiti", "here", "--json", "a.txt"], "'a.txt' does not end in .json"),
        (["detect", "tiny-graffiti", "here", "--json", "a.txt"], "'a.txt' does not end in .json"),
        (["export", "tiny-graffiti", "--out", "tiny.pt"], "'tiny.pt' does not end in .onnx"),
    ],
)
def test_a_file_that_ends_otherwise_is_refused_before_all_else(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_figures_need_matplotlib(monkeypatch, digits):
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    result = run("check", digits, "--figure", "survey.png")
    assert result.exit_code == 1
    assert "pip install 'ssd-annotated[plot]'" in result.stderr


# --- train ----------------------------------------------------------------------------------------

TINY = ("--model", "tiny", "--image-size", 64, "--widths", 4, 4, 8, 8, 8, 8, "--batch-size", 4)


real_run = run_module.run


@pytest.fixture
def asked(monkeypatch):
    """The arguments with which `train` calls the package; nothing is run."""
    calls = []

    def remember(model, dataset, folder, settings, **options):
        options |= {"model": model, "dataset": dataset, "folder": folder, "settings": settings}
        calls.append(options)
        return run_module.Outcome(5, None, None)

    monkeypatch.setattr(run_module, "run", remember)
    return calls


@pytest.fixture
def imagenet(monkeypatch):
    """The trunks that would have got ImageNet's weights."""
    trunks = []
    monkeypatch.setattr("ssd_annotated.model.load_imagenet", trunks.append)
    return trunks


def test_defaults_of_training_are_the_papers(digits, asked, imagenet, tmp_path):
    done("train", digits, "--out", tmp_path)
    (call,) = asked
    model, data = call["model"], call["dataset"]
    assert model.spec == ModelSpec("ssd300_vgg16", 11, (), PRESETS["caffe-voc"])
    assert imagenet == [model.trunk]
    assert model.recipe.class_names == CLASS_NAMES
    assert call["settings"] == Settings()
    assert (data.augmentation, data.image_size, data.seed) == (AUGMENTATIONS["caffe"], 300, 0)
    assert len(data) == 14
    assert (call["validation"], call["folder"]) == (None, str(tmp_path))
    parameters = inspect.signature(real_run).parameters
    for name in ("save_every", "validate_every", "resume", "tensorboard"):
        assert call[name] == parameters[name].default


def test_random_weights_if_asked_for_or_to_be_replaced(digits, asked, imagenet, tmp_path):
    done("train", digits, "--out", tmp_path, "--weights", "none")
    done("train", digits, "--out", tmp_path, "--resume", "--model", "ssd512", "--weights", "none")
    (tmp_path / "last.pt").touch()
    done("train", digits, "--out", tmp_path, "--resume")
    assert not imagenet
    assert [call["model"].recipe.image_size for call in asked] == [300, 512, 300]


@pytest.mark.parametrize(
    ("options", "maps", "side"),
    [
        (("--image-size", 320), (40, 20, 10, 5, 3, 1), 320),
        (("--model", "ssdlite320"), (20, 10, 5, 3, 2, 1), 320),
        (("--model", "ssdlite320", "--image-size", 96), (6, 3, 2, 1, 1, 1), 96),
    ],
)
def test_every_model_has_its_sizes(digits, asked, tmp_path, options, maps, side):
    sizes = ("--smallest", 0.05, "--largest", 0.6)
    done("train", digits, "--out", tmp_path, "--weights", "none", *options, *sizes)
    model, data = asked[0]["model"], asked[0]["dataset"]
    priors = model.spec.priors
    assert (priors.feature_maps, priors.centres) == (maps, "fmap")
    assert (priors.sizes[0], priors.sizes[-1]) == (0.05, 0.6)
    assert (model.recipe.image_size, data.image_size) == (side, side)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """torchvision's SSDLite of 11 classes, as its training script saves it."""
    torch.manual_seed(0)
    theirs = torchvision_ssdlite(weights=None, weights_backbone=None, num_classes=11)
    file = tmp_path_factory.mktemp("foreign") / "model_9.pth"
    torch.save({"model": theirs.state_dict(), "epoch": 9}, file)
    return file


def test_anybodys_checkpoint_detects(digits, foreign, tmp_path):
    out = ("--json", tmp_path / "found.json", "--score", 0)
    result = run("detect", foreign, digits / "JPEGImages" / "train_000000.jpg", *out)
    assert result.exit_code == 0, result.output
    whose = "torchvision's ssdlite320_mobilenet_v3_large, with 11 classes"
    assert f"{foreign}: a checkpoint of {whose}\n" in result.stderr
    assert json.loads((tmp_path / "found.json").read_text())["model"]["recipe"]["image_size"] == 320


def test_training_goes_on_from_anybodys_checkpoint(digits, foreign, asked, tmp_path):
    done("train", digits, "--out", tmp_path, "--weights", foreign)
    model = asked[0]["model"]
    assert model.recipe.class_names == CLASS_NAMES
    theirs = torch.load(foreign, weights_only=True)["model"]
    assert torch.equal(model.extras[3][2][0].weight, theirs["backbone.extra.3.2.0.weight"])
    assert model.recipe.mean == (0.5, 0.5, 0.5)


def test_ssdlite_from_data_to_detector(digits, tmp_path):
    out, options = tmp_path / "run", ("--model", "ssdlite320", "--image-size", 64)
    settings = ("--weights", "none", "--settings", "quick", "--steps", 1, "--batch-size", 2)
    done("train", digits, "--out", out, *options, *settings)
    assert "mean AP" in done("evaluate", out / "last.pt", digits)
    done("export", out / "last.pt", "--out", tmp_path / "lite.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "lite.onnx")
    images = torch.randn(3, 3, 64, 64)
    boxes, scores = session.run(None, {"images": images.numpy()})
    model = load_model(out / "last.pt")
    with torch.no_grad():
        expected = model(images).logits.softmax(dim=2)
    assert boxes.shape == (3, len(model.priors), 4)
    torch.testing.assert_close(torch.from_numpy(scores), expected, atol=1e-5, rtol=1e-4)


def test_options_of_training_arrive(digits, asked, tmp_path):
    numbers = ("--lr", 0.5, "--clip-norm", 3, "--precision", "bfloat16", "--compile", "--seed", 7)
    more = ("--save-every", 11, "--validate-every", 12, "--resume", "--tensorboard")
    sizes = ("--smallest", 0.05, "--largest", 0.6, "--augmentation", "none")
    val = ("--val", f"{digits}:test", "--val", f"{digits}:train")
    done("train", f"{digits}:train", "--out", tmp_path, *TINY, *numbers, *more, *sizes, *val)
    (call,) = asked
    assert call["settings"] == Settings(
        batch_size=4, lr=0.5, clip_norm=3, precision="bfloat16", compile=True, seed=7
    )
    assert (call["save_every"], call["validate_every"]) == (11, 12)
    assert call["resume"]
    assert call["tensorboard"]
    priors = rescale_priors(tiny_priors(64), 0.05, 0.6)
    assert call["model"].spec == ModelSpec("tiny_ssd", 11, (4, 4, 8, 8, 8, 8), priors)
    assert call["dataset"].augmentation == AUGMENTATIONS["none"]
    assert call["dataset"].seed == 7
    assert (len(call["dataset"]), len(call["validation"])) == (14, 18)
    assert call["validation"].class_names == call["dataset"].dataset.class_names


def test_priors_are_fitted_to_what_training_shows(digits, asked, tmp_path):
    options = ("--fit-priors", "--augmentation", "gentle")
    result = run("train", digits, "--out", tmp_path, *TINY, *options)
    assert result.exit_code == 0, result.output
    data = VOCFolder([(digits, "train")], CLASS_NAMES)
    pair = fit_priors(tiny_priors(64), seen_targets(data, AUGMENTATIONS["gentle"]))
    assert asked[0]["model"].spec.priors == rescale_priors(tiny_priors(64), *pair)
    assert result.stderr == "priors: --smallest {} --largest {}\n".format(*pair)


def test_settings_for_small_objects_choose_augmentation_and_priors_too(digits, asked, tmp_path):
    data = ("train", digits, "--out", tmp_path, *TINY, "--settings", "small")
    done(*data)
    done(*data, "--fit-priors", "--augmentation", "caffe", "--steps", 7)
    done(*data, "--smallest", 0.1, "--largest", 0.5)
    done(*data, "--no-fit-priors")
    whole = VOCFolder([(digits, "train")], CLASS_NAMES)
    fitted = [
        rescale_priors(tiny_priors(64), *fit_priors(tiny_priors(64), seen_targets(whole, drawn)))
        for drawn in (AUGMENTATIONS["gentle"], AUGMENTATIONS["caffe"])
    ]
    given = [rescale_priors(tiny_priors(64), 0.1, 0.5), tiny_priors(64)]
    assert [call["model"].spec.priors for call in asked] == [*fitted, *given]
    expected = [AUGMENTATIONS[name] for name in ("gentle", "caffe", "gentle", "gentle")]
    assert [call["dataset"].augmentation for call in asked] == expected
    settings = replace(SMALL, batch_size=4)
    assert [call["settings"] for call in asked[:2]] == [settings, replace(settings, steps=7)]


def test_flips_are_chosen(digits, asked, tmp_path):
    for options in (["--no-mirror"], ["--vertical-flip", "--augmentation", "gentle"], []):
        done("train", digits, "--out", tmp_path, *TINY, *options)
    drawn = [call["dataset"].augmentation for call in asked]
    assert drawn == [
        replace(AUGMENTATIONS["caffe"], flip_probability=0),
        replace(AUGMENTATIONS["gentle"], vertical_flip_probability=0.5),
        AUGMENTATIONS["caffe"],
    ]


def test_a_fraction_is_held_back_as_a_share_is(flat, digits, asked, tmp_path):
    done("train", flat, "--val-fraction", 0.2, "--out", tmp_path / "run", *TINY)
    done("train", f"{flat}:0.8", "--val", f"{flat}:-0.2", "--out", tmp_path / "run", *TINY)
    done("train", f"{digits}:train", "--val-fraction", 0.2, "--out", tmp_path / "run", *TINY)
    names = [
        [{r.image.name for r in d.records} for d in (call["dataset"].dataset, call["validation"])]
        for call in asked
    ]
    assert names[0] == names[1]
    assert names[2] == [{n for n in part if n.startswith("train")} for part in names[0]]
    classes = {d.class_names for d in (asked[0]["dataset"].dataset, asked[0]["validation"])}
    assert classes == {CLASS_NAMES}


def test_quick_settings_are_other_defaults(digits, asked, tmp_path):
    done("train", digits, "--out", tmp_path, *TINY, "--settings", "quick", "--weight-decay", 0)
    assert asked[0]["settings"] == replace(QUICK, batch_size=4, weight_decay=0)


def test_one_size_alone_keeps_the_other():
    spec = tiny_priors(256)
    assert building.choose_priors("tiny", None, 0.1, None) == rescale_priors(spec, 0.1, 0.88)
    assert building.choose_priors("tiny", None, None, 0.7) == rescale_priors(spec, 0.2, 0.7)
    assert building.choose_priors("tiny", None, None, None) == spec


def test_the_seed_decides_on_the_weights(digits, asked, tmp_path):
    for seed in (1, 1, 2):
        done("train", digits, "--out", tmp_path, *TINY, "--seed", seed)
    one, same, other = (call["model"].state_dict() for call in asked)
    head = "localization_heads.0.weight"
    assert torch.equal(one[head], same[head])
    assert not torch.equal(one[head], other[head])


@pytest.fixture
def tiny_file(tmp_path):
    """A model for digits with widths and priors of its own."""
    priors = rescale_priors(tiny_priors(64), 0.1, 0.5)
    model = tiny_ssd(11, 64, (4, 4, 8, 8, 8, 8), CLASS_NAMES, priors)
    save_model(model, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_training_goes_on_from_a_model(digits, asked, tiny_file, tmp_path):
    done("train", digits, "--out", tmp_path, "--weights", tiny_file)
    before, model = load_model(tiny_file), asked[0]["model"]
    assert (model.spec, model.recipe) == (before.spec, before.recipe)
    for name, value in before.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_going_on_from_a_model_takes_a_tenth_of_the_rate(digits, asked, tiny_file, tmp_path):
    data = ("train", digits, "--out", tmp_path, "--weights", tiny_file)
    done(*data)
    done(*data, "--settings", "quick", "--freeze", "trunk")
    done(*data, "--lr", 0.01)
    assert [call["settings"].lr for call in asked] == [1e-4, 4e-4, 0.01]
    assert [call["settings"].freeze for call in asked] == ["none", "trunk", "none"]


def test_which_classes_are_kept_is_said(digits, asked, tmp_path):
    names = ("background", "7", "seven", "3")
    save_model(tiny_ssd(4, 64, (4,) * 6, names), tmp_path / "old.pt")
    result = run("train", digits, "--out", tmp_path, "--weights", tmp_path / "old.pt")
    assert result.stderr == (
        f"{tmp_path / 'old.pt'}: classes kept: 3, 7\n"
        f"{tmp_path / 'old.pt'}: classes new: 0, 1, 2, 4, 5, 6, 8, 9\n"
    )
    before, after = load_model(tmp_path / "old.pt"), asked[0]["model"]
    was, now = (m.confidence_heads[0].bias.unflatten(0, (4, -1)) for m in (before, after))
    assert torch.equal(now[:, [0, 8, 4]], was[:, [0, 1, 3]])


@pytest.mark.usefixtures("asked")
def test_of_several_processes_the_first_speaks(digits, tmp_path, monkeypatch):
    save_model(tiny_ssd(2, 64, (4,) * 6, ("background", "7")), tmp_path / "old.pt")
    monkeypatch.setattr("ssd_annotated.training.distributed.rank", lambda: 1)
    result = run("train", digits, "--out", tmp_path, "--weights", tmp_path / "old.pt")
    assert (result.exit_code, result.output) == (0, "")


def test_for_other_classes_what_tells_classes_apart_starts_anew(tiny_file):
    before = load_model(tiny_file)
    names = ("background", "cat", "dog")
    with click.Context(cli.main.commands["train"]):
        model = building.new_model(names, str(tiny_file), None, "ssd300")
    assert model.spec == replace(before.spec, num_classes=3)
    assert model.recipe == replace(before.recipe, class_names=names)
    new = model.state_dict()
    for name, value in before.state_dict().items():
        assert name.startswith("confidence_heads.") or torch.equal(value, new[name])
    images = torch.zeros(1, 3, 64, 64)
    assert model(images).logits.shape[2] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", 256], "ssd300_vgg16 needs at least 268 pixels a side, not 256"),
        (["--model", "ssdlite320", "--image-size", 8], "must be at least 32, not 8"),
        (["--widths", 1, 2, 3, 4, 5, 6, "--weights", "none"], "--widths are for --model tiny"),
        (["--model", "tiny", "--weights", "imagenet"], "imagenet is for --model ssd300"),
        (["--weights", __file__, "--model", "tiny"], "--model cannot be chosen"),
        (["--weights", __file__, "--smallest", 0.1], "--smallest cannot be chosen"),
        (["--weights", "imagnet"], "--weights 'imagnet' is neither imagenet nor none, and no such"),
        (["--weights", "imagnet", "--model", "tiny"], "--weights 'imagnet' is neither imagenet"),
        (["--weights", ""], "--weights '' is neither imagenet nor none, and no such file"),
        (["--weights", "old.pt", "--fit-priors"], "--fit-priors cannot be used: --weights"),
        (["--val", "here", "--val-fraction", 0.1], "give either --val or --val-fraction"),
        (["--val-fraction", 0.001], "--val-fraction 0.001 leaves one side without images"),
        (["--val-fraction", 1], "1.0 is not in the range 0<x<1"),
        (["--val-fraction", "nan"], "nan is not in the range 0<x<1"),
        (["--fit-priors", "--largest", 0.1], "--fit-priors chooses --smallest and --largest"),
        (
            ["--model", "tiny", "--image-size", 63],
            "image_size in pixels must be at least 64, not 63",
        ),
        (["--model", "tiny", "--widths", *[0] * 6], "positive numbers of channels, not (0, 0,"),
        (["--weights", "none", "--smallest", 2], "rise from above 0, not from 2.0 to"),
        (["--model", "tiny", "--widths", 8, 8, 8, 8, 8, 10**30], "0 is not in the range x<=65536"),
        (["--out", ""], "'' names no folder"),
        (["--steps", 0], "steps must be at least 1, not 0"),
        (["--save-every", 0], "'--save-every': 0 is not in the range"),
        (["--validate-every", -1], "'--validate-every': -1 is not in the range"),
        (["--device", "hovercraft"], "cannot compute on 'hovercraft' ("),
        (["--device", "cuda:99"], "cannot compute on 'cuda:99' ("),
        (["--device", "meta"], "cannot compute on 'meta' ("),
        (["--device", "xpu"], "cannot compute on 'xpu' ("),
        (["--augmentation", "magic"], "is not one of 'none', 'caffe'"),
    ],
)
def test_options_that_cannot_be_exit_with_2(digits, asked, tmp_path, options, message):
    result = run("train", digits, "--out", tmp_path, *options)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not asked


@pytest.mark.usefixtures("asked")
def test_what_is_left_out_is_said(own_digits, tmp_path):
    spoil(own_digits, "train_000002")
    data = ("train", own_digits, "--out", tmp_path, *TINY)
    result = run(*data)
    assert result.exit_code == 1
    assert re.match(r"error: .*train_000002.xml, object 1 .*degenerate box", result.stderr)
    assert result.stderr.count("\n") == 1
    result = run(*data, "--on-bad", "skip")
    assert result.exit_code == 0
    assert "1 × degenerate box" in result.stderr


def test_an_error_in_a_process_that_loads_images_is_as_short(own_digits, tmp_path):
    for file in (own_digits / "JPEGImages").glob("train_*.jpg"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])  # the header is whole
    result = run("train", own_digits, "--out", tmp_path / "run", *TINY, "--workers", 1)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if "error:" in line]
    assert re.match(r"error: .*train_00000\d.jpg: corrupt image", line)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_how_a_run_was_stopped_is_said(monkeypatch, digits, tmp_path, number, status):
    outcome = run_module.Outcome(5, number, 0.25)
    monkeypatch.setattr(run_module, "run", lambda *_, **__: outcome)
    result = run("train", digits, "--out", tmp_path, *TINY)
    assert result.exit_code == status
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    assert result.stdout == f"{last}: 5 steps\n{best}: mAP 0.250\n"
    assert result.stderr == f"stopped by {number.name}; --resume continues the run\n"


@pytest.mark.parametrize(
    ("loss", "best", "words"),
    [
        (2.94, 0.3, "no better .*\nsee .*: ssd-annotated evaluate .*best.pt DATA --gallery"),
        (
            2.94,
            0.005,
            "no better than answering without looking .*\nThis is no detector yet. Try: .*`gentle`",
        ),
        (
            1.5,
            None,
            "the network looks .*\nsee .*: ssd-annotated evaluate .*last.pt DATA --gallery",
        ),
        (1.5, 0.4, "the network looks .*\nsee .*: ssd-annotated evaluate .*best.pt DATA --gallery"),
    ],
)
def test_a_training_ends_with_what_to_try_next(monkeypatch, digits, tmp_path, loss, best, words):
    standing = Standing(loss, find_rungs(torch.tensor([0, 1, 1])))
    outcome = run_module.Outcome(500, None, best, standing)
    monkeypatch.setattr(run_module, "run", lambda *_, **__: outcome)
    result = run("train", digits, "--out", tmp_path, *TINY)
    assert re.match(f"at the end, confidence loss {loss:.2f}: {words}", result.stderr)


def results(out, digits):
    """The evaluation of the best model on the test split."""
    dataset = VOCFolder([(digits, "test")], CLASS_NAMES)
    images, targets = zip(*(dataset[index] for index in range(len(dataset))))
    return (evaluate(detect(load_model(out / "best.pt"), list(images)), list(targets), 11),)


def test_from_data_to_detector(digits, tmp_path):
    """Train, resume, evaluate and detect, for real."""
    out = tmp_path / "run"
    data = ("train", digits, "--val", f"{digits}:test", "--out", out, *TINY, "--settings", "quick")
    text = done(*data, "--steps", 3)
    assert text.startswith(f"{out / 'last.pt'}: 3 steps\n")
    assert evaluation_table(*results(out, digits), CLASS_NAMES) in text
    assert cv2.imread(str(out / "worst.png")) is not None
    model = load_model(out / "last.pt")
    assert model.recipe.class_names == CLASS_NAMES
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2, 2]
    assert "mean_ap" in records[-1]

    again = run(*data, "--steps", 3)
    assert again.exit_code == 1
    assert "holds a run" in again.stderr
    assert done(*data, "--steps", 3, "--resume") == text
    other = run(*data, "--steps", 4, "--resume")
    assert other.exit_code == 1
    assert "steps was 3, and is 4 now" in other.stderr

    assert "mean AP" in done("evaluate", out / "last.pt", digits)
    photographs, found = digits / "JPEGImages", tmp_path / "found"
    text = done("detect", out / "last.pt", photographs, "--out", found, "--score", 0)
    assert re.fullmatch(r"\d+ objects in 18 images\n", text)
    assert {file.name for file in found.iterdir()} == {f.name for f in photographs.iterdir()}


def test_sigterm_saves_and_the_run_can_go_on(digits, tmp_path):
    command = ("train", digits, "--out", tmp_path, *TINY, "--settings", "quick", "--steps", 30)
    process = subprocess.Popen(
        [*MODULE, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "stopped by SIGTERM; --resume continues the run" in errors
    steps = int(re.fullmatch(r".*last.pt: (\d+) steps\n", output)[1])
    assert 0 < steps < 30
    assert done(*command, "--resume") == f"{tmp_path / 'last.pt'}: 30 steps\n"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(30))


# --- evaluate, detect, export ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(digits):
    """Detections of the shipped model on the test split, and its targets."""
    dataset = VOCFolder([(digits, "test")], CLASS_NAMES)
    images, targets = zip(*(dataset[index] for index in range(len(dataset))))
    return detect(pretrained(), list(images)), list(targets)


@pytest.mark.parametrize("method", ["area", "11point"])
def test_evaluate_prints_the_table(digits, measured, method):
    expected = evaluate(*measured, 11, method=method)
    text = done("evaluate", "tiny-graffiti", digits, "--method", method)
    assert text == evaluation_table(expected, CLASS_NAMES) + "\n"
    assert expected.mean_ap > 0.5


def test_evaluate_writes_numbers_and_figures(digits, measured, tmp_path):
    files = {name: tmp_path / name / f"{name}.png" for name in ("figure", "gallery")}
    numbers = tmp_path / "numbers.json"
    options = [("--" + name, file) for name, file in files.items()]
    text = done("evaluate", "tiny-graffiti", digits, "--coco", "--json", numbers, *sum(options, ()))
    for file in files.values():
        assert cv2.imread(str(file)) is not None
    content = json.loads(numbers.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    expected = evaluate(*measured, 11)
    assert content["mean_ap"] == pytest.approx(expected.mean_ap)
    assert list(content["ap"]) == list(CLASS_NAMES[1:])
    for value, wanted in zip(content["ap"].values(), expected.ap[1:].tolist()):
        assert (value is None) if math.isnan(wanted) else value == pytest.approx(wanted)
    coco = evaluate_coco(*measured, [(128, 128)] * 4)
    for name, wanted in coco.items():
        value = content["coco"][name]
        assert (value is None) if math.isnan(wanted) else value == pytest.approx(wanted)
    assert f"AP50       {coco['AP50']:.3f}" in text
    assert mistakes_table(find_mistakes(*measured, 11), CLASS_NAMES) in text


def test_evaluate_without_an_object_says_so(own_digits, tmp_path):
    clear(own_digits, "test")
    numbers = tmp_path / "numbers.json"
    result = run("evaluate", "tiny-graffiti", own_digits, "--json", numbers)
    assert result.exit_code == 2
    assert "DATA: no object to find in 4 images, so no mAP" in result.stderr
    assert not numbers.exists()


def test_a_validation_set_without_objects_is_refused_before_training(own_digits, tmp_path):
    clear(own_digits, "test")
    out = tmp_path / "run"
    options = ("--model", "tiny", "--image-size", 128, "--val", f"{own_digits}:test")
    result = run("train", own_digits, "--out", out, *options)
    assert result.exit_code == 2
    assert "--val: no object to find in 4 images, so no mAP" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize("score", ["nan", "-0.1", "1.5"])
def test_a_score_is_a_number_from_0_to_1(digits, score, tmp_path):
    options = ("--score", score, "--out", tmp_path / "found")
    result = run("detect", "tiny-graffiti", digits / "JPEGImages", *options)
    assert result.exit_code == 2
    assert f"'--score': {score} is not in the range 0<=x<=1." in result.stderr


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(digits, seed, tmp_path):
    training = ("train", digits, "--model", "tiny", "--settings", "quick", "--out", tmp_path)
    for command in (training, ("graffiti", "--out", tmp_path)):
        result = run(*command, "--seed", seed)
        assert result.exit_code == 2, command
        assert str(seed) in result.stderr


@pytest.mark.parametrize("option", ["--workers", "--batch-size"])
def test_evaluate_refuses_a_number_that_cannot_be(digits, option):
    result = run("evaluate", "tiny-graffiti", digits, option, -3)
    assert result.exit_code == 2
    assert f"'{option}': -3 is not in the range" in result.stderr


def test_numbers_are_written_whole_or_not_at_all(monkeypatch, tmp_path):
    file = tmp_path / "new" / "numbers.json"
    reports.write_json({"mean_ap": 0.5}, str(file))
    before = file.read_bytes()

    def disk_full(path, *_, **__):
        path.write_bytes(b"{")
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="no space left"):
        reports.write_json({"mean_ap": 0.25}, str(file))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_evaluate_without_the_classes_of_the_data(digits, tmp_path):
    save_model(tiny_ssd(3, 64, class_names=("background", "cat", "dog")), tmp_path / "cats.pt")
    result = run("evaluate", tmp_path / "cats.pt", digits)
    assert result.exit_code == 1
    assert "is none of cat, dog" in result.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("there.pt", "error: there.pt: No such file or directory\n"),
        ("runs/there", "error: runs/there: No such file or directory\n"),
        ("huge", "error: no model 'huge' ships with the package"),
    ],
)
def test_models_that_are_not_there(digits, model, message):
    result = run("evaluate", model, digits)
    assert result.exit_code == 1
    assert result.stderr.startswith(message)


def test_a_file_that_holds_other_tensors(digits, tmp_path):
    for content, message in (
        ([1, 2], "holds no model: expected spec, recipe and state_dict"),
        ({"state_dict": [1, 2]}, "expected a state_dict (names and tensors), not a list"),
        ({"weight": torch.zeros(1)}, "no known checkpoint: ['weight'] ... are not those of"),
    ):
        torch.save(content, tmp_path / "other.pth")
        result = run("evaluate", tmp_path / "other.pth", digits)
        assert result.exit_code == 1, result.exception
        assert result.stderr.startswith(f"error: {tmp_path / 'other.pth'}")
        assert message in result.stderr


def test_cocos_numbers_need_an_extra_that_is_asked_for_first(monkeypatch, digits):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    result = run("evaluate", "no-such-model", digits, "--coco")
    assert result.stderr == "error: --coco needs pycocotools: pip install 'ssd-annotated[coco]'\n"


def test_a_file_that_is_no_model(digits, tmp_path):
    (tmp_path / "model.pt").write_text("a letter")
    result = run("evaluate", tmp_path / "model.pt", digits)
    assert result.exit_code == 1
    assert "is damaged" in result.stderr


@pytest.fixture
def detected(monkeypatch):
    """The arguments with which `detect` calls the package; nothing is run."""
    calls = []

    def remember(kind):
        def detect_them(model, source, **options):
            calls.append((kind, source, model.priors.dtype, options))
            return Tally(3, 7, ["there.jpg: corrupt image"])

        return detect_them

    for kind in ("images", "video"):
        monkeypatch.setattr(app_detect, f"detect_{kind}", remember(kind))
    return calls


@pytest.mark.parametrize(
    ("source", "kind", "expected", "unit"),
    [
        (["photographs"], "images", "photographs", "images"),
        (["one.jpg"], "images", "one.jpg", "images"),
        (["street.MP4"], "video", "street.MP4", "frames"),
        (["--camera", 2], "video", 2, "frames"),
    ],
)
def test_detect_knows_images_from_videos(detected, source, kind, expected, unit):
    out = "found.mp4" if kind == "video" else "found"
    result = run("detect", "tiny-graffiti", *source, "--out", out, "--batch-size", 2)
    assert result.exit_code == 0
    assert result.stdout == f"7 objects in 3 {unit}\n"
    assert result.stderr == "left out: there.jpg: corrupt image\n"
    ((asked_kind, place, dtype, options),) = detected
    assert (asked_kind, place, dtype) == (kind, expected, torch.float32)
    assert options == {
        "drawings": out,
        "document": None,
        "batch_size": 2,
        "on_bad": "skip",
        "skip_existing": False,
        "score_threshold": 0.5,
    }


def test_detect_in_half_precision(detected):
    options = ("--json", "found.json", "--half", "--score", 0.25, "--on-bad", "raise")
    done("detect", "tiny-graffiti", "photographs", *options)
    ((_, _, dtype, options),) = detected
    assert dtype == torch.float16
    assert (options["document"], options["drawings"]) == ("found.json", None)
    assert (options["score_threshold"], options["on_bad"]) == (0.25, "raise")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "found"], "give either a SOURCE or --camera"),
        (["photographs", "--camera", 0, "--out", "found"], "give either a SOURCE or --camera"),
        (["photographs"], "give --out, --json or both"),
        (["photographs", "--out", "found", "--score", 50], "not in the range 0<=x<=1"),
        (["a.mp4", "--out", "b.mp4", "--skip-existing"], "--skip-existing is for images"),
        (
            ["a.mp4", "--out", "found"],
            "--out found: a video is drawn into a file that ends in .mp4",
        ),
        (
            ["a.mp4", "--json", "b.json"],
            "--json b.json: the detections of a video go into a .jsonl",
        ),
        (["--camera", 0, "--json", "b.json"], "--json b.json: the detections of a video go into"),
        (["here", "--json", "b.json", "--skip-existing"], "that --skip-existing continues go into"),
        (["a.jpg", "--out", "b.jpg"], "--out b.jpg: images are drawn into a folder, under their"),
        (["here", "--out", "b.mp4"], "--out b.mp4: images are drawn into a folder, under their"),
        (["here", "--out", __file__], "images are drawn into a folder, under their own names"),
        (["here", "--out", ""], "'' names no folder"),
    ],
)
def test_detect_must_know_from_where_to_where(detected, options, message):
    result = run("detect", "tiny-graffiti", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not detected


def test_detect_where_there_is_nothing(tmp_path):
    result = run("detect", "tiny-graffiti", tmp_path / "gone", "--out", tmp_path / "found")
    assert result.exit_code == 1
    assert "gone: no such file or folder" in result.stderr


@pytest.mark.parametrize("nms", [False, True])
def test_export_is_asked_of_the_package(monkeypatch, tmp_path, nms):
    calls = []
    monkeypatch.setattr(export, "export_onnx", lambda *call, nms: calls.append((*call, nms)))
    file = str(tmp_path / "tiny.onnx")
    result = run("export", "tiny-graffiti", "--out", file, *["--nms"][:nms])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"wrote {file}\n")
    ((model, path, whole),) = calls
    assert model.spec.architecture == "tiny_ssd"
    assert (path, whole) == (file, nms)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not the GNU C library")
def test_freed_memory_is_kept():
    code = """
import resource, sys
import numpy as np
from ssd_annotated.app.building import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(2):  # the second round is counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    faults = {
        word: int(subprocess.check_output([sys.executable, "-c", code, word], env=plain))
        for word in ("keep", "leave")
    }
    assert faults["keep"] < faults["leave"] / 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image-size", 0), "image_size in pixels must be at least 64, not 0"),
        (("--smallest", 0), "sizes must rise from above 0, not from 0.0"),
        (("--largest", 0), "to 0.0"),
    ],
)
def test_a_nought_is_not_the_default(digits, options, message):
    result = run("check", digits, "--model", "tiny", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_mistyped_folder_is_named(tmp_path):
    result = run("check", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path / 'nowhere'}: no such folder\n"
