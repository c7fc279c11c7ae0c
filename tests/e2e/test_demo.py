"""`finetune demo` from beginning to end, with a toy model."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from demo.story import Story, play

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_plays_to_its_end_in_the_browser_workspace(
    tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the terminal `.ci/run` plays it, with the demo's own model."""
    rows = (ROOT / "examples" / "support_tickets.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "some.csv").write_text("\n".join(rows[:201]), encoding="utf-8")
    story = Story(tmp_path / "some.csv", None, None, False, False, tmp_path / "demo", tiny_model_dir)

    code = play(story)

    output = capfd.readouterr().out
    assert code == 0, output[-3000:]
    assert "approved" in output and "adapter:" in output
    assert "exactly right on" in output and "held-out rows" in output
    database = sqlite3.connect(tmp_path / "demo" / "data" / "finetune.db")
    ((state, result),) = database.execute("SELECT state, result FROM runs").fetchall()
    assert state == "done" and 50 < json.loads(result)["base"]["n"] <= 200 // 3  # a third at most


def test_a_folder_that_no_demo_created_is_left_alone(
    tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious.txt").write_text("mine", encoding="utf-8")

    code = play(Story(None, None, None, False, True, tmp_path, tiny_model_dir))

    output = " ".join(capfd.readouterr().out.split())  # lines break anywhere
    assert code == 1 and "was not created by a demo" in output
    assert (tmp_path / "precious.txt").read_text(encoding="utf-8") == "mine"
