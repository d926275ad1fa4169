"""Checks of arguments: what passes, what is refused, and in which words."""

import math

import pytest
from refusals import refuses

from ssd_annotated.support import checks


@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (
            checks.check_choice,
            ["a", ("a", "b")],
            ["c", ("a", "b")],
            "x must be 'a' or 'b', not 'c'",
        ),
        (checks.check_choice, ["a", ("a",)], [1, ("a",)], "x must be 'a', not 1"),
        (
            checks.check_choice,
            [None, ("a", None)],
            [0, ("a", None)],
            "x must be 'a' or None, not 0",
        ),
        (checks.check_at_least, [1, 1], [0.5, 1], "x must be at least 1, not 0.5"),
        (checks.check_at_least, [None, 1], [math.nan, 1], "x must be at least 1, not nan"),
        (checks.check_non_negative, [0], [-0.1], "x must be 0 or more, and finite, not -0.1"),
        (checks.check_non_negative, [1e9], [math.inf], "x must be 0 or more, and finite, not inf"),
        (checks.check_positive, [0.1], [0], "x must be positive and finite, not 0"),
        (checks.check_positive, [1, 2], [1, math.nan], "x must be positive and finite, not nan"),
        (checks.check_within, [0, 0, 1], [1.1, 0, 1], r"x must lie in \[0, 1\], not 1.1"),
        (checks.check_within, [1, 0, 1], [math.nan, 0, 1], r"x must lie in \[0, 1\], not nan"),
        (checks.check_iou, [1], [0], r"x must be an IoU in \(0, 1\], not 0"),
        (checks.check_iou, [1e-9], [1.5], r"x must be an IoU in \(0, 1\], not 1.5"),
        (checks.check_numbers, [(1, 2), 2], [(1,), 2], r"x must be 2 values, not 1: \(1,\)"),
        (checks.check_numbers, [(1, 2), 2], [(1, 0), 2], "x must be positive and finite, not 0"),
        (
            checks.check_numbers,
            [(0, -2), 2, -math.inf],
            [(0, math.nan), 2, -math.inf],
            "x must be finite, not nan",
        ),
    ],
)
def test_a_check_passes_the_good_and_names_the_bad(check, good, bad, message):
    check("x", *good)
    with refuses(message):
        check("x", *bad)
