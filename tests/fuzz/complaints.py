"""Tries many examples of one kind and counts the complaints, for the tests and for `make fuzz`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

T = TypeVar("T")


def count_complaints(
    strategy: st.SearchStrategy[T], complaint_about: Callable[[T], str | None], examples: int
) -> Counter[str]:
    """Counts each complaint, about the same examples each time, and prints the first example of each."""
    counts: Counter[str] = Counter()

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
            complaint = complaint_about(example)
        except Exception as error:
            complaint = f"raised {type(error).__name__}: {str(error)[:200]}"
        if complaint:
            if not counts[complaint]:
                print(f"{complaint}\n  {str(example)[:2_000]}")
            counts[complaint] += 1

    each()
    return counts
