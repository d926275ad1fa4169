"""How many examples a slow property gets.

``make test`` gives most properties 50 examples and slow ones fewer; ``make test-long`` gives all of
them 1,000, and ``make mutants`` gives all of them 10.
"""

from hypothesis import settings

USUAL = "same-every-time"


def few(count: int) -> settings:
    """So many examples in the usual profile, and in any other as many as it says."""
    usual = settings.default is settings.get_profile(USUAL)
    return settings(max_examples=count) if usual else settings()
