"""Fuzz every reader of files for a while and print a table: ``make fuzz``.

``--seconds`` is for each reader, ``--seed`` another number for other files. The exit status is 1
if a bug was found; the message names the seed, with which `fuzzing.attack` makes the file again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fuzzing

from ssd_annotated.support.tables import text_table


def main() -> None:
    """Parse, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=fuzzing.MAKERS)
    given = parser.parse_args()
    fuzzing.quiet()
    rows, bugs, total = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        for name in [given.only] if given.only else fuzzing.MAKERS:
            place = Path(folder, name.replace(" ", "-"))
            found = fuzzing.attack(name, place, given.seed, sys.maxsize, given.seconds)
            bugs, total = bugs + found.bugs, total + found.inputs
            counts = (found.inputs, found.accepted, len(found.bugs))
            rows.append([name, *map(str, counts), f"{found.slowest:.2f}", str(found.memory)])
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    header = ["reader", "inputs", "accepted", "bugs", "slowest, s", "MiB more"]
    print(text_table(header, rows))
    print(f"{total} inputs, {len(bugs)} bugs", *bugs[:50], sep="\n")
    sys.exit(bool(bugs))


if __name__ == "__main__":
    main()
