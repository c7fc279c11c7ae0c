"""A random share of answered calls is stored, without secrets and personal data, and no answer depends on it."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import openai
import pytest

from tests.patience import wait_until
from tests.peers.chat_vendor import ChatVendor, error, serve_vendor
from tests.trainers.dataset.test_sensitive_data import SECRETS
from tests.trainers.door.doors import PROMPT, Door, add_vendor, serve_door, start_door
from tests.trainers.door.test_chat import TOOL
from tests.trainers.evaluation.builders import make_rows
from trainers.door.sampler import Sampler
from trainers.recipes import samples
from trainers.recipes.classical import freeze_classical
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.samples import SampleCounts, SampledCall
from trainers.recipes.values import Published, Recipe, Sampling

EVERY = Sampling(1.0, "mask")
CARD = "4111 1111 " + "1111 1111"
IBAN = "DE89 3704 0044 0532 " + "0130 00"
MAIL = "anna.meyer@mail" + ".example.org"
KEY = SECRETS["OpenAI key"]
PERSONAL = {"[payment card]": CARD, "[bank account (IBAN)]": IBAN, "[e-mail address]": MAIL}
Personal = Literal["mask", "drop"]


def put_in_use(door: Door, name: str, sampling: Sampling | None, recipe: Recipe = PROMPT, **more: Any) -> str:
    """Publishes a recipe without files, and returns its hash."""
    stored = door.folder.add(recipe, {})
    door.folder.publish(Published(name, stored.sha256, 7, sampling=sampling, **more))
    return stored.sha256


def ask(client: openai.OpenAI, name: str, text: str = "Charged twice: billing", **more: Any) -> Any:
    return client.chat.completions.create(model=name, messages=[{"role": "user", "content": text}], **more)


def counted(folder: Path, name: str) -> SampleCounts:
    counts = samples.counts(folder)
    return sum((counted for key, counted in counts.items() if key.name == name), SampleCounts())


def wait_for(door: Door, name: str, drawn: int = 1) -> tuple[SampledCall, ...]:
    """Waits until as many calls were drawn, and returns those that are stored."""
    root = door.folder.root
    what = f"{drawn} calls of {name}"
    wait_until(
        lambda: counted(root, name).drawn >= drawn, what, seconds=60
    )  # an earlier door may drain first
    assert counted(root, name).drawn == drawn
    return samples.read(root, name)


def bytes_around(folder: RecipeFolder) -> bytes:
    """Everything in the folder and beside it, the log included."""
    paths = sorted(folder.root.parent.rglob("*"))
    return b"".join(path.read_bytes() for path in paths if path.is_file())


def question_of(call: SampledCall) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in json.loads(call.messages)]


@pytest.mark.deep
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_call_is_stored_with_its_answer(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str, is_stream: bool
) -> None:
    sha256 = put_in_use(door, name, EVERY)
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Wo ist mein Päckchen: billing"}]},
    ]
    vendor.answer = lambda body: "billing"
    for _ in range(2):
        raw = client.chat.completions.with_raw_response.create(
            model=name, messages=messages, stream=is_stream
        )
        if is_stream:
            list(raw.parse())
    first, second = wait_for(door, name, 2)
    assert question_of(second) == [("system", "Be brief."), ("user", "Wo ist mein Päckchen: billing")]
    assert second.answer == ("billing " * 3 if is_stream else "billing")
    assert second.id == raw.headers["x-finetune-call"]
    assert (second.name, second.promotion, second.recipe) == (name, 7, sha256)
    assert second.completion_tokens == 7 and (second.prompt_tokens or 0) > 7
    assert (second.is_masked, second.fallback_from) == (False, None)
    assert first.conversation == second.conversation and first.id != second.id


def test_nothing_is_stored_unless_somebody_wants_a_sample(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str
) -> None:
    for sampling in (None, Sampling(0.0, "mask")):
        put_in_use(door, name, sampling)
        ask(client, name)
    put_in_use(door, name, EVERY)
    ask(client, name, "the last one: billing")
    (call,) = wait_for(door, name)
    assert question_of(call) == [("user", "the last one: billing")]


def test_the_share_is_that_of_all_calls(tmp_path: Path) -> None:
    chance = random.Random(20261130)
    sampler = Sampler(tmp_path, lambda name: True, lambda: "key", chance.random)
    published = Published("team/tickets", "a", 1, sampling=Sampling(0.05, "mask"))
    drawn = sum(sampler.draws(published) for _ in range(20_000))
    assert 920 <= drawn <= 1080  # 1,000 with a standard deviation of 31
    assert not sampler.draws(replace(published, promotion=None))


@pytest.mark.deep
def test_a_door_draws_about_the_share(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str
) -> None:
    put_in_use(door, name, Sampling(0.5, "mask"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: ask(client, name, f"{number} billing"), range(200)))
    put_in_use(door, name, EVERY)
    ask(client, name, "the last one")
    last = wait_until(
        lambda: [each for each in samples.read(door.folder.root, name) if "last" in each.messages], "it"
    )
    assert len(last) == 1
    assert 60 < samples.count(door.folder.root, name) < 140  # 100 with a standard deviation of 7


def test_a_program_can_opt_out(door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str) -> None:
    put_in_use(door, name, EVERY)
    headers = {"x-finetune-sample": "No", "x-finetune-conversation": "c-81"}
    ask(client, name, "my secret wish: billing", extra_headers=headers)
    assert wait_for(door, name) == ()
    assert counted(door.folder.root, name) == SampleCounts(opted_out=1)
    assert b"secret wish" not in bytes_around(door.folder)
    assert not [header for header in vendor.headers[-1] if header.startswith("x-finetune")]


@pytest.mark.deep
@pytest.mark.parametrize("personal", ["mask", "drop"])
@pytest.mark.parametrize("where", ["question", "answer", "stream", "tool", "classify", "responses"])
def test_personal_data_is_never_on_disk(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str, personal: Personal, where: str
) -> None:
    put_in_use(door, name, Sampling(1.0, personal))
    text = f"I am {MAIL} with {CARD} and {IBAN}."
    masked = "I am [e-mail address] with [payment card] and [bank account (IBAN)]."
    vendor.answer = lambda body: text
    match where:
        case "question":
            vendor.answer = lambda body: "billing"
            ask(client, name, text)
        case "answer":
            ask(client, name)
        case "stream":
            vendor.pieces = tuple(text[start : start + 3] for start in range(0, len(text), 3))
            list(ask(client, name, stream=True))
        case "tool":
            arguments = json.dumps({"to": text})
            calls = [{"id": "c1", "type": "function", "function": {"name": "pay", "arguments": arguments}}]
            messages: Any = [
                {"role": "user", "content": "Pay it"},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": "c1", "content": "paid"},
            ]
            vendor.answer = lambda body: "billing"
            client.chat.completions.create(model=name, messages=messages)
        case "classify":
            vendor.answer = lambda body: "billing"
            client.post("/classify", body={"model": name, "input": text}, cast_to=object)
        case _:
            client.responses.create(model=name, input=[{"role": "user", "content": text}])
    calls_stored = wait_for(door, name)
    if personal == "drop":
        assert counted(door.folder.root, name) == SampleCounts(personal=1)
    else:
        (call,) = calls_stored
        assert call.is_masked and masked in call.messages + call.answer
    stored = bytes_around(door.folder)
    for value in (MAIL, CARD, IBAN, "anna.meyer", "0044 0532", "1111 1111"):
        assert value.encode() not in stored


@pytest.mark.deep
@pytest.mark.parametrize("personal", ["mask", "drop"])
@pytest.mark.parametrize("is_answer", [False, True])
def test_a_call_with_a_secret_is_never_on_disk(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str, personal: Personal, is_answer: bool
) -> None:
    put_in_use(door, name, Sampling(1.0, personal))
    if is_answer:
        vendor.pieces = ("Your key: ", KEY[:9], KEY[9:20], KEY[20:], ", a rare phrase")
        list(ask(client, name, stream=True))
    else:
        ask(client, name, f"a rare phrase, {KEY}")
    assert wait_for(door, name) == ()
    assert counted(door.folder.root, name) == SampleCounts(secret=1)
    stored = bytes_around(door.folder)
    assert KEY.encode() not in stored and KEY[9:].encode() not in stored and b"a rare phrase" not in stored


@pytest.mark.deep
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("is_native", [False, True])
def test_responses_are_stored_as_chats(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str, is_native: bool, is_stream: bool
) -> None:
    add_vendor(door.folder, vendor.url, has_responses=is_native)
    put_in_use(door, name, EVERY)
    vendor.answer = lambda body: "billing"
    items: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Charged twice: billing"}]}]
    raw = client.responses.with_raw_response.create(
        model=name, input=items, instructions="Be brief.", stream=is_stream
    )
    if is_stream:
        list(raw.parse())
    (call,) = wait_for(door, name)
    assert question_of(call) == [("system", "Be brief."), ("user", "Charged twice: billing")]
    assert call.answer.split() == ["billing"] * (3 if is_stream and not is_native else 1)
    assert (call.id, call.completion_tokens) == (raw.headers["x-finetune-call"], 7)


def test_a_call_of_a_tool_is_stored_as_rows_have_it(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str
) -> None:
    put_in_use(door, name, EVERY)
    ask(client, name, tools=[TOOL])
    (call,) = wait_for(door, name)
    (function,) = json.loads(call.answer)
    assert function["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}


def test_a_free_candidates_answers_are_stored(door: Door, client: openai.OpenAI, name: str) -> None:
    rows = make_rows(40)
    labels = tuple(sorted({row.answer for row in rows}))
    recipe = Recipe("classical", "tickets", 1, "labels", "label", labels=labels)
    stored = door.folder.add(recipe, freeze_classical(rows, 7, has_labels=True))
    door.folder.publish(Published(name, stored.sha256, 7, sampling=EVERY))
    text = rows[0].prompt[-1].content
    answers = [
        ask(client, name, text).choices[0].message.content,
        "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, name, text, stream=True)),
        client.responses.create(model=name, input=text).output_text,
    ]
    both: Any = client.post("/classify", body={"model": name, "input": [text, "x"]}, cast_to=object)
    answers += [each["label"] for each in both["data"]]
    calls = wait_for(door, name, 5)
    assert sorted(call.answer for call in calls) == sorted(answers)
    assert sorted(question_of(call) for call in calls) == sorted([[("user", text)]] * 4 + [[("user", "x")]])
    assert {call.prompt_tokens for call in calls} == {0}


@pytest.mark.deep
@pytest.mark.parametrize(
    ("reason", "content"),
    [
        ("too_long", "x " * 60_000),
        ("too_long", "x " * 600_000),
        ("not_text", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]),
    ],
)
def test_what_is_no_short_text_is_left_out(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str, reason: str, content: Any
) -> None:
    put_in_use(door, name, EVERY)
    vendor.answer = lambda body: "billing"
    client.chat.completions.create(model=name, messages=[{"role": "user", "content": content}])
    assert wait_for(door, name) == ()
    assert counted(door.folder.root, name) == SampleCounts(**{reason: 1})


@pytest.mark.parametrize("pieces", [("x" * 40_000,) * 3, ("x" * 400_000,) * 3])
def test_a_long_stream_is_left_out_and_arrives_in_full(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str, pieces: tuple[str, ...]
) -> None:
    put_in_use(door, name, EVERY)
    vendor.pieces = pieces
    chunks = list(ask(client, name, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "".join(
        pieces
    )
    assert wait_for(door, name) == ()
    assert counted(door.folder.root, name) == SampleCounts(too_long=1)


def test_only_complete_answers_are_stored_and_those_of_the_fallback(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str
) -> None:
    other = door.folder.add(replace(PROMPT, model="acme-other"), {}).sha256
    put_in_use(door, name, EVERY, fallback=other)
    vendor.failures = deque([(400, error("no", "no"))])
    with pytest.raises(openai.BadRequestError):
        ask(client, name, "refused")
    vendor.breaks_after = 1
    with pytest.raises(openai.APIError):
        list(ask(client, name, "cut off", stream=True))
    vendor.breaks_after = None
    vendor.failures = deque([(500, error("down", "down"))])
    ask(client, name, "fell back: billing")
    (call,) = wait_for(door, name)
    assert (call.recipe, call.fallback_from) == (other, "upstream_500")
    assert question_of(call) == [("user", "fell back: billing")]


@pytest.mark.deep
def test_what_is_forgotten_does_not_come_back(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str
) -> None:
    """The order of a deletion: the name is published without sampling, then forgotten."""
    put_in_use(door, name, EVERY)
    ask(client, name, "rare-phrase-1 billing")
    wait_for(door, name)
    ask(client, name, "rare-phrase-2 billing")  # may still be in memory
    put_in_use(door, name, None)
    samples.forget_name(door.folder.root, name, now=time.time())
    put_in_use(door, name, EVERY)
    ask(client, name, "a new one: billing")
    (call,) = wait_for(door, name)
    assert question_of(call) == [("user", "a new one: billing")]
    assert b"rare-phrase" not in bytes_around(door.folder)


@pytest.mark.deep
def test_what_a_full_disk_does_not_take_is_lost_and_no_answer(tmp_path: Path) -> None:
    folder = RecipeFolder(tmp_path / "serving")
    with serve_vendor(ChatVendor()) as vendor, serve_door(folder) as door, door.client() as client:
        add_vendor(folder, vendor.url)
        put_in_use(door, "team/a", EVERY)
        (folder.root / samples.FILE).mkdir()  # nothing can be written there
        ask(client, "team/a", "rare-phrase: billing")
        wait_until(lambda: "storing a sample of 1 calls, which are lost" in door.log, "the line in the log")
        (folder.root / samples.FILE).rmdir()
        ask(client, "team/a", "a later one: billing")
        (call,) = wait_for(door, "team/a", 2)
        assert question_of(call) == [("user", "a later one: billing")]
        assert counted(folder.root, "team/a") == SampleCounts(stored=1, lost=1)
        assert b"rare-phrase" not in bytes_around(folder)


@pytest.mark.deep
def test_a_handover_loses_no_sample(tmp_path: Path) -> None:
    folder = RecipeFolder(tmp_path / "serving")
    with serve_vendor(ChatVendor(delay_s=0.5)) as vendor, serve_door(folder) as door:
        add_vendor(folder, vendor.url)
        put_in_use(door, "team/a", EVERY)
        with door.client() as client, ThreadPoolExecutor(9) as pool:
            starting = pool.submit(start_door, folder, f"127.0.0.1:{door.port}")
            number = 0
            while number < 40 or not starting.done():
                texts = [f"{each} billing" for each in range(number, number + 8)]
                answers = pool.map(lambda text: ask(client, "team/a", text), texts)
                assert {each.choices[0].message.content for each in answers} == {"billing"}
                number += 8
        assert starting.result().stop() == 0
        calls = wait_for(door, "team/a", number)
        assert len({call.messages for call in calls}) == number
        assert len({call.conversation for call in calls}) == number


@pytest.mark.slow
def test_a_kill_loses_the_samples_of_a_second_at_most(tmp_path: Path) -> None:
    folder = RecipeFolder(tmp_path / "serving")
    with serve_vendor(ChatVendor()) as vendor, serve_door(folder) as door, door.client() as client:
        add_vendor(folder, vendor.url)
        put_in_use(door, "team/a", EVERY)
        ask(client, "team/a", "stored: billing")
        (first,) = wait_for(door, "team/a")
        ask(client, "team/a", "perhaps lost: billing")
        os.kill(door.worker_pid(), signal.SIGKILL)
        ask(client.with_options(max_retries=4), "team/a", "after it: billing")
        wait_until(lambda: b"after it" in bytes_around(folder), "the next sample")
        calls = samples.read(folder.root, "team/a")
        assert calls[0] == first
        assert len(calls) in (2, 3)
