"""Errors as users see them: outside the tests, no shape checks come before the package's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import pytest


@contextmanager
def unchecked() -> Iterator[None]:
    """Switch the test run's own shape checks off for a while."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def refuses(message: str, error: type[Exception] = ValueError) -> Iterator[None]:
    """Expect `error` with a matching message, while the test run's own shape checks are off."""
    with unchecked(), pytest.raises(error, match=message):
        yield
