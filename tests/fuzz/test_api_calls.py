"""Whatever is asked of the trainer is answered in OpenAI's envelope, never with a 500, and a refusal leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.api_calls import Call, ask, asking, wrong_with
from tests.fuzz.complaints import count_complaints
from tests.local.served import KEY, Served, served_here

EXAMPLES = 250


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def trainer(folder: Path) -> Iterator[Served]:
    with served_here(folder, {"toy": "/nowhere"}) as served:
        yield served


def test_no_body_makes_a_500_or_leaves_anything_when_refused(trainer: Served, folder: Path) -> None:
    strategy, complaint = asking(trainer, folder, "nobody")  # loading a model takes seconds: `make fuzz` does
    assert not count_complaints(strategy, complaint, EXAMPLES)


def test_a_body_that_is_left_behind_is_a_complaint(trainer: Served, folder: Path) -> None:
    call = Call("GET", "/v1/nothing")
    answer = ask(trainer.url, KEY, call)
    assert answer.status == 404
    assert wrong_with(call, answer, lambda: 1, 1) is None
    assert wrong_with(call, answer, lambda: 2, 1) == "a refused call left something behind"
