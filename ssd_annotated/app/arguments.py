"""The command line's arguments and options; `building` makes of them what they stand for."""

# Nothing heavy is imported at the top, so that `ssd-annotated --help` answers at once. That is why
# the types of torch and of the package are written as `object`.
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, reduce
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_type_hints

import click

from ssd_annotated.data.find import split_data

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
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str | None]:
        """Split at the last colon that is not a Windows drive's."""
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
        from ssd_annotated.training.settings import Settings

        types, paper = get_type_hints(Settings), Settings()
        fields = [_settings_option(name, types[name], getattr(paper, name)) for name in SETTINGS]
        *own, help_option = super().get_params(ctx)
        return [*own, *fields, help_option]


@cache  # click asks several times and compares what it gets
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


def number(_context: click.Context, option: click.Option, value: float | None) -> float | None:
    """Refuse NaN, which click takes to lie in every range."""
    if value is not None and math.isnan(value):
        raise click.BadParameter(f"nan is not in the range {option.type._describe_range()}.")
    return value


def named(_context: click.Context, _option: click.Option, folder: str | None) -> str | None:
    """Refuse "", which click takes for the folder that the user is in."""
    if folder == "":
        raise click.BadParameter("'' names no folder")
    return folder


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


# --- Options that several commands have -----------------------------------------------------------


data_argument = click.argument("data", nargs=-1, required=True, type=Data(), metavar="DATA...")
model_argument = click.argument("model", metavar="MODEL")
folder_options = {"type": click.Path(file_okay=False), "callback": named, "required": True}
figure_options = {"type": FileOf(".pdf", ".png", ".svg"), "callback": drawable}
on_bad_option = click.option(
    "--on-bad",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    help="Stop at the first bad file or object, or leave it out and report it.",
)
crowds_option = click.option(
    "--crowds",
    type=click.Choice(["ignore", "keep"]),
    default="ignore",
    help="Boxes around groups of objects (COCO's format only): leave them out of training and "
    "ignore them in evaluation, as COCO does, or keep them as ordinary objects.",
)
device_option = click.option(
    "--device", help="cpu, cuda, cuda:1, mps, ...  [default: cuda if there is a GPU, else cpu]"
)
batch_option = click.option(
    "--batch-size", type=click.IntRange(1), default=8, help="Images in a batch."
)
ARCHITECTURE = {
    "model": click.option(
        "--model",
        type=click.Choice(list(MODELS)),
        default="ssd300",
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
