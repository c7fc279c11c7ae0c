"""An attempt that leaves what no attempt of our own would leave breaks neither the trainer nor its job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz.complaints import count_complaints
from tests.fuzz.leftovers import Left, complaining, leftovers
from trainers.local.ray import job_files

EXAMPLES = 60


def test_nothing_that_is_left_in_the_storage_touches_the_job_s_own_files(tmp_path: Path) -> None:
    assert not count_complaints(leftovers(), complaining(tmp_path), EXAMPLES)


def test_a_file_outside_the_job_s_folder_is_a_complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {"object": "attempts/1-a/files/x", "bytes": 3, "version": 1}
    left = Left(json.dumps({"files": {"../x": stored}, "events": 0, "records": {}}).encode(), b"[]")
    assert complaining(tmp_path / "checked")(left) is None
    monkeypatch.setattr(job_files, "is_allowed_path", lambda path: True)
    assert complaining(tmp_path / "unchecked")(left) == "changed: data/jobs/x"
