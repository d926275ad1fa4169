"""No function makes a tensor on a device that its arguments do not lie on.

Under ``torch.device("meta")`` a tensor made without a device is meta, and meets no CPU tensor. So
every public function that takes or gives tensors is called with CPU tensors, or it is said why not.
"""

import copy
import importlib
import inspect
import pkgutil
import re
import signal
import tempfile
import types
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import vgg16
from voc_files import write_two

import ssd_annotated
from ssd_annotated import (
    boxes,
    checkpoint,
    coding,
    detection,
    loss,
    matching,
    model,
    nms,
    priors,
    transforms,
    vgg,
)
from ssd_annotated.app import detect as app_detect
from ssd_annotated.app import draw, figures, media, writers
from ssd_annotated.data import augment, fit, graffiti, survey, warp
from ssd_annotated.data import voc as voc_data
from ssd_annotated.drawing import plot
from ssd_annotated.evaluation import coco, mistakes, voc
from ssd_annotated.networks import ssdlite
from ssd_annotated.notebook import show
from ssd_annotated.published import conventions, layouts, weights
from ssd_annotated.support import candidates, storage
from ssd_annotated.training import (
    batches,
    distributed,
    run,
    rungs,
    settings,
    train,
    transfer,
    validation,
)

# --- What the functions are given: all of it lies on the CPU --------------------------------------

torch.manual_seed(0)
NAMES = ("background", *"abcde")
PRIORS = torch.rand(300, 4) * 0.4 + 0.3
BOXES = boxes.cxcywh_to_xyxy(torch.rand(300, 4) * 0.3 + 0.3)
TARGET = {"boxes": BOXES[:3], "labels": torch.tensor([1, 2, 1]), "difficult": torch.arange(3) == 2}
TARGETS = [TARGET, {"boxes": BOXES[:0], "labels": torch.zeros(0, dtype=torch.int64)}]
FOUND = nms.Detections(BOXES[1:5], torch.linspace(0.9, 0.6, 4), torch.tensor([1, 2, 1, 2]))
NOTHING = nms.Detections(*(field[:0] for field in FOUND))
JUDGED = ([FOUND, NOTHING], TARGETS, len(NAMES))
MEASURED = voc.evaluate(*JUDGED)
CURVE = MEASURED.curves[1]
MISTAKES = mistakes.find_mistakes(*JUDGED)
# So many candidates that torchvision goes class by class: for few, it makes a tensor itself.
PREDICTIONS = (torch.randn(2, 300, 4), torch.randn(2, 300, 9))
MODEL = model.tiny_ssd(len(NAMES), image_size=64, widths=(4,) * 6, class_names=NAMES).eval()
SPEC, RECIPE = MODEL.spec, MODEL.recipe
IMAGES = torch.rand(1, 3, 64, 64)
L2NORM, TRUNK = vgg.L2Norm(3), vgg.VGGTrunk()
MOBILE = ssdlite.mobilenet_v3_trunk(480).eval()
LOSSES = [
    loss.MultiBoxLoss(PRIORS, **options)
    for options in (
        {},
        {"localization": "l1", "method": "argmax"},
        {"confidence": "focal"},
        {"method": "forced", "normalize": "priors"},
        {"method": "first", "normalize": "images"},
    )
]
PHOTO = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
PLAN = augment.sample(np.random.default_rng(0), augment.Augmentation(), (40, 30), BOXES[:3], 64)
DIGITS = graffiti.GraffitiDigits("test", length=1, image_size=32)
FILE, FRAME = media.Photograph(Path("photo.png"), PHOTO), media.Frame(0, 0.0, PHOTO)
with torch.device("meta"):
    VGG16, SSD300 = vgg16().state_dict(), model.ssd300_vgg16().state_dict()


class Photographs(Dataset):
    """A photograph for each of the targets."""

    class_names = NAMES

    def __len__(self):
        return len(TARGETS)

    def __getitem__(self, index):
        return PHOTO, TARGETS[index]


DATA = Photographs()
SURVEY = survey.survey(DATA, PRIORS)


def rng():
    return np.random.default_rng(0)


def axes():
    return Figure().subplots()


def voc_folder():
    return voc_data.VOCFolder([(write_two(Path("voc")), "train")])


def zeros_like(tensor):
    """A tensor of the same shape, which takes almost no memory."""
    return torch.zeros(1, device="cpu").expand(tensor.shape)


def published(name):
    """A state under the names of a published layout."""
    layout = layouts.LAYOUTS[name]
    widths = {"torchvision-ssdlite": (480,), "d2l": (4,) * 6}.get(name, ())
    with torch.device("cpu"):
        state = weights._build(layout, 3, widths).state_dict()
    return {layout.original(ours): value for ours, value in state.items()}


def trainer(**changes):
    return train.Trainer(copy.deepcopy(MODEL), DATA, settings.Settings(2, 2, **changes))


def after_steps(trainer, steps=1):
    """All that a trainer holds after some steps."""
    for _ in range(steps):
        trainer.step()
    return trainer.model, trainer.state()


def reopened():
    """A trainer that was closed after a step, and continues."""
    one = trainer()
    one.step()
    one.close()
    return one


def restored(**settings):
    """A trainer that continues where another one was."""
    _, state = after_steps(trainer(**settings))
    second = trainer(**settings)
    second.restore(state)
    return second


def climb():
    """What a ladder says after a hundred steps."""
    ladder = rungs.Ladder(trainer())
    for step in range(100):
        ladder.add({"step": step, "confidence": 3.0}, None)
    return ladder.standing.loss


def train_copy(**settings):
    network = copy.deepcopy(MODEL)
    train.train(network, DATA, **settings)
    return network


def run_and_go_on():
    network, numbers = copy.deepcopy(MODEL), settings.Settings(1, 2)
    for resume in (False, True):
        options = {"validation": DATA, "resume": resume, "progress": False}
        run.run(network, DATA, "run", numbers, **options)
    return network


def saved(dtype=None):
    checkpoint.save_model(MODEL, "model.pt", dtype)
    return "model.pt"


def detect_in_files(function, source, drawings, document):
    """Detect in a file, with many unsure detections; draw them and write them down."""
    if source.endswith(".mp4"):
        write(writers.annotated_video(Path(source), None, NAMES), FRAME)
    else:
        writers.write_image(PHOTO, Path(source))
    outputs = {"drawings": drawings, "document": document, "progress": False}
    function(MODEL, source, score_threshold=0.01, **outputs)


def write(output, item):
    """Let one of `media`'s writers write what was found in an item."""
    with output as add:
        add(item, FOUND)


# --- The calls ------------------------------------------------------------------------------------

#: By the name of the function, and a word on which call it is where there are several.
CALLS = {
    "data.augment.without_crowds": lambda: augment.without_crowds(
        {**TARGET, "crowd": TARGET["difficult"]}
    ),
    "data.augment.sample": lambda: augment.sample(
        rng(), augment.Augmentation(), (40, 30), BOXES[:3], image_size=64
    ),
    "data.augment.Augmented.__getitem__": lambda: augment.Augmented(
        DATA, augment.Augmentation(), image_size=64
    )[0, 3],
    "boxes.xyxy_to_cxcywh": lambda: boxes.xyxy_to_cxcywh(BOXES),
    "boxes.cxcywh_to_xyxy": lambda: boxes.cxcywh_to_xyxy(PRIORS),
    "boxes.area": lambda: boxes.area(BOXES),
    "boxes.pairwise_iou": lambda: boxes.pairwise_iou(BOXES, BOXES),
    "boxes.paired_iou": lambda: boxes.paired_iou(BOXES, BOXES),
    "boxes.check_boxes": lambda: boxes.check_boxes(BOXES),
    "evaluation.coco.evaluate_coco": lambda: coco.evaluate_coco(
        [FOUND, NOTHING], TARGETS, [(30, 40)] * 2
    ),
    "coding.check_predictions": lambda: coding.check_predictions(*PREDICTIONS, len(PRIORS)),
    "coding.encode": lambda: coding.encode(BOXES, PRIORS),
    "coding.decode": lambda: coding.decode(BOXES, PRIORS),
    "published.conventions.Convention.make_loss": lambda: [
        convention.make_loss(PRIORS) for convention in conventions.CONVENTIONS.values()
    ],
    "data.folder.AnnotatedFolder.__getitem__": lambda: voc_folder()[0],
    "data.folder.AnnotatedFolder.target": lambda: voc_folder().target(1),
    "data.graffiti.GraffitiDigits.__getitem__": lambda: DIGITS[0],
    "data.graffiti.scene": lambda: graffiti.scene(rng(), "test", image_size=32),
    "data.graffiti.export_voc": lambda: graffiti.export_voc(DIGITS, "digits"),
    "data.survey.survey": lambda: survey.survey(DATA, PRIORS).shapes,
    "data.survey.Survey.objects": lambda: SURVEY.objects,
    "data.survey.Survey.sizes": lambda: SURVEY.sizes,
    "data.survey.Survey.ratios": lambda: SURVEY.ratios,
    "data.survey.read_targets": lambda: survey.read_targets(DATA),
    "data.survey.count_flags": lambda: survey.count_flags(TARGETS, "difficult"),
    "data.survey.uncovered_objects": lambda: survey.uncovered_objects(TARGETS, PRIORS),
    "data.survey.share_by_class": lambda: survey.share_by_class(
        TARGET["difficult"], TARGET["labels"], {1: "a"}
    ),
    "data.survey.quantiles": lambda: survey.quantiles(BOXES[:, 0]),
    "data.survey.survey_table": lambda: survey.survey_table(SURVEY),
    "data.survey.count_lines": lambda: survey.count_lines(SURVEY),
    "data.survey.quantile_lines": lambda: survey.quantile_lines(SURVEY),
    "data.survey.class_lines": lambda: survey.class_lines(SURVEY),
    "training.distributed.wrap": lambda: distributed.wrap(MODEL),
    "training.distributed.total": lambda: distributed.total(BOXES),
    "training.distributed.global_share": lambda: distributed.global_share(
        LOSSES[0](PREDICTIONS, TARGETS), "positives"
    ),
    "app.draw.draw_detections": lambda: draw.draw_detections(PHOTO, FOUND, NAMES),
    "app.draw.to_pixels": lambda: draw.to_pixels(FOUND, 40, 30),
    "evaluation.voc.check_evaluated": lambda: voc.check_evaluated(*JUDGED, 0.5),
    "evaluation.voc.evaluate": lambda: voc.evaluate(*JUDGED),
    "evaluation.voc.evaluate nothing": lambda: voc.evaluate([], [], num_classes=2),
    "evaluation.voc.average_precision": lambda: voc.average_precision(
        CURVE.recall, CURVE.precision
    ),
    "evaluation.voc.average_precision 11point": lambda: voc.average_precision(
        CURVE.recall, CURVE.precision, method="11point"
    ),
    "evaluation.voc.class_agnostic": lambda: voc.class_agnostic([FOUND], [TARGET]),
    "evaluation.voc.judge": lambda: voc.judge(FOUND, TARGET, 0.5),
    "evaluation.voc.judge nothing": lambda: voc.judge(FOUND, TARGETS[1], 0.5),
    "evaluation.voc.best_first": lambda: voc.best_first(FOUND),
    "evaluation.voc.is_difficult": lambda: [voc.is_difficult(target) for target in TARGETS],
    "evaluation.voc.best_f1": lambda: voc.best_f1(CURVE),
    "evaluation.voc.evaluation_table": lambda: voc.evaluation_table(MEASURED, NAMES),
    "data.fit.seen_targets": lambda: fit.seen_targets(voc_folder(), augment.Augmentation()),
    "data.fit.forecast": lambda: fit.forecast(TARGETS, SPEC.priors, 64),
    "data.fit.fit_priors": lambda: fit.fit_priors(SPEC.priors, TARGETS),
    "data.fit.forecast_table": lambda: fit.forecast_table({"": fit.Forecast(BOXES[:, 0], 0.5)}),
    "data.fit.outlook": lambda: fit.outlook(voc_folder(), 64, {64: SPEC.priors}),
    "app.figures.draw_worst": lambda: figures.draw_worst(*JUDGED[:2], DATA, "figure.png"),
    "training.rungs.find_rungs": lambda: rungs.find_rungs(torch.tensor([0, 2], device="cpu")),
    "training.rungs.Ladder.add": lambda: climb(),
    "training.transfer.start_from": lambda: (
        transfer.start_from(MODEL, NAMES[:3]).localization_heads
    ),
    "app.figures.draw_survey": lambda: figures.draw_survey(SURVEY, PRIORS, "figure.png"),
    "app.figures.draw_curves": lambda: figures.draw_curves(MEASURED, NAMES, "figure.png"),
    "app.figures.draw_gallery": lambda: figures.draw_gallery(MISTAKES, DATA, "figure.png", most=1),
    **{
        f"loss.MultiBoxLoss.forward {k}": lambda each=each: each(PREDICTIONS, TARGETS)
        for k, each in enumerate(LOSSES)
    },
    "loss.MultiBoxLoss.find_positives": lambda: LOSSES[1].find_positives(TARGETS, num_classes=9),
    "loss.check_targets": lambda: loss.check_targets(TARGETS, num_classes=3),
    "loss.assign_positives": lambda: loss.assign_positives(PRIORS, TARGETS),
    "loss.hardest_negatives": lambda: loss.hardest_negatives(BOXES[:, :2], [1] * 300),
    "matching.check_all_boxes": lambda: matching.check_all_boxes([BOXES[:3], BOXES[:0]]),
    "matching.find_positives": lambda: matching.find_positives(PRIORS, [BOXES[:3], BOXES[:0]]),
    "support.candidates.find_candidates": lambda: (
        candidates.find_candidates(PRIORS, [BOXES], 0.5).rows
    ),
    "loss.assign_targets": lambda: loss.assign_targets(PRIORS, TARGETS),
    "loss.mine_hard_negatives": lambda: loss.mine_hard_negatives(BOXES, BOXES > 0.7),
    "loss.smooth_l1": lambda: loss.smooth_l1(BOXES),
    "loss.focal_loss": lambda: loss.focal_loss(PREDICTIONS[1], PREDICTIONS[1].argmin(dim=2)),
    "matching.match_priors": lambda: matching.match_priors(PRIORS, BOXES[:3]),
    "matching.bipartite_match": lambda: matching.bipartite_match(BOXES[:3]),
    "app.writers.entry": lambda: [writers.entry(item, FOUND, NAMES) for item in (FILE, FRAME)],
    "app.writers.json_document": lambda: write(
        writers.json_document(Path("a.json"), {}, NAMES), FILE
    ),
    "app.writers.image_lines": lambda: write(writers.image_lines(Path("lines.jsonl"), NAMES), FILE),
    "app.writers.json_lines": lambda: write(writers.json_lines(Path("a.jsonl"), NAMES), FRAME),
    "app.writers.annotated_images": lambda: write(
        writers.annotated_images(Path("out"), NAMES), FILE
    ),
    "app.writers.annotated_video": lambda: write(
        writers.annotated_video(Path("a.mp4"), None, NAMES), FRAME
    ),
    "evaluation.mistakes.find_mistakes": lambda: mistakes.find_mistakes(*JUDGED),
    "model.SSD.forward": lambda: MODEL(IMAGES),
    "model.TinyTrunk.forward": lambda: MODEL.trunk(IMAGES),
    "model.channels_to_rows": lambda: model.channels_to_rows([IMAGES], 3),
    "checkpoint.uncompiled": lambda: checkpoint.uncompiled(MODEL),
    "checkpoint.save_model": saved,
    "checkpoint.save_model in half precision": lambda: saved(torch.float16),
    "checkpoint.describe": lambda: checkpoint.describe(MODEL),
    "support.storage.write_whole": lambda: storage.write_whole({"boxes": BOXES}, "boxes.pt"),
    "support.storage.read_plain": lambda: storage.read_plain(saved()),
    "checkpoint.model_of": lambda: checkpoint.model_of(storage.read_plain(saved()), "model.pt"),
    "checkpoint.is_ours": lambda: checkpoint.is_ours(storage.read_plain(saved())),
    "checkpoint.load_model": lambda: checkpoint.load_model(saved()),
    "checkpoint.pretrained": checkpoint.pretrained,
    "nms.postprocess": lambda: nms.postprocess(PREDICTIONS, PRIORS),
    "nms.postprocess of all": lambda: nms.postprocess(
        PREDICTIONS, PRIORS, 0.0, top_k=None, max_detections=None, max_log_size=4.0, clip=True
    ),
    "drawing.plot.draw_boxes": lambda: plot.draw_boxes(
        axes(), FOUND.boxes, "detection", FOUND.labels, FOUND.scores
    ),
    "drawing.plot.draw_targets": lambda: plot.draw_targets(axes(), TARGET, NAMES),
    "drawing.plot.draw_detections": lambda: plot.draw_detections(axes(), FOUND, NAMES),
    "drawing.plot.draw_priors": lambda: plot.draw_priors(axes(), PRIORS, "negative"),
    "drawing.plot.plot_heatmap": lambda: plot.plot_heatmap(axes(), BOXES[:2], "ab", "cdef"),
    "drawing.plot.plot_precision_recall": lambda: plot.plot_precision_recall(axes(), CURVE),
    "drawing.plot.plot_landscape": lambda: plot.plot_landscape(
        axes(), *PRIORS[:, :2].sort(dim=0).values[:4].T, BOXES[:4], "IoU"
    ),
    "drawing.plot.plot_shapes": lambda: plot.plot_shapes(axes(), SURVEY.shapes, PRIORS),
    "drawing.plot.draw_mistake": lambda: [
        plot.draw_mistake(axes(), PHOTO, each) for each in MISTAKES
    ],
    "detection.detect": lambda: detection.detect(MODEL, [PHOTO] * 3, batch_size=2),
    "detection.detect_stream": lambda: list(detection.detect_stream(MODEL, [PHOTO] * 3)),
    "app.detect.detect_images": lambda: detect_in_files(
        app_detect.detect_images, "photo.png", "drawings", "found.json"
    ),
    "app.detect.detect_video": lambda: detect_in_files(
        app_detect.detect_video, "film.mp4", "drawings.mp4", "found.jsonl"
    ),
    "training.run.run": run_and_go_on,
    "training.validation.detect_all": lambda: validation.detect_all(MODEL, DATA),
    "training.validation.validate": lambda: validation.validate(MODEL, DATA),
    "notebook.show.shape_table": lambda: show.shape_table(MODEL, IMAGES),
    "notebook.show.markdown_table": lambda: show.markdown_table([[BOXES[0], 1]], ("box", "number")),
    "notebook.show.check": lambda: show.check(BOXES[0], lambda: BOXES[0].tolist()),
    "training.train.train": lambda: train_copy(
        steps=1, batch_size=2, optimizer="sgd", progress=False
    ),
    "training.train.Trainer.step": lambda: after_steps(trainer(), steps=2),
    "training.train.Trainer.step frozen": lambda: after_steps(trainer(freeze_batch_norm=True)),
    "training.train.Trainer.step bfloat16": lambda: after_steps(
        trainer(precision="bfloat16", clip_norm=1)
    ),
    "training.train.Trainer.step float16": lambda: after_steps(
        trainer(precision="float16", clip_norm=1)
    ),
    "training.train.Trainer.wait": lambda: after_steps(trainer())[1] and trainer().wait(),
    "training.train.Trainer.close": lambda: after_steps(reopened()),
    "training.train.Record.__getitem__": lambda: trainer().step()["confidence"],
    "training.train.Trainer.state": lambda: trainer().state(),
    "training.train.Trainer.restore": lambda: after_steps(restored(precision="float16")),
    "training.settings.make_optimizer": lambda: settings.make_optimizer(
        MODEL, settings.Settings()
    ).state_dict(),
    "training.batches.make_loader": lambda: list(
        batches.make_loader(DATA, MODEL, LOSSES[0], settings.Settings(2, 2), 0)
    ),
    "training.batches.start": lambda: next(
        batches.start(batches.make_loader(DATA, MODEL, LOSSES[0], settings.Settings(2, 2), 0))
    ),
    "transforms.prepare": lambda: transforms.prepare(PHOTO, RECIPE),
    "transforms.collate": lambda: transforms.collate([DATA[0], DATA[1]], RECIPE),
    "networks.ssdlite.TwoMaps.forward": lambda: MOBILE(IMAGES),
    "vgg.L2Norm.forward": lambda: L2NORM(IMAGES),
    "vgg.VGGTrunk.forward": lambda: TRUNK(IMAGES[..., :32, :32]),
    "vgg.xavier_init": lambda: vgg.xavier_init(copy.deepcopy(MODEL)),
    "vgg.fc_to_conv": lambda: vgg.fc_to_conv(BOXES, channels=1),
    "vgg.decimate": lambda: vgg.decimate(BOXES, (3, 2)),
    "vgg.reduce_vgg16": lambda: vgg.reduce_vgg16({k: zeros_like(v) for k, v in VGG16.items()}),
    "data.warp.apply": lambda: warp.apply(PHOTO, TARGET, PLAN),
    "data.warp.move": lambda: warp.move(TARGET, PLAN.geometry),
    "data.warp.check_fractions": lambda: warp.check_fractions(BOXES),
}

#: These make a network or priors from nothing, so on torch's default device.
FACTORIES = {
    "model.tiny_ssd": lambda: model.tiny_ssd(image_size=64),
    "model.ssd300_vgg16": model.ssd300_vgg16,
    "model.ssd512_vgg16": model.ssd512_vgg16,
    "model.build": lambda: model.build(SPEC, RECIPE),
    "model.down_block": lambda: model.down_block(3, 4),
    "model.extra_block": lambda: model.extra_block(4, 2, 4, kernel=3, stride=2, padding=1),
    "priors.make_priors": lambda: priors.make_priors(SPEC.priors),
    "vgg.vgg16_features": vgg.vgg16_features,
    "model.conv3x3": lambda: model.conv3x3(3, 4),
    "networks.ssdlite.ssdlite320_mobilenet_v3_large": ssdlite.ssdlite320_mobilenet_v3_large,
    "networks.ssdlite.mobilenet_v3_trunk": lambda: ssdlite.mobilenet_v3_trunk(480),
    "networks.ssdlite.separable_head": lambda: ssdlite.separable_head(3, 4),
    "published.weights.load_torchvision_ssd300": lambda: weights.load_torchvision_ssd300(
        published("torchvision")
    ),
    "published.weights.load_torchvision_ssdlite320": lambda: weights.load_torchvision_ssdlite320(
        published("torchvision-ssdlite")
    ),
    "published.weights.load_ssd_pytorch": lambda: weights.load_ssd_pytorch(
        published("ssd.pytorch")
    ),
    "published.weights.load_lufficc": lambda: weights.load_lufficc(published("lufficc")),
    "published.weights.load_qfgaohao": lambda: weights.load_qfgaohao(published("mb2-ssd-lite")),
    "published.weights.load_nvidia": lambda: weights.load_nvidia(published("nvidia")),
    "published.weights.load_d2l": lambda: weights.load_d2l(published("d2l")),
    "published.weights.load_sgrvinod": lambda: weights.load_sgrvinod(published("sgrvinod")),
    "published.weights.load_checkpoint": lambda: weights.load_checkpoint(
        published("sgrvinod"), say=str
    ),
}

#: Functions, or all of a module's, that are not called, and why.
NOT_CALLED = {
    "app.arguments": "strings come in, and what is done with them is done by functions above",
    "app.building": "the same",
    "app.reports": "the same",
    "app.cli": "the same",
    "app.around": "names of ONNX's values, and numbers",
    "app.detect.Job.recipe_for": "strings and numbers",
    "support.checks": "numbers and names",
    "data.entries": "from JSON to numbers; `AnnotatedFolder` makes the tensors",
    "model.register_architecture": "keeps a function under a name",
    "data.coco": "from JSON to NumPy; `AnnotatedFolder` makes the tensors",
    "app.export": "takes seconds, with a copy that it moves to the CPU",
    "model.evaluating": "sets modes; `detect` enters it",
    "support.storage.plain": "from NumPy's numbers to Python's",
    "training.train.Record.read": "to Python's numbers; `train` reads every record",
    "drawing.plot.legend_of_kinds": "strings and numbers",
    "detection.changed": "strings and numbers",
    "app.writers.describe": "strings and numbers",
    "support.downloads.pretrained_state": "downloads a file",
    "published.layouts": "names",
    "vgg.load_imagenet": "downloads half a gigabyte; `reduce_vgg16` does its arithmetic",
}


def tensors(thing):
    """All the tensors that a result holds, and its numbers as such."""
    if isinstance(thing, torch.Tensor | float):
        return [torch.as_tensor(thing)]
    if isinstance(thing, nn.Module):
        return [*thing.parameters(), *thing.buffers()]
    parts = thing.values() if isinstance(thing, dict) else thing
    inside = parts if isinstance(thing, dict | list | tuple) else ()
    return [tensor for part in inside for tensor in tensors(part)]


class Loader(DataLoader):
    """torch's own, which draws a seed in a tensor without a device."""

    def __iter__(self):
        with torch.device("cpu"):
            return super().__iter__()


@pytest.mark.parametrize("name", CALLS)
def test_no_tensor_comes_from_elsewhere(name, tmp_path, monkeypatch):
    for module in (batches, validation):
        monkeypatch.setattr(module, "DataLoader", Loader)
    with chdir(tmp_path), torch.device("meta"):
        result = CALLS[name]()
    result = tensors(result)
    assert all(tensor.device.type == "cpu" for tensor in result)
    if result:  # One rule has a gap: the value at a meta index can be anything.
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            torch.testing.assert_close(result, tensors(CALLS[name]()), equal_nan=True)


def test_answers_are_right_wherever_tensors_are_made(capsys):
    with torch.device("meta"):
        show.check(BOXES[0], BOXES[0].tolist())
    assert capsys.readouterr().out == "Right.\n"


SHOWING = ("evaluation.", "drawing.", "notebook.", "data.warp.")


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith(SHOWING)])
def test_numpy_is_not_handed_what_may_lie_on_a_gpu(name, monkeypatch):
    take = torch.Tensor.numpy

    def numpy(tensor, *_, force=False):
        if not force:
            raise TypeError("NumPy reads no GPU's memory")
        return take(tensor, force=True)

    monkeypatch.setattr(torch.Tensor, "numpy", numpy)
    monkeypatch.setattr(torch.Tensor, "__array__", numpy)
    CALLS[name]()


def test_whether_to_stop_is_asked_of_no_other_device():
    with torch.device("meta"):  # which has no answers
        assert not run._anyone_stopped([])
        assert run._anyone_stopped([signal.SIGTERM])


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("name", FACTORIES)
def test_what_is_made_of_nothing_is_made_where_torch_would(name):
    with torch.device("meta"):
        result = FACTORIES[name]()
    assert {tensor.device.type for tensor in tensors(result)} == {"meta"}


def test_the_check_can_fail():
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta"):
        torch.maximum(BOXES, torch.ones(4))


# --- Nothing is forgotten -------------------------------------------------------------------------

#: What may hold a tensor, as a signature says it.
HOLDERS = re.compile(
    "Tensor|Module|Sequential|Trunk|Optimizer|Dataset|DataLoader|GraffitiDigits|SSD|Loss|Trainer|"
    r"Predictions|Detections|PrecisionRecall|Evaluation|Survey|\bobject\b"
)


def functions(module):
    """The public functions and methods of a module by their names, with their signatures."""
    short = module.__name__.removeprefix("ssd_annotated.")
    own = [t for t in vars(module).values() if getattr(t, "__module__", None) == module.__name__]
    found = {}
    for thing in own:
        if inspect.isclass(thing):
            made = str(inspect.signature(thing.__init__))
            for name, its in vars(thing).items():
                its = its.fget if isinstance(its, property) else its
                if inspect.isfunction(its):
                    signature = made + str(inspect.signature(its))
                    found[f"{short}.{thing.__name__}.{name}"] = signature
        elif inspect.isfunction(inspect.unwrap(thing)):
            found[f"{short}.{thing.__name__}"] = str(inspect.signature(thing))
    private = re.compile(r"\._(?!_getitem__$)")
    return {name: text for name, text in found.items() if not private.search(name)}


def with_tensors(found):
    return {name for name, signature in found.items() if HOLDERS.search(signature)}


def test_every_function_with_tensors_is_called_or_excused():
    names = [info.name for info in pkgutil.walk_packages(ssd_annotated.__path__, "ssd_annotated.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    there = {name: text for module in modules for name, text in functions(module).items()}
    called = {name.partition(" ")[0] for name in CALLS | FACTORIES}
    excused = {name for name in there for e in NOT_CALLED if f"{name}.".startswith(f"{e}.")}
    assert with_tensors(there) - called - excused == set(), "neither called nor excused"
    assert called - there.keys() == set(), "called here, and gone"
    assert called & excused == set(), "called, and excused"
    places = {module.__name__.removeprefix("ssd_annotated.") for module in modules}
    assert NOT_CALLED.keys() - there.keys() - places == set(), "excused, and gone"


def test_a_function_with_tensors_is_seen():
    module = types.ModuleType("ssd_annotated.new")
    source = """
class Net:
    def __init__(self, model: 'SSD'): ...
    def forward(self): ...
    def _hidden(self): ...
def double(boxes: 'Tensor'): ...
def count(number: int): ...
def _hidden(boxes: 'Tensor'): ...
"""
    exec(source, vars(module))
    assert functions(module).keys() == {"new.Net.forward", "new.double", "new.count"}
    assert with_tensors(functions(module)) == {"new.Net.forward", "new.double"}
