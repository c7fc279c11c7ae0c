"""The check of any file ends in sentences, and a refused file leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cards import builders
from tests.fuzz.complaints import count_complaints
from tests.fuzz.files import complaint_about, files

EXAMPLES = 100


@pytest.mark.deep
def test_no_file_breaks_its_check_and_a_refused_one_leaves_nothing_behind(tmp_path: Path) -> None:
    dataset = builders.dataset()
    assert not count_complaints(files(), lambda file: complaint_about(dataset, *file, tmp_path), EXAMPLES)


def test_a_leftover_file_is_a_complaint(tmp_path: Path) -> None:
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored" / "leftover").touch()
    assert "leftover" in str(complaint_about(builders.dataset(), "a.jsonl", b"\x00", tmp_path))
