"""Checks of arguments: each says what was expected and what came instead, in one sentence.

Comparisons are written so that NaN, which fails all of them, is refused.
"""

import math
from collections.abc import Sequence


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a ValueError unless the value is one of those allowed."""
    if value not in allowed:
        *first, last = map(repr, allowed)
        listed = f"{', '.join(first)} or {last}" if first else last
        raise ValueError(f"{name} must be {listed}, not {value!r}")


def check_at_least(name: str, value: float | None, least: float) -> None:
    """Raise a ValueError unless ``value ≥ least``; None stands for "no limit" and passes."""
    if value is not None and not value >= least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def check_non_negative(name: str, value: float) -> None:
    """Raise a ValueError unless the value is finite and 0 or more."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more, and finite, not {value}")


def check_positive(name: str, *values: float) -> None:
    """Raise a ValueError unless all values are finite and above 0."""
    for value in values:
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, not {value}")


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError unless ``low ≤ value ≤ high``."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], not {value}")


def check_iou(name: str, value: float) -> None:
    """Raise a ValueError unless the value is an IoU that two overlapping boxes can have."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be an IoU in (0, 1], not {value}")


def check_numbers(name: str, values: Sequence[float], length: int, above: float = 0.0) -> None:
    """Raise a ValueError unless there are `length` values, all finite and above a bound."""
    if len(values) != length:
        raise ValueError(f"{name} must be {length} values, not {len(values)}: {values}")
    for value in values:
        if not above < value < math.inf:
            kind = "positive and finite" if above == 0 else "finite"
            raise ValueError(f"{name} must be {kind}, not {value}")


def check_seed(value: int) -> None:
    """Raise a ValueError unless the value is a seed of 64 bits, as `torch.manual_seed` takes."""
    check_within("seed", value, 0, 2**64 - 1)


def check_limits(
    score_threshold: float, nms_threshold: float, top_k: int | None, max_detections: int | None
) -> None:
    """Raise a ValueError unless these limits, which a `Recipe` has too, allow detections."""
    check_within("score_threshold", score_threshold, 0, 1)
    check_within("nms_threshold", nms_threshold, 0, 1)
    check_at_least("top_k", top_k, 1)
    check_at_least("max_detections", max_detections, 1)
