"""What the commands say and write: what was left out, how a run ended, what was measured."""

# Nothing heavy is imported at the top: see `arguments`.
import json
import signal
from collections.abc import Sequence
from pathlib import Path

import click

from ssd_annotated.app.arguments import missing_for_figures
from ssd_annotated.support.files import whole


def report_problems(*datasets: object) -> None:
    """Report on stderr what was left out of data sets, and what else is worth knowing."""
    for dataset in datasets:
        if dataset is not None and dataset.problems:
            click.echo(f"left out:\n{dataset.report()}", err=True)
        elif dataset is not None and dataset.notes:
            click.echo("\n".join([*dataset.understood, *dataset.notes]), err=True)


def report_run(outcome: object, out: str) -> None:
    """Report how a run ended; after Ctrl-C the exit status is 130."""
    click.echo(f"{Path(out, 'last.pt')}: {outcome.steps} steps")
    if outcome.best is not None:
        click.echo(f"{Path(out, 'best.pt')}: mAP {outcome.best:.3f}")
    if outcome.stopped_by is not None:
        click.echo(f"stopped by {outcome.stopped_by.name}; --resume continues the run", err=True)
    if outcome.stopped_by == signal.SIGINT:
        click.get_current_context().exit(130)
    if outcome.stopped_by is None and outcome.standing is not None:
        model = Path(out, "last.pt" if outcome.best is None else "best.pt")
        click.echo(what_next(outcome, model), err=True)


def what_next(outcome: object, model: Path) -> str:
    """Where a training ended on the ladder of its loss, and what to try now."""
    from ssd_annotated.training.rungs import ADVICE, finds

    end = f"at the end, {outcome.standing}"
    if outcome.standing.passed < 2 and not finds(outcome.best):
        return f"{end}\nThis is no detector yet. Try: {ADVICE}"
    return (
        f"{end}\nsee what it gets wrong: ssd-annotated evaluate {model} DATA --gallery worst.png\n"
        "if the loss was still falling, or the mAP rising: more --steps"
    )


def write_json(numbers: dict[str, object], file: str) -> None:
    """Write numbers as JSON; NaN, which JSON lacks, becomes null."""
    plain = json.loads(json.dumps(numbers), parse_constant=lambda _: None)
    with whole(file) as partial:
        partial.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def report_results(out: Path, dataset: object, device: object, settings: object) -> None:
    """Print the best model's table on the validation set, and draw its ten worst images."""
    from ssd_annotated.checkpoint import load_model
    from ssd_annotated.evaluation.voc import evaluate, evaluation_table
    from ssd_annotated.training.distributed import rank
    from ssd_annotated.training.run import BEST
    from ssd_annotated.training.validation import detect_all

    network = load_model(out / BEST).to(device)
    names = network.recipe.class_names
    measured = detect_all(network, dataset, settings.batch_size, settings.workers)
    if rank() > 0:
        return
    click.echo("\n" + evaluation_table(evaluate(*measured, len(names)), names))
    if not missing_for_figures():
        from ssd_annotated.app.figures import draw_worst

        draw_worst(*measured, dataset, str(out / "worst.png"))
        click.echo(f"the worst images: {out / 'worst.png'}", err=True)


def report_coco(detections: Sequence, targets: Sequence, dataset: object) -> dict[str, float]:
    """Print COCO's twelve numbers, and return them."""
    from ssd_annotated.evaluation.coco import evaluate_coco

    sizes = [record.size[::-1] for record in dataset.records]
    numbers = evaluate_coco(detections, targets, sizes)
    click.echo("\n" + "\n".join(f"{name:9}  {value:.3f}" for name, value in numbers.items()))
    return numbers


def report_mistakes(detections: Sequence, targets: Sequence, dataset: object, gallery: str) -> None:
    """Print how many mistakes there are of each kind, and draw the worst."""
    from ssd_annotated.app.figures import draw_gallery
    from ssd_annotated.evaluation.mistakes import find_mistakes, mistakes_table

    mistakes = find_mistakes(detections, targets, len(dataset.class_names))
    click.echo("\n" + mistakes_table(mistakes, dataset.class_names))
    draw_gallery(mistakes, dataset, gallery)
