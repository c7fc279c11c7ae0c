"""Stored responses: who gets them, and when they are dropped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.local.trainer_server import TrainerServer, serve_in_process
from trainers.http.errors import ApiError
from trainers.local.api import stored_responses
from trainers.local.api.stored_responses import StoredResponses


def body_of(number: int, model: str = "tiny", text: str = "billing") -> dict[str, Any]:
    output = [{"role": "assistant", "content": text}]
    return {"id": f"resp_{number}", "model": model, "output": output}


def is_there(stored: StoredResponses, number: int, owner: str = "a") -> bool:
    try:
        stored.get(owner, f"resp_{number}")
    except ApiError as problem:
        assert (problem.status, problem.code) == (404, "response_not_found")
        return False
    return True


def test_a_conversation_is_continued_with_all_its_items() -> None:
    stored = StoredResponses()
    question = {"role": "user", "content": "my card"}
    stored.add("a", body_of(1), [question])
    before = stored.items_before("a", {"previous_response_id": "resp_1"})
    assert before == [question, {"role": "assistant", "content": "billing"}]
    assert stored.items_before("a", {}) == ()


def test_another_key_finds_nothing() -> None:
    stored = StoredResponses()
    stored.add("a", body_of(1), [])
    assert not is_there(stored, 1, owner="b")
    with pytest.raises(ApiError) as caught:
        stored.items_before("b", {"previous_response_id": "resp_1"})
    assert (caught.value.status, caught.value.code) == (400, "previous_response_not_found")
    with pytest.raises(ApiError):
        stored.delete("b", "resp_1")
    assert is_there(stored, 1)


def test_the_oldest_go_first_by_number_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = StoredResponses()
    monkeypatch.setattr(stored_responses, "MOST_RESPONSES", 3)
    for number in range(5):
        stored.add("a", body_of(number), [])
    assert [is_there(stored, number) for number in range(5)] == [False, False, True, True, True]
    monkeypatch.setattr(stored_responses, "MOST_BYTES", 5_000)
    stored.add("a", body_of(5, text="x" * 2_000), [])
    assert [is_there(stored, number) for number in (2, 3, 4, 5)] == [False, True, True, True]
    stored.add("a", body_of(6, text="x" * 6_000), [])
    assert not any(is_there(stored, number) for number in range(7))


def test_a_day_later_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = StoredResponses()
    stored.add("a", body_of(1), [])
    later = time.monotonic() + stored_responses.LONGEST_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not is_there(stored, 1)


def test_what_a_deleted_model_answered_is_deleted() -> None:
    stored = StoredResponses()
    models = ("ft:a", "ft:a:ckpt-step-8", "ft:ab", "tiny")
    for number, model in enumerate(models):
        stored.add("a", body_of(number, model), [])
    stored.delete_of_model("ft:a")
    assert [is_there(stored, number) for number in range(4)] == [False, False, True, True]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def trainer(data: Path, babbling_model_dir: Path) -> Iterator[TrainerServer]:
    with serve_in_process(data, f"tiny={babbling_model_dir}") as served:
        yield served


def test_the_key_for_calls_gets_only_its_own_responses(trainer: TrainerServer, data: Path) -> None:
    key = (data / "call.key").read_text().strip()
    with trainer.client() as owner, trainer.client(key) as caller:
        theirs = owner.responses.create(model="tiny", input="hi", max_output_tokens=16)
        own = caller.responses.create(model="tiny", input="hi", max_output_tokens=16)
        assert caller.responses.retrieve(own.id).output_text == own.output_text
        with pytest.raises(openai.NotFoundError):
            caller.responses.retrieve(theirs.id)
        with pytest.raises(openai.NotFoundError):
            caller.responses.delete(theirs.id)
        caller.responses.delete(own.id)
        assert owner.responses.retrieve(theirs.id).id == theirs.id
