"""What users see when they err: their run has no shape checks, so the package must speak itself."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import pytest


@contextmanager
def refuses(message: str, error: type[Exception] = ValueError) -> Iterator[None]:
    """Expect `error` with a matching message, while the test run's own shape checks are off."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(error, match=message):
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
