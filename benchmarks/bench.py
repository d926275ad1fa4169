"""Measure everything beside its competitors: a table, and a file that the book's page shows.

    python benchmarks/bench.py [--only TEXT] [--json FILE] [--note TEXT]

Trust the ratios and not the milliseconds: what is compared takes turns, so that a busy machine
slows all of it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import core
import cv2
import network
import post
import scaling
import starting
import torch
from timing import PLAIN_MEMORY, Row, megabytes, setting

ROWS: dict[str, Row] = {**core.ROWS, **post.ROWS, **network.ROWS, **starting.ROWS}
#: Only for the quick check of the tests.
del ROWS["average precision, 400 images × 200 detections"]
#: Where memory can be measured in a moment, and says something.
WEIGHED = (
    "8732 priors",
    "matching and encoding, 32 images of 5 objects",
    "matching and encoding, 32 images of 50 objects",
    "matching, 1000 objects in an image",
    "targets and loss, forward and backward, 32 images",
    "post-processing, batch of 8, trained",
    "post-processing, batch of 8, untrained",
    "post-processing, batch of 8, crowded",
    "average precision, 4952 images × 200 detections",
)


def use_threads(count: int) -> None:
    torch.set_num_threads(count)
    cv2.setNumThreads(1)


def measure(title: str) -> dict[str, object]:
    row = ROWS[title]
    use_threads(row.threads)
    found = rounded(row.times())
    return {
        "images": row.images,
        "threads": row.threads,
        "milliseconds": found,
        "goals": [{**goal._asdict(), "met": goal.is_met(found)} for goal in row.goals],
    }


def weigh(title: str) -> dict[str, float]:
    """In a process of its own, whose freed memory is gone."""
    command = [sys.executable, __file__, "--weigh", title]
    done = subprocess.run(
        command, env={**os.environ, **PLAIN_MEMORY}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def grow(curve: scaling.Curve) -> dict[str, object]:
    use_threads(1)
    times = curve.times()
    ways = {name: [at[name] for at in times] for name in times[0]}
    return {"grows": curve.grows, "at": curve.at, "milliseconds": ways}


def line(title: str, row: dict[str, object]) -> str:
    times = row["milliseconds"]
    others = ", ".join(
        f"{name} {value:.2f} ({value / times['ours']:.2f} ×)"
        for name, value in times.items()
        if name != "ours"
    )
    missed = [goal["other"] or "time" for goal in row["goals"] if not goal["met"]]
    verdict = f"missed: {', '.join(missed)}" if missed else "met" if row["goals"] else ""
    return f"| {title} | {times['ours']:.2f} ms | {others} | {verdict} |"


def curve_lines(title: str, curve: dict[str, object]) -> list[str]:
    head = f"\n{title}, by {curve['grows']}: {', '.join(map(str, curve['at']))}"
    values = (
        f"    {name:24}" + " ".join(f"{value:9.2f}" for value in times)
        for name, times in curve["milliseconds"].items()
    )
    return [head, *values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows and curves whose title contains this")
    parser.add_argument("--json", type=Path, help="write the results, or add them to this file's")
    parser.add_argument("--note", default="", help="what should be known about this run")
    parser.add_argument("--weigh", metavar="TITLE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.weigh:
        use_threads(1)
        print(json.dumps(megabytes(ROWS[options.weigh].make())))
        return
    run(options)


def run(options: argparse.Namespace) -> None:
    """Whatever is measured is stored at once, so that a run may be stopped."""
    started = time.perf_counter()
    results = {"setting": setting(), "rows": {}, "curves": {}}
    if options.only and options.json and options.json.exists():
        results = {**json.loads(options.json.read_text(encoding="utf-8")), "setting": setting()}
    results["setting"]["note"] = options.note
    print("| | ours | others, and how many times ours they take | goal |\n|---|--:|---|---|")
    for title in filter(lambda title: options.only in title, ROWS):
        results["rows"][title] = row = measure(title)
        print(line(title, row), flush=True)
        store(results, options.json)
    for title in WEIGHED if sys.platform == "linux" else ():
        if options.only in title:
            results["rows"][title]["megabytes"] = found = weigh(title)
            text = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
            print(f"{title}: at the peak {text} MB", flush=True)
    for title, curve in scaling.CURVES.items():
        if options.only in title:
            results["curves"][title] = grown = grow(curve)
            print(*curve_lines(title, grown), sep="\n", flush=True)
            store(results, options.json)
    store(results, options.json)
    seconds = time.perf_counter() - started
    print(f"\n{seconds:.0f} s, {', '.join(f'{k} {v}' for k, v in results['setting'].items())}")


def store(results: dict[str, object], file: Path | None) -> None:
    """In the order of the table; rows that are no more are dropped."""
    for part, known in (("rows", ROWS), ("curves", scaling.CURVES)):
        results[part] = {title: results[part][title] for title in known if title in results[part]}
    if file:
        text = json.dumps(rounded(results), indent=1, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")


def rounded(value: object) -> object:
    """Four digits are more than a busy machine can promise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    main()
