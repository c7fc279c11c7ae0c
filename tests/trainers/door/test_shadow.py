"""A candidate in a live test is asked what sampled calls asked. Its answers are stored beside theirs; no program
notices."""

from __future__ import annotations

import socketserver
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.patience import wait_until
from tests.peers.chat_vendor import ChatVendor, error, serve_vendor
from tests.trainers.door.doors import PROMPT, Door, serve_door
from tests.trainers.door.test_chat import TOOL
from tests.trainers.door.test_samples import (
    EVERY,
    KEY,
    MAIL,
    ask,
    bytes_around,
    put_in_use,
    wait_for,
)
from tests.trainers.evaluation.builders import make_rows
from trainers.door.live_tests import shadow
from trainers.door.live_tests.shadow import Shadow
from trainers.door.sampler import DrawnCall, StoredCall
from trainers.recipes import samples, shadow_answers, usage
from trainers.recipes.classical import freeze_classical
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.samples import SampledCall
from trainers.recipes.shadow_answers import ShadowAnswer
from trainers.recipes.usage import Usage
from trainers.recipes.values import Published, PublishedTest, Recipe, Sampling, Upstream, Upstreams

CANDIDATE = replace(PROMPT, provider="next", model="next-small", prompt="Which team is it?")


def put_on_live_test(door: Door, name: str, number: int = 1, slow_s: float = 60.0, **more: Any) -> str:
    """Publishes a prompt with the candidate in a live test. Returns the hash of what is in use."""
    recipe = door.folder.add(more.pop("candidate", CANDIDATE), more.pop("files", {})).sha256
    live_test = PublishedTest(number, recipe, slow_s, asks_sampled=True)
    return put_in_use(door, name, more.pop("sampling", EVERY), live_test=live_test, **more)


def wait_for_answers(door: Door, live_test: int, count: int = 1) -> tuple[ShadowAnswer, ...]:
    root = door.folder.root
    wait_until(lambda: len(shadow_answers.read(root, live_test)) >= count, f"{count} answers", seconds=60)
    answers = shadow_answers.read(root, live_test)
    assert len(answers) == count
    return answers


@pytest.mark.deep
@pytest.mark.parametrize("api", ["chat", "stream", "responses", "classify"])
def test_the_candidates_answer_is_stored_beside_the_call(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, second: ChatVendor, name: str, api: str
) -> None:
    number = 100 + len(api)
    sha256 = put_on_live_test(door, name, number)
    text = "Charged twice: billing"
    match api:
        case "chat":
            raw = client.chat.completions.with_raw_response.create(
                model=name, messages=[{"role": "user", "content": text}]
            )
            assert raw.headers["x-finetune-recipe"] == sha256[:12]
            assert raw.parse().choices[0].message.content == "billing"
        case "stream":
            chunks = list(ask(client, name, text, stream=True))
            assert chunks[0].choices[0].delta.content == "billing "
        case "responses":
            assert client.responses.create(model=name, input=text).output_text == "billing"
        case _:
            labelled: Any = client.post("/classify", body={"model": name, "input": text}, cast_to=object)
            assert labelled["data"][0]["label"] == "billing"
    (call,) = wait_for(door, name)
    (answer,) = wait_for_answers(door, number)
    (sent,) = second.requests
    assert (sent["model"], sent["messages"][-1]["content"]) == ("next-small", text)
    assert "Which team is it?" in sent["messages"][0]["content"] and "stream" not in sent
    assert (answer.call, answer.answer, answer.completion_tokens) == (call.id, "delivery", 7)
    assert answer.prompt_tokens == sum(len(message["content"]) for message in sent["messages"])
    assert call.answer.split()[0] == "billing" and call.recipe == sha256


@pytest.mark.deep
def test_only_unmasked_calls_that_what_is_in_use_has_answered_are_put_to_it(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, second: ChatVendor, name: str
) -> None:
    other = door.folder.add(replace(PROMPT, model="acme-other"), {}).sha256
    put_in_use(door, name, EVERY)
    ask(client, name, "before the live_test: billing")
    wait_for(door, name)
    put_on_live_test(door, name, 110, fallback=other)
    ask(client, name, f"I am {MAIL}: billing")
    ask(client, name, "opted out: billing", extra_headers={"x-finetune-sample": "no"})
    vendor.failures = deque([(500, error("down", "down"))])
    ask(client, name, "fell back: billing")
    call: Any = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    messages: Any = [
        {"role": "user", "content": "Pay it"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "paid"},
    ]
    client.chat.completions.create(model=name, messages=messages)
    for count in (1, 2):
        ask(client, name, f"question {count}: billing")
        wait_for_answers(door, 110, count)
    sent = [body["messages"][-1]["content"] for body in second.requests]
    assert sent == ["question 1: billing", "question 2: billing"]


def test_what_decides_a_right_answer_goes_along_unless_it_is_personal(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, second: ChatVendor, name: str
) -> None:
    put_on_live_test(door, name, 120)
    secret_tool = {**TOOL, "function": {**TOOL["function"], "description": f"Ask {MAIL}"}}
    ask(client, name, "with a name", tools=[secret_tool])
    form = {"type": "json_object"}
    ask(client, name, "without", tools=[TOOL], response_format=form, max_tokens=3, user="u1")
    wait_for_answers(door, 120)
    client.responses.create(model=name, input="a response", max_output_tokens=20)
    wait_for_answers(door, 120, 2)
    with_tools, of_responses = second.requests
    assert (with_tools["tools"], with_tools["response_format"]) == ([TOOL], form)
    assert (with_tools["max_tokens"], of_responses["max_tokens"]) == (3, 20)
    assert "user" not in with_tools


@pytest.mark.deep
@pytest.mark.parametrize(
    ("status", "is_failure"),
    [(400, True), (500, True), (503, True), (401, False), (402, False), (403, False), (429, False)],
)
def test_an_error_is_the_candidates_failure_if_it_says_something_about_it(
    door: Door,
    client: openai.OpenAI,
    vendor: ChatVendor,
    second: ChatVendor,
    name: str,
    status: int,
    is_failure: bool,
) -> None:
    put_on_live_test(door, name, status)
    second.failures = deque([(status, error("no", "no"))])
    assert ask(client, name, "the first: billing").choices[0].message.content == "billing"
    wait_until(lambda: second.requests, "the question")
    ask(client, name, "the second: billing")
    answers = wait_for_answers(door, status, 1 + is_failure)
    assert sorted(answer.answer or "" for answer in answers) == [""] * is_failure + ["delivery"]
    failed = [answer for answer in answers if answer.answer is None]
    assert {answer.completion_tokens for answer in failed} <= {None}


class Closing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Breaks off without an answer."""
        self.request.recv(1000)


def test_a_candidate_that_breaks_off_has_failed(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str
) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), Closing) as server:
        threading.Thread(target=server.handle_request).start()
        closing = Upstream("next", f"http://127.0.0.1:{server.server_address[1]}/v1", "ACME_KEY")
        door.folder.publish_upstreams(Upstreams((Upstream("acme", vendor.url, "ACME_KEY"), closing)))
        put_on_live_test(door, name, 132)
        ask(client, name)
        (answer,) = wait_for_answers(door, 132)
        assert answer.answer is None


def test_a_candidate_that_cannot_be_reached_has_not_answered(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str
) -> None:
    nobody = Upstream("next", "http://127.0.0.1:9/v1", "ACME_KEY")
    door.folder.publish_upstreams(Upstreams((Upstream("acme", vendor.url, "ACME_KEY"), nobody)))
    put_on_live_test(door, name, 130)
    ask(client, name, "nobody is there: billing")
    wait_until(lambda: "next: ClientConnectorError" in door.log, "the attempt")
    vendor.answer = lambda body: "delivery"
    put_on_live_test(door, name, 131, candidate=replace(CANDIDATE, provider="acme"))
    ask(client, name, "somebody is: billing")
    wait_for_answers(door, 131)
    assert shadow_answers.read(door.folder.root, 130) == ()


@pytest.mark.deep
def test_a_candidate_that_hangs_delays_no_program_and_has_failed(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, second: ChatVendor, name: str
) -> None:
    second.delay_s = 1.0
    put_on_live_test(door, name, 140, slow_s=0.3)
    ask(client, name, "hangs: billing")
    (call,) = wait_for(door, name)
    answer = wait_for_answers(door, 140)[0]
    assert (answer.call, answer.answer, answer.prompt_tokens) == (call.id, None, None)
    # A program that takes a stream waits for its beginning, and the candidate is asked for all of it.
    list(ask(client, name, "is a stream: billing", stream=True))
    assert [answer.answer for answer in wait_for_answers(door, 140, 2)] == [None, "delivery"]


@pytest.mark.deep
def test_a_live_test_that_is_withdrawn_asks_nothing_more(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, second: ChatVendor, name: str
) -> None:
    second.delay_s = 1.0
    put_on_live_test(door, name, 150)
    for number in range(5):
        ask(client, name, f"question {number}: billing")
    wait_until(lambda: len(second.requests) == 2, "two questions at once")
    put_on_live_test(door, name, 151)
    ask(client, name, "for the next live_test: billing")
    wait_for_answers(door, 151)
    assert shadow_answers.read(door.folder.root, 150) == ()
    assert len(second.requests) == 3


@pytest.mark.deep
def test_a_deletion_deletes_the_answer_and_stops_the_question(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, second: ChatVendor, name: str
) -> None:
    second.answer = lambda body: "a rare phrase"
    put_on_live_test(door, name, 160)
    ask(client, name, "to delete: billing")
    wait_for_answers(door, 160)
    second.delay_s = 1.0
    ask(client, name, "to delete meanwhile: billing")
    wait_until(lambda: len(second.requests) == 2, "the question")
    samples.forget_name(door.folder.root, name, now=0.0)
    assert shadow_answers.read(door.folder.root, 160) == ()
    second.answer = lambda body: "delivery"
    ask(client, name, "another: billing")
    wait_for_answers(door, 160)
    assert b"a rare phrase" not in bytes_around(door.folder)


@pytest.mark.deep
@pytest.mark.parametrize("personal", ["mask", "drop"])
def test_what_the_candidate_says_is_searched_as_calls_are(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, second: ChatVendor, name: str, personal: Any
) -> None:
    number = 170 + (personal == "mask")
    put_on_live_test(door, name, number, sampling=Sampling(1.0, personal))
    texts = {"secret": f"a rare phrase, {KEY}", "personal": f"Write to {MAIL}", "usual": "delivery"}
    second.answer = lambda body: texts[body["messages"][-1]["content"].split()[0]]
    vendor.answer = lambda body: "billing"
    expected = ["Write to [e-mail address]", "delivery"] if personal == "mask" else ["delivery"]
    for count, word in enumerate(texts, 1):
        ask(client, name, f"{word} question")
        wait_until(lambda count=count: len(second.requests) == count, "the question")
    answers = wait_for_answers(door, number, len(expected))
    assert sorted(answer.answer or "" for answer in answers) == expected
    content = bytes_around(door.folder)
    assert MAIL.encode() not in content and KEY.encode() not in content and b"a rare phrase" not in content


def test_a_free_candidate_answers_without_tokens_and_fails_at_what_it_cannot(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, name: str
) -> None:
    rows = make_rows(40)
    labels = tuple(sorted({row.answer for row in rows}))
    recipe = Recipe("classical", "tickets", 1, "labels", "label", labels=labels)
    files = freeze_classical(rows, 7, has_labels=True)
    put_on_live_test(door, name, 180, candidate=recipe, files=files)
    vendor.answer = lambda body: "billing"
    ask(client, name, rows[0].prompt[-1].content)
    (answer,) = wait_for_answers(door, 180)
    assert answer.answer in labels and (answer.prompt_tokens, answer.completion_tokens) == (0, 0)
    ask(client, name, "with a tool", tools=[TOOL])
    failed = wait_for_answers(door, 180, 2)[1]
    assert (failed.answer, failed.prompt_tokens) == (None, 0)


@pytest.mark.deep
def test_nothing_of_it_is_counted_for_what_is_in_use(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, second: ChatVendor, name: str
) -> None:
    sha256 = put_on_live_test(door, name, 190)
    published = door.folder.published(name)
    assert published is not None
    door.folder.publish(replace(published, promotion=190))
    second.failures = deque([(500, error("no", "no"))])
    for number in range(2):
        ask(client, name, f"question {number}: billing")
        wait_for_answers(door, 190, number + 1)

    def counted() -> dict[str, Usage]:
        counts = usage.read(door.folder.root).items()
        return {key.recipe: each for key, each in counts if key.promotion == 190}

    wait_until(lambda: sum(each.calls for each in counted().values()) >= 2, "the counts")
    assert counted().keys() == {sha256}
    assert (counted()[sha256].calls, counted()[sha256].failed) == (2, 0)
    assert counted()[sha256].completion_tokens == 14
    assert len(samples.read(door.folder.root, name)) == 2


@pytest.mark.deep
def test_a_candidate_that_cannot_be_loaded_hurts_nobody(tmp_path: Path) -> None:
    folder = RecipeFolder(tmp_path / "serving")
    stored = folder.add(PROMPT, {})
    live_test = PublishedTest(1, "ab" * 32, 5.0, asks_sampled=True)
    folder.publish(Published("team/a", stored.sha256, 1, sampling=EVERY, live_test=live_test))
    with serve_vendor(ChatVendor()) as vendor, serve_door(folder) as door, door.client() as client:
        folder.publish_upstreams(Upstreams((Upstream("acme", vendor.url, "ACME_KEY"),)))
        wait_until(lambda: "loading the recipe abababababab" in door.log, "the attempt")
        assert ask(client, "team/a").choices[0].message.content == "billing"
        wait_for(door, "team/a")
        later = folder.add(replace(PROMPT, prompt="Another?"), {})
        folder.publish(Published("team/a", later.sha256, 2, sampling=EVERY, live_test=live_test))
        assert ask(client, "team/a").choices[0].message.content == "billing"
        wait_for(door, "team/a", 2)
    assert shadow_answers.read(folder.root, 1) == ()
    assert len(vendor.requests) == 2


def test_what_does_not_fit_is_not_asked(tmp_path: Path) -> None:
    published = Published("team/a", "ab", 1, live_test=PublishedTest(1, "cd", 5.0, asks_sampled=True))
    questions = Shadow(None, tmp_path)
    messages = '[{"role": "user", "content": "x"}]'
    for number in range(shadow.MOST_WAITING + 5):
        drawn = DrawnCall(
            f"call-{number}", published, "ab", None, 1.0, {"messages": [1]}, {}, None, Usage(), 0
        )
        call = SampledCall(drawn.id, "team/a", 1, "ab", 1.0, messages, "y", 1, 1, False, None, "c")
        questions.add([StoredCall(drawn, call)])
    assert questions._waiting.qsize() == shadow.MOST_WAITING
