"""A node that sends what no node of ours would send breaks neither the trainer nor its job."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.bodies import Call, ask
from tests.fuzz.relay import GARBAGE, calls, complaining, relayed
from tests.fuzz.trying import try_all

EXAMPLES = 100


def test_nothing_that_a_node_sends_makes_a_500_or_touches_the_job_s_own_files(tmp_path: Path) -> None:
    with relayed(tmp_path) as at, at.trainer.client() as client:
        assert not try_all(calls(at.job_id), complaining(at, client), EXAMPLES)


@pytest.mark.parametrize("name", ["DONE", "FAILED", "progress.json"])
def test_what_the_server_reads_is_taken_only_in_its_form(tmp_path: Path, name: str) -> None:
    with relayed(tmp_path) as at, at.trainer.client() as client:
        complaint = complaining(at, client)
        for content in GARBAGE:
            call = Call("PUT", f"/relay/{at.job_id}/files/{name}", content)
            assert complaint(call) is None
            assert not (at.folder / name).exists()


def test_a_job_whose_file_was_changed_is_a_complaint(tmp_path: Path) -> None:
    with relayed(tmp_path) as at, at.trainer.client() as client:
        complaint = complaining(at, client)
        right = Call("GET", f"/relay/{at.job_id}/files")
        assert ask(at.trainer.url, at.token, right).status == 200
        assert complaint(right) is None
        (at.folder / "train.jsonl").write_bytes(b"{}\n")
        assert complaint(right) == "changed: train.jsonl"
