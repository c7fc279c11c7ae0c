"""Counts of calls add up, also if two processes add at once, and go with their recipes."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainers.recipes import usage
from trainers.recipes.usage import Usage, UsageKey

FIRST = UsageKey(1, "a" * 64, "2026-11-30")
SECOND = UsageKey(2, "b" * 64, "2026-12-01")
CALL = Usage(calls=1, prompt_tokens=100, cached_tokens=60, completion_tokens=7)
LOST = Usage(calls=1, failed=1, unknown=1)


def test_counts_of_all_writers_add_up(tmp_path: Path) -> None:
    assert usage.read(tmp_path) == {}
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(usage.add, tmp_path, {FIRST: CALL, SECOND: LOST}) for _ in range(12)]:
            future.result()
    assert usage.read(tmp_path) == {
        FIRST: Usage(12, 0, 1200, 720, 84, 0),
        SECOND: Usage(calls=12, failed=12, unknown=12),
    }
    assert usage.read(tmp_path, since="2026-12-01").keys() == {SECOND}
    assert stat.S_IMODE((tmp_path / usage.FILE).stat().st_mode) == 0o600


def test_the_counts_of_a_recipe_can_be_forgotten(tmp_path: Path) -> None:
    usage.forget(tmp_path, [FIRST.recipe])
    assert not (tmp_path / usage.FILE).exists()
    usage.add(tmp_path, {FIRST: CALL, SECOND: CALL})
    usage.forget(tmp_path, [FIRST.recipe])
    assert usage.read(tmp_path) == {SECOND: CALL}
