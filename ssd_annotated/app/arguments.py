"""The command line's arguments and options, and the objects that they stand for."""

# Nothing heavy is imported at the top, so that `ssd-annotated --help` answers at once. That is why
# the types of torch and of the package are written as `object`.
import ctypes
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cache, partial, reduce
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_type_hints

import click
from click.core import ParameterSource

from ssd_annotated.data.find import in_share, split_data

Sets = Sequence[tuple[str, str | None]]  # what DATA arguments name
#: What ``--model`` names: the package's function that builds it, and the usual side of its images.
MODELS = {
    "tiny": ("tiny_ssd", 256),
    "ssd300": ("ssd300_vgg16", 300),
    "ssd512": ("ssd512_vgg16", 512),
    "ssdlite320": ("ssdlite320_mobilenet_v3_large", 320),
}
#: The fields of `Settings` that can be given to `train`.
SETTINGS = {
    "steps": "Training steps, with one batch each.",
    "batch_size": "Images in a batch; several processes share a batch.",
    "optimizer": "Algorithm that updates the weights.",
    "lr": "Peak learning rate.",
    "schedule": "Divide the rate by ten after 2/3 and 5/6 of the steps, or use one cycle.",
    "warmup": "Steps in which the rate rises to its peak; at most a tenth of all.",
    "weight_decay": "Weight decay of everything but the biases.",
    "bias_lr_factor": "Learning rate of the biases, as a multiple of the rate.",
    "bias_weight_decay": "Weight decay of the biases.",
    "clip_norm": "Clip the gradient to this norm.",
    "precision": "Precision of the network; the loss is computed in float32.",
    "freeze_batch_norm": "Do not update the statistics of batch normalisation.",
    "freeze": "Part of the network that stays as it is, its statistics included.",
    "compile": "Compile the network: it starts more slowly and trains faster.",
    "workers": "Processes that load images; with 0 the main process loads them.",
    "seed": "Seed of the initial weights, the images' order and their augmentation.",
}


# --- Parsing --------------------------------------------------------------------------------------


class Data(click.ParamType):
    """``ROOT``, ``ROOT:SET`` or ``IMAGES:ANNOTATIONS.json``, as a pair; the second may be None."""

    name = "data"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str | None]:
        """Split at the last colon that is not a Windows drive's."""
        if isinstance(value, tuple):
            return value
        try:
            return split_data(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class KeyOf(click.Choice):
    """A key of one of the package's tables; the table is imported when it is needed."""

    def __init__(self, module: str, table: str) -> None:
        self.module, self.table = module, table
        self.case_sensitive = True

    @property
    def choices(self) -> tuple[str, ...]:
        """The keys."""
        return tuple(getattr(import_module(f"ssd_annotated.{self.module}"), self.table))


class FromSettings(click.Command):
    """A command with an option for each field in `SETTINGS`; the defaults are the fields' own."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters, then the fields, ``--help`` last."""
        *own, help_option = super().get_params(ctx)
        return [*own, *_settings_options(), help_option]


@cache
def _settings_options() -> list[click.Option]:
    from ssd_annotated.training.settings import Settings

    types, paper = get_type_hints(Settings), Settings()
    return [_settings_option(name, types[name], getattr(paper, name)) for name in SETTINGS]


def _settings_option(name: str, kind: object, default: object) -> click.Option:
    """The option of a field; its value is None if it is not given: then ``--settings`` decides."""
    flag, help_ = f"--{name.replace('_', '-')}", SETTINGS[name]
    if kind is bool:
        return click.Option([flag], is_flag=True, default=None, help=help_)
    choices = [choice for choice in get_args(kind) if isinstance(choice, str)]
    type_ = click.Choice(choices) if choices else int if kind is int else float
    shown = "none" if default is None else default
    return click.Option([flag], type=type_, help=f"{help_}  [default: {shown}]")


class FileOf(click.Path):
    """A file to write; any other suffix is refused before anything is computed."""

    def __init__(self, *suffixes: str) -> None:
        super().__init__(dir_okay=False)
        self.suffixes = suffixes

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The file itself."""
        if Path(value).suffix.lower() not in self.suffixes:
            self.fail(f"{value!r} does not end in {' or '.join(self.suffixes)}", param, ctx)
        return super().convert(value, param, ctx)


class Share(click.FloatRange):
    """A number between 0 and 1; NaN, which click lets through, is refused."""

    def __init__(self, **ends: bool) -> None:
        super().__init__(0, 1, **ends)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number itself."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"nan is not in the range {self._describe_range()}.", param, ctx)
        return number


def missing_for_figures() -> list[str]:
    """The packages that figures need and that are not installed."""
    return [name for name in ("matplotlib", "seaborn") if find_spec(name) is None]


def drawable(_context: click.Context, _option: click.Option, file: str | None) -> str | None:
    """Refuse a figure before anything is computed if what draws it is missing."""
    missing = missing_for_figures()
    if file is not None and missing:
        raise ImportError(f"figures need {missing[0]}: pip install 'ssd-annotated[plot]'")
    return file


@contextmanager
def usage_errors() -> Iterator[None]:
    """Report the package's ValueErrors as errors in the command, with exit status 2."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def out_option(help_: str, type_: click.ParamType) -> Callable:
    """``--out``, where a command writes; every command that must write has this option."""
    return click.option("--out", required=True, type=type_, help=help_)


data_argument = click.argument("data", nargs=-1, required=True, type=Data(), metavar="DATA...")
model_argument = click.argument("model", metavar="MODEL")
figure_options = {"type": FileOf(".pdf", ".png", ".svg"), "callback": drawable}
on_bad_option = click.option(
    "--on-bad",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="Stop at the first bad file or object, or leave it out and report it.",
)
crowds_option = click.option(
    "--crowds",
    type=click.Choice(["ignore", "keep"]),
    default="ignore",
    show_default=True,
    help="Boxes around groups of objects (COCO's format only): leave them out of training and "
    "ignore them in evaluation, as COCO does, or keep them as ordinary objects.",
)
device_option = click.option(
    "--device", help="cpu, cuda, cuda:1, mps, ...  [default: cuda if there is a GPU, else cpu]"
)
batch_option = click.option(
    "--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images in a batch."
)
ARCHITECTURE = {
    "model": click.option(
        "--model",
        type=click.Choice(list(MODELS)),
        default="ssd300",
        show_default=True,
        help="TinySSD, the paper's SSD300 or SSD512 on VGG-16, or SSDLite on MobileNetV3.",
    ),
    "image_size": click.option(
        "--image-size",
        type=int,
        help="Side of the network's images in pixels.  [default: 256, 300, 512, 320]",
    ),
    "smallest": click.option(
        "--smallest", type=float, help="Size of the smallest priors, as a fraction of the image's."
    ),
    "largest": click.option(
        "--largest", type=float, help="Size of the largest; the sizes between are spread evenly."
    ),
}


def architecture_options(command: Callable) -> Callable:
    """Add the options in `ARCHITECTURE`."""
    return reduce(lambda it, add: add(it), reversed(ARCHITECTURE.values()), command)


# --- Opening and building ---------------------------------------------------------------------


def open_data(
    sets: Sets,
    image_set: str,
    on_bad: str,
    class_names: tuple[str, ...] | None = None,
    crowds: str = "ignore",
) -> object:
    """Open the data set that DATA arguments name; where they name no set, `image_set`."""
    from ssd_annotated.data import opening

    options = {"class_names": class_names, "on_bad": on_bad, "crowds": crowds}
    try:
        return opening.open_data(*sets, wanted=image_set, **options)
    except ValueError as error:
        # Class names can be given only in Python.
        advice = "annotate some, or choose a set that has some (ROOT:SET)"
        raise ValueError(str(error).replace("give class_names", advice)) from error


def open_sets(
    data: Sets, val: Sets, fraction: float | None, on_bad: str, crowds: str
) -> tuple[object, object | None]:
    """The data set to train on, and the one to validate on: of its own, a fraction, or None.

    A fraction is always of the same images, as ROOT:-0.1 is.
    """
    dataset = open_data(data, "train", on_bad, crowds=crowds)
    if fraction is None:
        names = dataset.class_names
        validation = open_data(val, "val", on_bad, names, crowds) if val else None
    elif val:
        raise click.UsageError("give either --val or --val-fraction")
    else:
        dataset, validation = hold_back(dataset, fraction)
    if validation is not None:
        refuse_without_objects(validation, "--val-fraction" if fraction else "--val")
    return dataset, validation


def hold_back(dataset: object, fraction: float) -> tuple[object, object]:
    """All but a fraction of a data set's images, and that fraction."""
    parts = [], []
    for record in dataset.records:
        parts[in_share(record.image.name, str(-fraction))].append(record)
    if not all(parts):
        raise click.UsageError(f"--val-fraction {fraction:g} leaves one side without images")
    rest, held = copy(dataset), copy(dataset)
    rest.records, held.records = parts
    held.problems = []  # these and the notes on the folder are reported once
    held.tell([], [])
    return rest, held


def refuse_without_objects(dataset: object, what: str) -> None:
    """Refuse a set without objects, which has no mAP, before anything is computed."""
    difficult = [dataset.target(index)["difficult"] for index in range(len(dataset))]
    if all(flags.all() for flags in difficult):
        raise click.UsageError(f"{what}: no object to find in {len(dataset)} images, so no mAP")


def open_model(name: str, device: str | None, half: bool = False) -> object:
    """Load the model of a file, or the one that ships with the package under this name."""
    from_file = Path(name).exists() or Path(name).suffix or Path(name).name != name
    if from_file:
        model = load_file(name)
    else:
        from ssd_annotated.checkpoint import pretrained

        model = pretrained(name)
    return (model.half() if half else model).to(choose_device(device))


def load_file(file: str) -> object:
    """Load the model of a file, ours or anybody's; whose it is goes to stderr."""
    from ssd_annotated.checkpoint import is_ours, model_of
    from ssd_annotated.support.storage import read_plain

    content = read_plain(file)
    if is_ours(content):
        return model_of(content, file)
    from ssd_annotated.published.weights import load_checkpoint  # imports torchvision, for seconds

    return load_checkpoint(content, say=lambda whose: click.echo(f"{file}: {whose}", err=True))


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


def choose_settings(name: str, given: dict[str, object], weights: str | None = None) -> object:
    """The settings of this name, changed where an option was given.

    For who goes on from a model, a tenth of the learning rate is enough.
    """
    from ssd_annotated.training.settings import QUICK, SMALL, Settings

    base = {"paper": Settings(), "quick": QUICK, "small": SMALL}[name]
    base = replace(base, lr=base.lr / 10) if is_file(weights) else base
    with usage_errors():
        return replace(base, **{k: v for k, v in given.items() if v is not None})


def is_file(weights: str | None) -> bool:
    """Whether ``--weights`` names a model's file."""
    return weights not in (None, "none", "imagenet")


def choose_augmentation(
    name: str | None, settings: str, mirror: bool, vertical_flip: bool
) -> object:
    """The augmentation of this name, without its mirror or upside down if so wished."""
    from ssd_annotated.data.augment import AUGMENTATIONS

    name = name or ("gentle" if settings == "small" else "caffe")
    changes = {} if mirror else {"flip_probability": 0.0}
    changes |= {"vertical_flip_probability": 0.5} if vertical_flip else {}
    return replace(AUGMENTATIONS[name], **changes)


def choose_priors(
    model: str, image_size: int | None, smallest: float | None, largest: float | None
) -> object:
    """The priors of an architecture, spread over other sizes if some are given."""
    import torch

    from ssd_annotated.priors import rescale_priors

    with usage_errors():
        with torch.device("meta"):  # a network without numbers, of which only the priors are wanted
            spec = builder(model, image_size)(2).spec.priors
        if smallest is None and largest is None:
            return spec
        first, last = spec.square_sizes[0][0], spec.square_sizes[-1][0]
        return rescale_priors(
            spec, first if smallest is None else smallest, last if largest is None else largest
        )


def builder(model: str, image_size: int | None) -> Callable:
    """The function that builds what ``--model`` names, for images of this size or the usual one."""
    name, side = MODELS[model]
    return partial(
        getattr(import_module("ssd_annotated"), name),
        image_size=side if image_size is None else image_size,
    )


def choose_specs(
    model: str, image_size: int | None, **sizes: float | None
) -> tuple[int, dict[int, object]]:
    """The side of an architecture's images, and the priors at this side and at larger ones."""
    spec = choose_priors(model, image_size, **sizes)
    side = MODELS[model][1] if image_size is None else image_size
    larger = [s for s in range(192, 641, 64) if s > side and model == "tiny"]
    return side, {side: spec, **{s: choose_priors(model, s, None, None) for s in larger}}


def will_fit_priors(wanted: bool | None, settings: str, new: dict[str, object]) -> bool:
    """Whether to fit priors: if asked for, or for small objects if nothing else decides them."""
    sizes = new["smallest"] is not None or new["largest"] is not None
    if wanted and sizes:
        raise click.UsageError("--fit-priors chooses --smallest and --largest: leave them out")
    if wanted and is_file(new["weights"]):
        raise click.UsageError("--fit-priors cannot be used: --weights determines the priors")
    return (
        settings == "small" and not (sizes or is_file(new["weights"])) if wanted is None else wanted
    )


def fitted_sizes(
    dataset: object, augmentation: object, say: bool, **new: object
) -> dict[str, float]:
    """The sizes of priors that fit a data set as its augmentation shows it; said if so wished."""
    from ssd_annotated.data.fit import fit_priors, seen_targets

    spec = choose_priors(new["model"], new["image_size"], None, None)
    smallest, largest = fit_priors(spec, seen_targets(dataset, augmentation))
    if say:
        click.echo(f"priors: --smallest {smallest} --largest {largest}", err=True)
    return {"smallest": smallest, "largest": largest}


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
        return builder(model, sizes["image_size"])(len(class_names), **options)


def model_to_go_on_from(file: str, class_names: tuple[str, ...]) -> object:
    """Load the model of a file; of other classes, those of the same name keep what was learned."""
    from ssd_annotated.training.transfer import start_from

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
        click.echo(f"{file}: classes {words}: {', '.join(names) or 'none'}", err=True)
    return start_from(old, class_names)
