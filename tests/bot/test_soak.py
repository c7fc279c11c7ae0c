"""The short form of benchmarks/soak.py: what it counts is within what docs/scale.md says."""

from __future__ import annotations

from pathlib import Path

from benchmarks.soak import MOST_CALLS, soak


def test_with_a_hundred_open_jobs_a_tick_makes_few_calls(tmp_path: Path) -> None:
    soaked = soak(tmp_path, jobs=100, seconds=4)
    assert 0 < max(soaked.calls) <= MOST_CALLS
    assert soaked.edits <= 12
