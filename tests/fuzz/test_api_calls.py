"""Every call of the trainer is answered in OpenAI's envelope, never with a 500, and a refusal leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.api_calls import Call, ask, complaint_about, odd_calls
from tests.fuzz.complaints import count_complaints
from tests.local.trainer_server import KEY, TrainerServer, serve_in_thread

EXAMPLES = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def trainer(folder: Path) -> Iterator[TrainerServer]:
    with serve_in_thread(folder, {"toy": "/nowhere"}) as served:
        yield served


@pytest.mark.deep
def test_no_call_causes_a_500_and_a_refused_one_leaves_nothing_behind(
    trainer: TrainerServer, folder: Path
) -> None:
    strategy, complaint = odd_calls(
        trainer, folder, "nobody"
    )  # loading a model takes seconds: `make fuzz` does
    assert not count_complaints(strategy, complaint, EXAMPLES)


def test_a_file_that_a_refused_call_leaves_behind_is_a_complaint(
    trainer: TrainerServer, folder: Path
) -> None:
    call = Call("GET", "/v1/nothing")
    answer = ask(trainer.url, KEY, call)
    assert answer.status == 404
    assert complaint_about(call, answer, lambda: 1, 1) is None
    assert complaint_about(call, answer, lambda: 2, 1) == "a refused call left something behind"
