"""Whatever a file holds, its check ends in sentences, and a refused one leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

from tests.cards import builders
from tests.fuzz.complaints import count_complaints
from tests.fuzz.files import bomb, files, wrong_with

EXAMPLES = 120


def test_no_file_breaks_its_check_or_leaves_anything_when_refused(tmp_path: Path) -> None:
    dataset = builders.dataset()
    assert not count_complaints(files(), lambda file: wrong_with(dataset, *file, tmp_path), EXAMPLES)


def test_a_sheet_that_unpacks_to_much_more_is_refused(tmp_path: Path) -> None:
    assert len(bomb()) < 100_000
    assert wrong_with(builders.dataset(), "small.xlsx", bomb(), tmp_path) is None


def test_a_file_that_is_left_behind_is_a_complaint(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "leftover").touch()
    assert "leftover" in str(wrong_with(builders.dataset(), "a.jsonl", b"\x00", tmp_path))
