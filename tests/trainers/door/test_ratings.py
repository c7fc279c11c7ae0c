"""A program rates an answer by its id, also after a restart; each answer counts once."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.peers.chat_vendor import ChatVendor, serve_vendor
from tests.trainers.door.doors import PROMPT, Door, add_vendor, serve_door
from tests.trainers.door.test_samples import ask, put_in_use
from trainers.door import call_ids
from trainers.door.call_ids import AnsweredCall, CallIds
from trainers.recipes import feedback
from trainers.recipes.feedback import Feedback, FeedbackKey
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.usage import day_of

CALL = AnsweredCall("team/tickets", 3, "ab" * 32, 1_796_040_000)
DAY_S = 24 * 3600


def rate(door: Door, id: object, rating: object) -> httpx2.Response:
    return httpx2.post(
        f"{door.url}/feedback",
        json={"id": id, "rating": rating},
        headers={"authorization": f"Bearer {door.folder.call_key()}"},
        timeout=60,
        trust_env=False,
    )


def rated(door: Door, name: str) -> dict[FeedbackKey, Feedback]:
    return {key: value for key, value in feedback.read(door.folder.root).items() if key.name == name}


def raw_answer(client: openai.OpenAI, name: str, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": "Charged twice: billing"}]
    return client.chat.completions.with_raw_response.create(model=name, messages=messages, **more)


@pytest.mark.parametrize("is_stream", [False, True])
def test_each_answer_counts_once_with_its_last_rating(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, is_stream: bool
) -> None:
    name = f"team/rated-{is_stream}"
    sha256 = put_in_use(door, name, None)
    ids = []
    for _ in range(3):
        raw = raw_answer(client, name, stream=is_stream)
        if is_stream:
            list(raw.parse())
        ids.append(raw.headers["x-finetune-call"])
    key = FeedbackKey(name, 7, sha256, day_of(time.time()))
    assert rate(door, ids[0], "up").json() == {
        "object": "feedback",
        "id": ids[0],
        "model": name,
        "rating": "up",
    }
    rate(door, ids[0], "up")
    rate(door, ids[1], "down")
    assert rated(door, name) == {key: Feedback(up=1, down=1)}
    rate(door, ids[0], "down")
    rate(door, ids[2], "up")
    assert rated(door, name) == {key: Feedback(up=1, down=2)}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("api", ["chats", "responses"])
def test_the_id_in_an_answers_body_works_while_it_is_remembered(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, api: str, is_stream: bool
) -> None:
    name = f"team/own-{api}-{is_stream}"
    put_in_use(door, name, None)
    if api == "chats":
        answer: Any = ask(client, name, stream=is_stream)
        own_id = next(iter(answer)).id if is_stream else answer.id
    else:
        answer = client.responses.create(model=name, input="billing", stream=is_stream)
        own_id = next(iter(answer)).response.id if is_stream else answer.id
    assert rate(door, own_id, "down").status_code == 200
    assert list(rated(door, name).values()) == [Feedback(down=1)]


def test_what_has_no_answer_or_no_rating_is_refused(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    put_in_use(door, "team/refused", None)
    id = raw_answer(client, "team/refused").headers["x-finetune-call"]
    middle = len(id) // 2
    forged = id[:middle] + ("A" if id[middle] != "A" else "B") + id[middle + 1 :]
    foreign = CallIds(lambda: "another key").new(CALL)
    for unknown in (forged, foreign, "call-", "call-!", "call-é", "chatcmpl-unknown", id + "A"):
        refusal = rate(door, unknown, "up")
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (404, "call_not_found"), unknown
    long_ago = replace(CALL, at=int(time.time()) - 31 * DAY_S)
    old = CallIds(door.folder.call_key).new(long_ago)
    assert rate(door, old, "up").json()["error"]["code"] == "too_old"
    for id_sent, rating in ((None, "up"), (7, "up"), (id, 5), (id, ["up"]), (id, None)):
        assert rate(door, id_sent, rating).status_code == 400
    assert rated(door, "team/refused") == {}
    refused = httpx2.post(f"{door.url}/feedback", json={"id": id, "rating": "up"}, trust_env=False)
    assert refused.status_code == 401


@pytest.mark.deep
def test_an_answer_can_be_rated_after_a_restart(tmp_path: Path) -> None:
    folder = RecipeFolder(tmp_path / "serving")
    with serve_vendor(ChatVendor()) as vendor:
        add_vendor(folder, vendor.url)
        with serve_door(folder) as door, door.client() as client:
            put_in_use(door, "team/a", None, PROMPT)
            id = raw_answer(client, "team/a").headers["x-finetune-call"]
        with serve_door(folder) as door:
            assert rate(door, id, "up").status_code == 200
            assert list(rated(door, "team/a").values()) == [Feedback(up=1)]
            with sqlite3.connect(folder.root / feedback.FILE) as database:
                database.execute("BEGIN EXCLUSIVE")
                assert rate(door, id, "down").json()["error"]["code"] == "not_stored"


def test_an_id_says_whose_call_it_was() -> None:
    ids = CallIds(lambda: "key")
    first = ids.new(CALL)
    assert ids.read(first) == CALL
    assert ids.new(CALL) != first
    assert ids.read(first[:-2]) is None
    assert len(first) < 120


def test_of_the_ids_in_bodies_only_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_ids, "MOST_NOTED", 2)
    ids = CallIds(lambda: "key")
    for number in range(3):
        ids.note(f"chatcmpl-{number}", f"call-{number}")
    ids.note("x" * 1000, "call-x")
    assert [ids.find(f"chatcmpl-{number}") for number in range(3)] == [None, "call-1", "call-2"]
    assert ids.find("call-0") == "call-0"
