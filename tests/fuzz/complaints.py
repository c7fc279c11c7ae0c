"""Tries many examples of one kind and counts what went wrong; for the tests and for `make fuzz`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

T = TypeVar("T")


def count_complaints(
    strategy: st.SearchStrategy[T], wrong_with: Callable[[T], str | None], examples: int
) -> Counter[str]:
    """How often each complaint was made; empty where there was none. The same examples each time. Of each complaint the
    first example is shown on stdout."""
    found: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(example: T) -> None:
        try:
            complaint = wrong_with(example)
        except Exception as error:
            complaint = f"raised {type(error).__name__}: {str(error)[:200]}"
        if complaint:
            if not found[complaint]:
                print(f"{complaint}\n  {str(example)[:2_000]}")
            found[complaint] += 1

    each()
    return found
