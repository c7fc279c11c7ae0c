"""The demo's second story from beginning to end in the browser workspace, with a toy model."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.extract import Extraction, play
from demo.runner import Setting
from demo.shift_swaps import OTHER_AUTHORS, TRAINING

pytestmark = pytest.mark.e2e


def first_rows(file: Path, count: int, folder: Path) -> Path:
    part = folder / file.name
    lines = file.read_text(encoding="utf-8").splitlines()
    part.write_text("\n".join(lines[:count]), encoding="utf-8")
    return part


def test_the_story_of_threads_ends_with_the_rows_of_other_authors(
    tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    training = first_rows(TRAINING, 210, tmp_path)
    others = first_rows(OTHER_AUTHORS, 20, tmp_path)
    setting = Setting(tmp_path / "demo", tiny_model_dir, stay=False, in_terminal=False)
    story = Extraction(setting, epochs=1, calibrate_s=2, file=training, others=others)

    code = play(story)

    output = " ".join(capfd.readouterr().out.split())  # lines break anywhere
    assert code == 0, output[-3000:]
    assert "Fields on the same 70 held-out rows" in output
    assert "Fields on 20 rows by other authors" in output
    assert "not shown to be good enough" in output, "a toy model learns nothing"
    assert "after rollback: " in output
