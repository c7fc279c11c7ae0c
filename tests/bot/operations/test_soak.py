"""The short form of benchmarks/soak.py stays within the numbers of docs/scale.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import MOST_CALLS, soak


@pytest.mark.deep
def test_a_tick_with_a_hundred_open_jobs_makes_few_calls(tmp_path: Path) -> None:
    result = soak(tmp_path, jobs=100, seconds=4)
    assert 0 < max(result.calls) <= MOST_CALLS
    assert result.edits <= 12
