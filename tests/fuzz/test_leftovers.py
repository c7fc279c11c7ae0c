"""Odd files that an attempt leaves in the storage break neither the trainer nor its job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz.complaints import count_complaints
from tests.fuzz.leftovers import Left, complaint_checker, leftovers
from trainers.local.ray import job_files

EXAMPLES = 50


def test_no_leftover_in_the_storage_changes_the_job_s_own_files(tmp_path: Path) -> None:
    assert not count_complaints(leftovers(), complaint_checker(tmp_path), EXAMPLES)


def test_a_file_outside_the_job_s_folder_is_a_complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {"object": "attempts/1-a/files/x", "bytes": 3, "version": 1}
    left = Left(json.dumps({"files": {"../x": stored}, "events": 0, "records": {}}).encode(), b"[]")
    assert complaint_checker(tmp_path / "checked")(left) is None
    monkeypatch.setattr(job_files, "is_allowed_path", lambda path: True)
    assert complaint_checker(tmp_path / "unchecked")(left) == "changed: data/jobs/x"
