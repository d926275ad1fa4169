"""The command line: parse, call the package, print. The work is done elsewhere.

Results go to stdout, progress and messages to stderr. The exit status is 0 if all went well, 1 if
the run failed for a reason in the data or the files, 2 if the command was wrong, 130 after Ctrl-C.
"""

# Nothing heavy is imported at the top, so that `ssd-annotated --help` answers at once.
import io
import sys
from pathlib import Path

import click

from ssd_annotated import __version__
from ssd_annotated.app import building, reports
from ssd_annotated.app.arguments import (
    ARCHITECTURE,
    SETTINGS,
    Data,
    FileOf,
    FromSettings,
    KeyOf,
    Sets,
    architecture_options,
    batch_option,
    crowds_option,
    data_argument,
    device_option,
    figure_options,
    folder_options,
    model_argument,
    named,
    number,
    on_bad_option,
    usage_errors,
)
from ssd_annotated.support.extras import need

SCENES = click.IntRange(max=999_999)  # their names have six digits
CHANNELS = click.IntRange(max=65_536)  # more are a slip of the hand
#: In errors of PyTorch and OpenCV that are no bugs: memory that is full, a worker that was killed.
MENDABLE = (
    "out of memory",
    "t allocate memory",
    "not enough memory",
    "Insufficient memory",
    "DataLoader worker",
)
#: All sets that PASCAL VOC has published with their annotations.
ARCHIVES = ("2007:trainval", "2012:trainval", "2007:test")


# --- How it fails ---------------------------------------------------------------------------------


class Commands(click.Group):
    """A group of commands that turns the package's errors into messages and exit statuses."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `ssd-annotated check ... | head` closed the pipe
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except Exception as error:
            if ctx.params["traceback"] or not _can_be_mended(error):
                raise
            click.echo(f"error: {_message(error)}", err=True)
            ctx.exit(1)


def _can_be_mended(error: Exception) -> bool:
    """Whether users can do something about an error, as about full memory or a killed worker."""
    kinds = ValueError, OSError, FloatingPointError, ImportError, MemoryError
    return isinstance(error, kinds) or any(part in str(error) for part in MENDABLE)


def _message(error: Exception) -> str:
    """The message of an error, without the system's error number or a worker's traceback."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".removesuffix(": ")
    text = str(error)
    if "Original Traceback" in text:  # its last line: "ValueError: cell.jpg: corrupt image"
        return text.splitlines()[-1].partition(": ")[2]
    return text


# --- The commands ---------------------------------------------------------------------------------


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(__version__, package_name="ssd-annotated")
@click.option("--traceback", is_flag=True, help="Show where an error came from, for developers.")
def main(traceback: bool) -> None:  # noqa: ARG001 (read by `Commands.invoke`)
    """Train, measure and use SSD, the Single Shot MultiBox Detector.

    \b
    Try it without data of your own:
      ssd-annotated graffiti --out digits
      ssd-annotated check digits --model tiny --image-size 128
      ssd-annotated train digits --model tiny --image-size 128 --settings quick --out run
      ssd-annotated evaluate run/last.pt digits
      ssd-annotated detect run/last.pt digits/JPEGImages --out found

    DATA is a folder of images with their annotations, ROOT or ROOT:SET; several are joined. The
    folder may have the layout of PASCAL VOC, where SET is a file ROOT/ImageSets/Main/SET.txt. It
    may hold one .xml for each image, beside the image or in a folder such as annotations. It may
    hold COCO's JSON (IMAGES:ANNOTATIONS.json names the file), or folders train, valid and test of
    either kind. If there are no sets, ROOT:0.9 takes nine tenths of the images, always the same
    ones, and ROOT:-0.1 takes the rest; ROOT:all takes everything. ROOT:SET:0.9 is a share of a
    set. `check` says how a folder is understood.

    MODEL is a file, such as best.pt of a run or a published checkpoint, or "tiny-graffiti", which
    ships with the package.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # must not fail where "×" cannot be shown
            stream.reconfigure(errors="replace")


@main.command()
@click.option("--out", **folder_options, help="Folder of the data set.")
@click.option("--train", type=SCENES, default=1000, help="Number of training scenes.")
@click.option("--test", type=SCENES, default=200, help="Number of test scenes.")
@click.option(
    "--variant",
    type=KeyOf("data.layout", "VARIANTS"),
    default="standard",
    help="How large and how crowded the digits are.",
)
@click.option("--image-size", default=128, help="Side of an image in pixels.")
@click.option("--seed", default=0, help="Another seed gives other scenes.")
def graffiti(out: str, train: int, test: int, variant: str, image_size: int, seed: int) -> None:
    """Write the graffiti digits into a folder, in the layout of PASCAL VOC.

    A data set to try things with: real handwriting on real photographs. Every box is exact.

    \b
      ssd-annotated graffiti --out digits --train 2000 --variant crowd
    """
    from ssd_annotated.data.graffiti import GraffitiDigits, export_voc

    # Both are made first, so that an impossible number is refused before anything is written.
    with usage_errors():
        scenes = [
            GraffitiDigits(split, variant, length, image_size, seed)
            for split, length in (("train", train), ("test", test))
        ]
    for part in scenes:
        export_voc(part, Path(out))
        click.echo(f"{out}:{part.split}: {len(part)} images", err=True)


@main.command()
@click.option("--out", **folder_options, help="Folder that holds VOCdevkit, or will hold it.")
@click.option(
    "--set",
    "sets",
    type=click.Choice(ARCHIVES),
    multiple=True,
    default=ARCHIVES,
    show_default=False,
    help="An archive; can be repeated.  [default: all three, the paper's 07+12 and its test set]",
)
def download(out: str, sets: tuple[str, ...]) -> None:
    """Download PASCAL VOC into OUT/VOCdevkit; sets that are already there are kept.

    \b
      ssd-annotated download --out data
      ssd-annotated download --out data --set 2007:test
    """
    from ssd_annotated.data.voc import download_voc

    for name in sets:
        year, image_set = name.split(":")
        click.echo(f"{download_voc(out, year, image_set)}:{image_set}")


@main.command()
@data_argument
@architecture_options
@click.option("--figure", **figure_options, help="Draw the survey into this file.")
def check(data: Sets, figure: str | None, **architecture: str | float | None) -> None:
    """Report what DATA holds, how many objects the priors miss, and everything that is wrong.

    The first line says how the folder is understood, the last which options to give `train`.
    Without SET, all sets of a folder are checked: trainval (or train and val) and test. The exit
    status is 1 if anything is wrong.

    \b
      ssd-annotated check photographs --model tiny --smallest 0.05 --largest 0.6
      ssd-annotated check VOC2007:trainval VOC2012:trainval --figure survey.png
    """
    from ssd_annotated.data.fit import outlook
    from ssd_annotated.data.survey import survey, survey_table
    from ssd_annotated.priors import make_priors

    side, specs = building.choose_specs(**architecture)
    priors = make_priors(specs[side])
    dataset = building.open_data(data, "all", on_bad="skip")
    found = survey(dataset, priors)
    click.echo("\n".join(dataset.understood) + "\n")
    click.echo(survey_table(found))
    click.echo("\n" + outlook(dataset, side, specs))
    if figure:
        from ssd_annotated.app.figures import draw_survey

        draw_survey(found, priors, figure)
    if found.problems:
        click.get_current_context().exit(1)


@main.command(cls=FromSettings)
@data_argument
@click.option("--out", **folder_options, help="Folder of the run.")
@click.option("--val", type=Data(), multiple=True, metavar="DATA", help="Data to measure mAP on.")
@click.option(
    "--val-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    callback=number,
    help="Hold back this part of DATA and measure mAP on it, where there is no other set.",
)
@architecture_options
@click.option(
    "--fit-priors/--no-fit-priors",
    default=None,
    help="Choose --smallest and --largest so that the priors miss fewest objects, as check does.  "
    "[default: with --settings small]",
)
@click.option("--widths", nargs=6, type=CHANNELS, help="Channels of TinySSD's six blocks.")
@click.option(
    "--weights",
    help="imagenet, none, or a file: a model or a published checkpoint, which also determines the "
    "architecture and the priors.  [default: imagenet; none for TinySSD]",
)
@click.option(
    "--augmentation",
    type=KeyOf("data.augment", "AUGMENTATIONS"),
    help="The augmentation of this implementation; caffe is the paper's. Gentle is our own: "
    "it never shrinks an object.  [default: caffe; gentle with --settings small]",
)
@click.option("--mirror/--no-mirror", default=True, help="Whether left and right may be exchanged.")
@click.option("--vertical-flip", is_flag=True, help="Turn every other image upside down.")
@click.option("--resume", is_flag=True, help="Continue the run in --out, if there is one.")
@click.option(
    "--save-every", type=click.IntRange(1), default=1000, help="Steps between checkpoints."
)
@click.option(
    "--validate-every",
    type=click.IntRange(1),
    help="Steps between measurements of the mAP.  [default: 5000; a fifth of a shorter run]",
)
@click.option("--tensorboard", is_flag=True, help="Also write the records for TensorBoard.")
@on_bad_option
@crowds_option
@device_option
@click.option(
    "--settings",
    type=click.Choice(["paper", "quick", "small"]),
    default="paper",
    help="Defaults of all options below. Quick trains a network with batch normalisation in "
    "minutes: 1000 steps of AdamW, one cycle up to 4e-3. Small is for small objects: the same with "
    "2000 steps of 16 images, fitted priors and gentle augmentation.",
)
def train(
    data: Sets,
    out: str,
    augmentation: str | None,
    mirror: bool,
    vertical_flip: bool,
    fit_priors: bool | None,
    settings: str,
    device: str | None,
    **others: object,
) -> None:
    """Train a detector on DATA (without SET: its set "train"; for --val, the set "val").

    OUT receives last.pt, previous.pt (a checkpoint earlier), best.pt (the best mAP on --val),
    metrics.jsonl and, at the end, worst.png. With a FILE for --weights, classes of the same name
    keep what was learned, and the learning rate is a tenth. SIGTERM (exit status 0) and Ctrl-C
    (130) save the run and stop it; the same command with --resume continues it. For several GPUs:
    torchrun --nproc-per-node=N -m ssd_annotated train ...

    \b
      ssd-annotated train VOC2007:trainval VOC2012:trainval --val VOC2007:test --out run
      ssd-annotated train photographs --val photographs --out run --model tiny --settings quick
      ssd-annotated train labelled:0.9 --val labelled:-0.1 --out run
      ssd-annotated train labelled --val-fraction 0.1 --out run --model tiny --settings small
      ssd-annotated train photographs --out run2 --weights run/best.pt --steps 10000
    """
    import torch

    from ssd_annotated.data.augment import Augmented
    from ssd_annotated.training.distributed import launched, rank
    from ssd_annotated.training.run import LAST, PREVIOUS, run

    building.keep_freed_memory()
    chosen = building.choose_settings(
        settings, {name: others.pop(name) for name in SETTINGS}, others["weights"]
    )
    drawn = building.choose_augmentation(augmentation, settings, mirror, vertical_flip)
    new = {name: others.pop(name) for name in (*ARCHITECTURE, "weights", "widths")}
    fit = building.will_fit_priors(fit_priors, settings, new)
    sets = {name: others.pop(name) for name in ("val", "val_fraction", "on_bad", "crowds")}
    with launched(building.choose_device(device)) as place:
        dataset, validation = building.open_sets(data, **sets)
        if rank() == 0:
            reports.report_problems(dataset, validation)
        if fit:
            new |= building.fitted_sizes(dataset, drawn, **new)
        torch.manual_seed(chosen.seed)
        resumed = others["resume"] and any(Path(out, f).exists() for f in (LAST, PREVIOUS))
        network = building.new_model(dataset.class_names, fresh=not resumed, **new).to(place)
        seen = Augmented(dataset, drawn, network.recipe.image_size, chosen.seed)
        outcome = run(network, seen, out, chosen, validation=validation, **others)
        if rank() == 0:
            reports.report_run(outcome, out)
        if outcome.best is not None and outcome.stopped_by is None:
            reports.report_results(Path(out), validation, place, chosen)


@main.command("evaluate")
@model_argument
@data_argument
@click.option(
    "--method",
    type=click.Choice(["area", "11point"]),
    default="area",
    help="Average precision as in VOC 2010, or as in VOC 2007 and the paper.",
)
@click.option("--coco", is_flag=True, help="Also print COCO's twelve numbers (extra coco).")
@click.option("--json", "document", type=FileOf(".json"), help="Write the numbers into this file.")
@click.option("--figure", **figure_options, help="Draw precision against recall into this file.")
@click.option("--gallery", **figure_options, help="Draw the worst mistakes into this file.")
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes that load images.")
@batch_option
@on_bad_option
@crowds_option
@device_option
def evaluate_(
    model: str,
    data: Sets,
    method: str,
    coco: bool,
    document: str | None,
    figure: str | None,
    gallery: str | None,
    workers: int,
    batch_size: int,
    device: str | None,
    **reading: str,
) -> None:
    """Measure MODEL on DATA (by default the set "test"): average precision of every class.

    \b
      ssd-annotated evaluate run/best.pt VOC2007:test --method 11point
      ssd-annotated evaluate run/best.pt photographs --gallery mistakes.png --json numbers.json
    """
    from ssd_annotated.evaluation.voc import evaluate, evaluation_table
    from ssd_annotated.training.validation import detect_all

    if coco:
        need("pycocotools", "coco", "--coco")  # asked now, not after all images
    network = building.open_model(model, device)
    names = network.recipe.class_names
    dataset = building.open_data(data, "test", class_names=names, **reading)
    reports.report_problems(dataset)
    building.refuse_without_objects(dataset, "DATA")
    measured = detect_all(network, dataset, batch_size, workers, progress=True)
    found = evaluate(*measured, len(names), method=method)
    click.echo(evaluation_table(found, names))
    ap = dict(list(zip(names, found.ap.tolist()))[1:])
    numbers = {"method": method, "images": len(dataset), "mean_ap": found.mean_ap, "ap": ap}
    if coco:
        numbers["coco"] = reports.report_coco(*measured, dataset)
    if document:
        reports.write_json(numbers, document)
    if figure:
        from ssd_annotated.app.figures import draw_curves

        draw_curves(found, names, figure)
    if gallery:
        reports.report_mistakes(*measured, dataset, gallery)


@main.command()
@model_argument
@click.argument("source", required=False)
@click.option("--camera", type=click.IntRange(0), help="Use this camera instead; Ctrl-C ends it.")
@click.option(
    "--out",
    "drawings",
    callback=named,
    help="Draw the boxes into this folder or, for a video, this .mp4 file.",
)
@click.option(
    "--json",
    "document",
    type=FileOf(".json", ".jsonl"),
    help="Write the detections into this .json or .jsonl file; for a video, it must be .jsonl.",
)
@click.option(
    "--skip-existing",
    is_flag=True,
    help="Leave out images that are already in --out and in --json, which must be a .jsonl file.",
)
@click.option(
    "--score",
    "score_threshold",
    type=click.FloatRange(0, 1),
    callback=number,
    default=0.5,
    help="Lowest score shown.",
)
@click.option("--half", is_flag=True, help="Compute in half precision, for GPUs.")
@batch_option
@click.option(
    "--on-bad",
    type=click.Choice(["skip", "raise"]),
    default="skip",
    help="Leave out what cannot be read and report it at the end, or stop there.",
)
@device_option
def detect(
    model: str,
    source: str | None,
    camera: int | None,
    half: bool,
    device: str | None,
    **job: object,
) -> None:
    """Find objects in SOURCE (an image, a folder of images or a video) or in front of a camera.

    \b
      ssd-annotated detect run/best.pt photographs --out found --json found.json
      ssd-annotated detect run/best.pt photographs --json found.jsonl --skip-existing
      ssd-annotated detect run/best.pt street.mp4 --out found.mp4 --score 0.3
      ssd-annotated detect tiny-graffiti --camera 0 --batch-size 1 --json found.jsonl
    """
    from ssd_annotated.app.detect import detect_images, detect_video
    from ssd_annotated.app.media import is_video

    if (source is None) == (camera is None):
        raise click.UsageError("give either a SOURCE or --camera")
    if job["drawings"] is None and job["document"] is None:
        raise click.UsageError("give --out, --json or both, to keep what is found")
    moving = source is None or is_video(source)
    building.check_outputs(moving, job["drawings"], job["document"], job["skip_existing"])
    network = building.open_model(model, device, half)
    detect_them = detect_video if moving else detect_images
    tally = detect_them(network, camera if source is None else source, **job)
    for problem in tally.problems:
        click.echo(f"left out: {problem}", err=True)
    before = f"; {tally.skipped} were done before" if tally.skipped else ""
    unit = "frames" if moving else "images"
    click.echo(f"{tally.objects} objects in {tally.images} {unit}{before}")


@main.command()
@model_argument
@click.option("--out", required=True, type=FileOf(".onnx"), help="The file, FILE.onnx.")
@click.option("--nms", is_flag=True, help="From 8-bit images of any size to detections.")
def export(model: str, out: str, nms: bool) -> None:
    """Write MODEL as ONNX (opset 18), for programs without PyTorch.

    From a batch of normalised images (B, 3, H, W) the file computes boxes (B, P, 4), as fractions
    of the image, and the scores of all classes (B, P, C). It does no non-maximum suppression.

    With --nms it does everything: from 8-bit RGB images (B, H, W, 3) of any size it computes boxes
    (B, D, 4), scores and labels (B, D), best first. Where nothing more was found, both are 0.

    \b
      ssd-annotated export run/best.pt --out detector.onnx
      ssd-annotated export run/best.pt --out detector.onnx --nms
    """
    from ssd_annotated.app.export import export_onnx

    export_onnx(building.open_model(model, "cpu"), out, nms=nms)
    click.echo(f"wrote {out}", err=True)
