"""What the options of a command stand for: data sets, models, priors, settings, a device."""

# Nothing heavy is imported at the top: see `arguments`.
import ctypes
import os
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

import ssd_annotated
from ssd_annotated.app.arguments import ARCHITECTURE, MODELS, Sets, usage_errors
from ssd_annotated.data.find import in_share


def say(words: str) -> None:
    """Print to stderr; of several processes that train together, the first one does."""
    from ssd_annotated.training.distributed import rank

    if rank() == 0:
        click.echo(words, err=True)


# --- Data -----------------------------------------------------------------------------------------


def open_data(sets: Sets, wanted: str, **options: object) -> object:
    """Open the data set that DATA arguments name; where they name no set, the one `wanted`."""
    from ssd_annotated.data import folder

    try:
        return folder.open_data(*sets, wanted=wanted, **options)
    except ValueError as error:
        # Class names can be given only in Python.
        advice = "annotate some, or choose a set that has some (ROOT:SET)"
        raise ValueError(str(error).replace("give class_names", advice)) from error


def open_sets(
    data: Sets, val: Sets, val_fraction: float | None, **options: str
) -> tuple[object, object | None]:
    """The data set to train on and, if one was asked for, the data set to validate on."""
    if val and val_fraction is not None:
        raise click.UsageError("give either --val or --val-fraction")
    dataset, validation = open_data(data, "train", **options), None
    if all(record.crowd.all() for record in dataset.records):
        raise click.UsageError(f"DATA: no object to train on in {len(dataset)} images")
    if val:
        validation = open_data(val, "val", class_names=dataset.class_names, **options)
        refuse_without_objects(validation, "--val")
    elif val_fraction is not None:
        dataset, validation = hold_back(dataset, val_fraction)
        refuse_without_objects(validation, "--val-fraction")
    return dataset, validation


def hold_back(dataset: object, fraction: float) -> tuple[object, object]:
    """All but a fraction of a data set's images, and that fraction: the images of ROOT:-0.1."""
    parts = [], []
    for record in dataset.records:
        parts[in_share(record.image.name, str(-fraction))].append(record)
    if not all(parts):
        raise click.UsageError(f"--val-fraction {fraction:g} leaves one side without images")
    rest, held = copy(dataset), copy(dataset)
    rest.records, held.records = parts
    held.understood, held.said, held.problems = [], [], []  # they are reported once
    return rest, held


def refuse_without_objects(dataset: object, what: str) -> None:
    """Refuse a set without objects, which has no mAP, before anything is computed."""
    if all(record.difficult.all() for record in dataset.records):
        raise click.UsageError(f"{what}: no object to find in {len(dataset)} images, so no mAP")


# --- A model that exists --------------------------------------------------------------------------


def open_model(name: str, device: str | None, half: bool = False) -> object:
    """Load the model of a file, or the one that ships with the package under this name."""
    from ssd_annotated.checkpoint import pretrained

    path = Path(name)
    is_path = path.exists() or path.suffix or path.name != name
    model = load_file(name) if is_path else pretrained(name)
    return (model.half() if half else model).to(choose_device(device))


def load_file(file: str) -> object:
    """Load the model of a file, ours or anybody's; whose it is goes to stderr."""
    from ssd_annotated.checkpoint import is_ours, model_of
    from ssd_annotated.support.storage import read_plain

    content = read_plain(file)
    if is_ours(content) or not isinstance(content, dict):  # the latter is an error
        return model_of(content, file)
    from ssd_annotated.published.weights import load_checkpoint  # imports torchvision, for seconds

    try:
        return load_checkpoint(content, say=lambda whose: say(f"{file}: {whose}"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


# --- Priors ---------------------------------------------------------------------------------------


def choose_priors(
    model: str, image_size: int | None, smallest: float | None = None, largest: float | None = None
) -> object:
    """The priors of an architecture, spread over other sizes if some are given."""
    import torch

    from ssd_annotated.priors import rescale_priors

    with usage_errors():
        with torch.device("meta"):  # a network without numbers, of which only the priors are wanted
            spec = build(model, image_size, 2).spec.priors
        if smallest is None and largest is None:
            return spec
        smallest = spec.square_sizes[0][0] if smallest is None else smallest
        largest = spec.square_sizes[-1][0] if largest is None else largest
        return rescale_priors(spec, smallest, largest)


def build(model: str, image_size: int | None, num_classes: int, **options: object) -> object:
    """Build what ``--model`` names, for images of this size or the usual one."""
    function, usual = MODELS[model]
    side = usual if image_size is None else image_size
    return getattr(ssd_annotated, function)(num_classes, image_size=side, **options)


def choose_specs(
    model: str, image_size: int | None, **sizes: float | None
) -> tuple[int, dict[int, object]]:
    """The side of an architecture's images, and the priors at this side and at larger ones."""
    side = MODELS[model][1] if image_size is None else image_size
    larger = [s for s in range(192, 641, 64) if s > side and model == "tiny"]
    specs = {side: choose_priors(model, side, **sizes)}
    return side, specs | {s: choose_priors(model, s) for s in larger}


def will_fit_priors(wanted: bool | None, settings: str, new: dict[str, object]) -> bool:
    """Whether to fit priors: if asked for, or for small objects if nothing else decides them."""
    sizes = new["smallest"] is not None or new["largest"] is not None
    determined = is_file(new["weights"])
    if wanted and sizes:
        raise click.UsageError("--fit-priors chooses --smallest and --largest: leave them out")
    if wanted and determined:
        raise click.UsageError("--fit-priors cannot be used: --weights determines the priors")
    if wanted is None:
        return settings == "small" and not sizes and not determined
    return wanted


def fitted_sizes(dataset: object, augmentation: object, **new: object) -> dict[str, float]:
    """The sizes of priors that fit a data set as its augmentation shows it, which are printed."""
    from ssd_annotated.data.fit import fit_priors, seen_targets

    spec = choose_priors(new["model"], new["image_size"])
    smallest, largest = fit_priors(spec, seen_targets(dataset, augmentation))
    say(f"priors: --smallest {smallest} --largest {largest}")
    return {"smallest": smallest, "largest": largest}


# --- A model to train, and how --------------------------------------------------------------------


def new_model(
    class_names: tuple[str, ...],
    weights: str | None,
    widths: tuple[int, ...] | None,
    model: str,
    fresh: bool = True,
    **sizes: float | None,
) -> object:
    """Build a model to train, with random weights, ImageNet's or those of a file.

    If it is not `fresh`, a run's weights are loaded later, so nothing is downloaded here.
    """
    if is_file(weights):
        return model_to_go_on_from(weights, class_names)
    options = {"class_names": class_names, "priors": choose_priors(model, **sizes)}
    if model == "tiny":
        if weights == "imagenet":
            raise click.UsageError("--weights imagenet is for --model ssd300, ssd512, ssdlite320")
        options |= {"widths": widths} if widths else {}
    elif widths:
        raise click.UsageError("--widths are for --model tiny")
    elif fresh and weights != "none":
        options["weights"] = "imagenet"
    with usage_errors():
        return build(model, sizes["image_size"], len(class_names), **options)


def model_to_go_on_from(file: str, class_names: tuple[str, ...]) -> object:
    """Load the model of a file; of other classes, those of the same name keep what was learned."""
    from ssd_annotated.training.transfer import start_from

    if not os.path.exists(file):  # Path("") would be this folder
        raise click.UsageError(f"--weights {file!r} is neither imagenet nor none, and no such file")
    context = click.get_current_context()
    for name in (*ARCHITECTURE, "widths"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} cannot be chosen: --weights {file} determines it")
    old = load_file(file)
    if old.recipe.class_names == class_names:
        return old
    known = set(old.recipe.class_names)
    for words, some in (("kept", known & set(class_names)), ("new", set(class_names) - known)):
        names = sorted(some - {"background"})
        say(f"{file}: classes {words}: {', '.join(names) or 'none'}")
    return start_from(old, class_names)


def is_file(weights: str | None) -> bool:
    """Whether ``--weights`` names a model's file."""
    return weights not in (None, "none", "imagenet")


def choose_settings(name: str, given: dict[str, object], weights: str | None = None) -> object:
    """The settings of this name, changed where an option was given.

    To go on from a trained model, a tenth of the learning rate is enough.
    """
    from ssd_annotated.training.settings import QUICK, SMALL, Settings

    base = {"paper": Settings(), "quick": QUICK, "small": SMALL}[name]
    base = replace(base, lr=base.lr / 10) if is_file(weights) else base
    with usage_errors():
        return replace(base, **{k: v for k, v in given.items() if v is not None})


def choose_augmentation(
    name: str | None, settings: str, mirror: bool, vertical_flip: bool
) -> object:
    """The augmentation of this name, with the flips that were asked for."""
    from ssd_annotated.data.augment import AUGMENTATIONS

    name = name or ("gentle" if settings == "small" else "caffe")
    changes = {} if mirror else {"flip_probability": 0.0}
    changes |= {"vertical_flip_probability": 0.5} if vertical_flip else {}
    return replace(AUGMENTATIONS[name], **changes)


# --- Outputs, and the machine ---------------------------------------------------------------------


def check_outputs(moving: bool, out: str | None, document: str | None, resume: bool) -> None:
    """Refuse outputs that do not fit images, or a video, before anything is computed."""
    from ssd_annotated.app.media import is_video
    from ssd_annotated.data.items import SUFFIXES

    if moving and resume:
        raise click.UsageError("--skip-existing is for images: a video is begun anew")
    if document and Path(document).suffix.lower() == ".json" and (moving or resume):
        reason = "of a video" if moving else "that --skip-existing continues"
        raise click.UsageError(f"--json {document}: the detections {reason} go into a .jsonl file")
    if moving and out and Path(out).suffix.lower() != ".mp4":
        raise click.UsageError(f"--out {out}: a video is drawn into a file that ends in .mp4")
    if moving or not out or Path(out).is_dir():
        return
    if Path(out).exists() or is_video(out) or Path(out).suffix.lower() in SUFFIXES:
        raise click.UsageError(
            f"--out {out}: images are drawn into a folder, under their own names"
        )


def choose_device(device: str | None) -> object:
    """The device that was asked for, or else a GPU, or else the CPU."""
    import torch

    from ssd_annotated.training.distributed import own_device

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = own_device(torch.device(name))  # to touch another's costs half a gigabyte there
        torch.zeros(1, device=place).item()  # PyTorch knows more names than devices
    except Exception as error:  # each kind of device raises its own
        reason = str(error).splitlines()[0]
        message = f"cannot compute on {name!r} ({torch.cuda.device_count()} GPUs here): {reason}"
        raise click.BadParameter(message, param_hint="--device") from error
    return place


def keep_freed_memory() -> None:
    """Let glibc keep the large blocks that every training step frees and allocates again.

    By default glibc returns them to the system, which fills new ones with zeros. On a CPU that
    takes two fifths of the time. With another C library this does nothing.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    trim_threshold, mmap_threshold = -1, -3  # as <malloc.h> numbers them
    if hasattr(libc, "mallopt"):
        for option in (trim_threshold, mmap_threshold):
            libc.mallopt(option, 2**31 - 1)
