"""Ratings are counted by the day of the call, once for each call."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainers.recipes import feedback
from trainers.recipes.feedback import Feedback, FeedbackFullError, FeedbackKey

KEY = FeedbackKey("team/tickets", 3, "a" * 64, "2026-11-30")


def test_ratings_of_all_writers_add_up(tmp_path: Path) -> None:
    assert feedback.read(tmp_path) == {}
    with ThreadPoolExecutor(4) as pool:
        for number in range(12):
            pool.submit(feedback.add, tmp_path, f"call-{number % 6}", KEY, "up").result()
    feedback.add(tmp_path, "call-0", KEY, "down")
    assert feedback.read(tmp_path) == {KEY: Feedback(up=5, down=1)}
    assert feedback.read(tmp_path, since="2026-12-01") == {}
    assert stat.S_IMODE((tmp_path / feedback.FILE).stat().st_mode) == 0o600


def test_what_is_forgotten_of_single_calls_leaves_the_counts(tmp_path: Path) -> None:
    feedback.add(tmp_path, "call-0", KEY, "up")
    feedback.forget_ratings(tmp_path, "2026-11-30")
    feedback.add(tmp_path, "call-0", KEY, "up")
    assert feedback.read(tmp_path) == {KEY: Feedback(up=1)}
    feedback.forget_ratings(tmp_path, "2026-12-01")
    assert feedback.read(tmp_path) == {KEY: Feedback(up=1)}
    feedback.forget_name(tmp_path, KEY.name)
    assert feedback.read(tmp_path) == {}


def test_without_room_only_earlier_ratings_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feedback.add(tmp_path, "call-0", KEY, "up")
    monkeypatch.setattr(feedback, "MOST_BYTES", 4096)
    with pytest.raises(FeedbackFullError):
        feedback.add(tmp_path, "call-1", KEY, "up")
    feedback.add(tmp_path, "call-0", KEY, "down")
    assert feedback.read(tmp_path) == {KEY: Feedback(down=1)}
