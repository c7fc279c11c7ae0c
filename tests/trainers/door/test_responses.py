"""Responses and classifications through the door: passed on, translated, or answered by a free candidate."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest

from tests.patience import wait_until
from tests.peers.chat_vendor import ChatVendor, error
from tests.trainers.door.doors import NAME, PROMPT, Door, add_vendor, put_in_use
from tests.trainers.door.test_chat import TOOL, counted
from tests.trainers.evaluation.builders import make_orders, make_rows
from trainers.encoders import DEFAULT_ENCODER
from trainers.encoders.embedding import load_encoder
from trainers.evaluation.prompts import k_shot
from trainers.evaluation.retrieval import nearest_examples
from trainers.evaluation.tfidf import text_of
from trainers.recipes.classical import freeze_classical
from trainers.recipes.free import open_free
from trainers.recipes.library import freeze_examples
from trainers.recipes.usage import Usage
from trainers.recipes.values import Published, Recipe
from trainers.types import Message

ASKED = "My card was charged twice: billing"
FLAT_TOOL: Any = {"type": "function", **TOOL["function"]}


@pytest.fixture(params=[True, False], ids=["passed on", "translated"])
def is_native(request: pytest.FixtureRequest, door: Door, vendor: ChatVendor) -> bool:
    add_vendor(door.folder, vendor.url, has_responses=request.param)
    return bool(request.param)


def test_a_response_is_asked_with_the_measured_prompt(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, is_native: bool
) -> None:
    promotion = 50 + is_native
    put_in_use(door.folder, PROMPT, promotion)
    client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": ASKED}])
    response = client.responses.create(model=NAME, input=ASKED, instructions="Ignored by the recipe.")
    assert (response.output_text, response.status) == ("billing", "completed")
    assert response.usage is not None and response.usage.output_tokens == 7
    chat, sent = vendor.requests
    assert (sent["input"] if is_native else sent["messages"]) == chat["messages"]
    assert sent["temperature"] == 0
    assert (sent["max_output_tokens"] if is_native else sent["max_tokens"]) == 16
    assert "instructions" not in sent and sent.get("store", False) is False
    count = wait_until(
        lambda: counted(door, promotion) if counted(door, promotion).calls == 2 else None, "it"
    )
    assert (count.completion_tokens, count.unknown, count.cached_tokens > 0) == (14, 0, True)


def test_a_streamed_response_has_openais_events(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, is_native: bool
) -> None:
    put_in_use(door.folder, PROMPT)
    with client.responses.stream(model=NAME, input=[{"role": "user", "content": ASKED}]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text.split() == ["billing"] * (1 if is_native else 3)
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert "response.output_text.delta" in kinds
    assert final.usage is not None and final.usage.output_tokens == 7


def test_functions_are_called_by_a_translated_response(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    put_in_use(door.folder, PROMPT)
    response = client.responses.create(model=NAME, input="The weather in Paris?", tools=[FLAT_TOOL])
    (item,) = response.output
    assert item.type == "function_call" and (item.name, item.arguments) == (
        "get_weather",
        '{"city": "Paris"}',
    )
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
    question: Any = {"role": "user", "content": [{"type": "input_text", "text": "The weather?"}, image]}
    turns = [question, item.model_dump(exclude_none=True), result]
    assert client.responses.create(model=NAME, input=turns, tools=[FLAT_TOOL]).output_text == "sunny"
    *_, user, assistant, tool = vendor.requests[-1]["messages"]
    assert user["content"][1] == {
        "type": "image_url",
        "image_url": {"url": image["image_url"], "detail": "low"},
    }
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"] == "call_1"
    with pytest.raises(openai.BadRequestError, match="acme can call functions only"):
        client.responses.create(model=NAME, input="x", tools=[{"type": "web_search"}])


@pytest.mark.usefixtures("is_native")
@pytest.mark.parametrize("value", [[], "", 0])
def test_what_should_be_an_object_is_refused_if_it_is_empty_too(
    door: Door, client: openai.OpenAI, value: Any
) -> None:
    put_in_use(door.folder, PROMPT)
    with pytest.raises(openai.BadRequestError, match="'reasoning' must be an object"):
        client.responses.create(model=NAME, input="x", extra_body={"reasoning": value})


def test_a_conversation_that_a_provider_stores_is_refused(
    door: Door, client: openai.OpenAI, is_native: bool
) -> None:
    put_in_use(door.folder, PROMPT)
    with pytest.raises(openai.BadRequestError, match="in full as 'input'"):
        client.responses.create(model=NAME, input="x", previous_response_id="resp_1")


def test_what_a_model_refuses_is_left_out_of_responses_too(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    add_vendor(door.folder, vendor.url, has_responses=True)
    put_in_use(door.folder, replace(PROMPT, model="hot-only"))
    vendor.refuses = {"temperature": "Unsupported parameter: 'temperature'."}
    assert client.responses.create(model=NAME, input=ASKED).output_text == "billing"
    assert ["temperature" in body for body in vendor.requests] == [True, False]


def test_an_answer_that_is_no_chat_is_an_error_of_the_vendor(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    put_in_use(door.folder, PROMPT)
    vendor.failures = deque([(200, {"choices": []})])
    with pytest.raises(openai.InternalServerError, match="not what a chat completion looks like"):
        client.responses.create(model=NAME, input=ASKED)


def classify(door: Door, texts: object) -> httpx2.Response:
    headers = {"authorization": f"Bearer {door.folder.call_key()}"}
    body = {"model": NAME, "input": texts}
    return httpx2.post(f"{door.url}/classify", headers=headers, json=body, timeout=30)


def put_free_in_use(door: Door, promotion: int) -> Recipe:
    """The classical candidate, trained on six labels."""
    labels = tuple(sorted({row.answer for row in make_rows(36)}))
    recipe = Recipe("classical", "tickets", 1, "labels", "label", labels=labels)
    stored = door.folder.add(recipe, freeze_classical(make_rows(36), 0, has_labels=True))
    door.folder.publish(Published(NAME, stored.sha256, promotion))
    return stored


def test_a_free_candidate_answers_in_every_form(door: Door, client: openai.OpenAI) -> None:
    stored = put_free_in_use(door, 60)
    rows = make_rows(36)[:5]
    texts = [text_of(row) for row in rows]
    expected = [answer.text for answer in open_free(door.folder, stored).answer(texts)]
    answer = classify(door, texts)
    assert [result["label"] for result in answer.json()["data"]] == expected
    assert answer.headers["x-finetune-recipe"] == stored.sha256[:12]
    messages: Any = [{"role": "system", "content": "Not read."}, {"role": "user", "content": texts[0]}]
    chat = client.chat.completions.create(model=NAME, messages=messages)
    assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == (expected[0], "stop")
    chunks = list(client.chat.completions.create(model=NAME, messages=messages, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == [expected[0], None]
    assert client.responses.create(model=NAME, input=texts[0]).output_text == expected[0]
    with client.responses.stream(model=NAME, input=texts[0]) as stream:
        assert stream.get_final_response().output_text == expected[0]
    wait_until(lambda: counted(door, 60) == Usage(calls=5 + 4), "the count")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tools": [TOOL]}, "can't call tools"),
        ({"n": 2}, "more than one answer"),
        ({"response_format": {"type": "json_object"}}, "only with a label"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "but texts"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\]"),
    ],
)  # fmt: skip
def test_what_a_free_candidate_cannot_do_is_refused(
    door: Door, client: openai.OpenAI, more: dict[str, Any], words: str
) -> None:
    put_free_in_use(door, 61)
    with pytest.raises(openai.BadRequestError, match=words):
        client.chat.completions.create(
            **{"model": NAME, "messages": [{"role": "user", "content": "x"}], **more}
        )


def test_a_prompted_recipe_classifies_without_probabilities(door: Door, vendor: ChatVendor) -> None:
    put_in_use(door.folder, PROMPT, 70)
    answer = classify(door, ["It is billing", "Is it **delivery**", "no idea"]).json()
    assert [result["label"] for result in answer["data"]] == ["billing", "delivery", None]
    assert answer["data"][2]["answer"] == "idea"
    assert answer["usage"]["completion_tokens"] == 3 * 7
    vendor.failures = deque([(500, error("It broke.", "odd"))])
    assert classify(door, "It is billing").status_code == 500


def test_what_cannot_be_classified_is_refused(door: Door, vendor: ChatVendor) -> None:
    put_in_use(door.folder, PROMPT)
    for texts in ([], [1], {"a": 1}, None):
        assert classify(door, texts).status_code == 400
    assert "at most 100" in classify(door, ["x"] * 101).json()["error"]["message"]
    put_in_use(door.folder, replace(PROMPT, labels=(), task="free_text", scoring="judge"))
    assert "doesn't answer with one of some labels" in classify(door, "x").json()["error"]["message"]
    assert vendor.requests == []


@pytest.mark.deep
def test_a_recipe_that_looks_rows_up_shows_those_that_were_measured(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    rows, questions = make_rows(36), make_rows(4, seed=2)
    encoder = load_encoder()
    measured = nearest_examples(rows, questions, encoder, has_labels=True)
    recipe = replace(
        PROMPT,
        kind="retrieval",
        shots=(),
        retrieved="examples",
        nearest=measured.retrieval.k,
        encoder=DEFAULT_ENCODER,
    )
    stored = door.folder.add(recipe, freeze_examples(rows, encoder))
    door.folder.publish(Published(NAME, stored.sha256, 80))
    for question, shown in zip(questions, measured.rows, strict=True):
        client.chat.completions.create(model=NAME, messages=as_messages(question.prompt))
        prompt = k_shot(question, recipe.labels, recipe.prompt, shown)
        assert vendor.requests[-1]["messages"] == as_messages(prompt)


def as_messages(prompt: tuple[Message, ...]) -> Any:
    return [{"role": message.role, "content": message.content} for message in prompt]


def test_a_free_candidate_for_json_answers_with_an_object(door: Door, client: openai.OpenAI) -> None:
    orders = make_orders(60)
    recipe = Recipe("classical", "orders", 1, "free_text", "json")
    stored = door.folder.add(recipe, freeze_classical(orders, 0, has_labels=False))
    door.folder.publish(Published(NAME, stored.sha256, 90))
    text = text_of(orders[0])
    answer = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": text}], response_format={"type": "json_object"}
    )
    (expected,) = open_free(door.folder, stored).answer([text])
    assert answer.choices[0].message.content == expected.text and json.loads(expected.text)
    assert classify(door, text).json()["error"]["code"] == "no_labels"


def test_a_recipe_without_its_files_says_so(door: Door, client: openai.OpenAI) -> None:
    damaged = door.folder.add(Recipe("classical", "tickets", 1, "labels", "label", labels=("a", "b")), {})
    door.folder.publish(Published(NAME, damaged.sha256, 91))
    with pytest.raises(openai.InternalServerError, match=r"can't be used") as caught:
        client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "recipe_unusable" and str(door.folder.root) not in str(caught.value)
    put_free_in_use(door, 91)
    assert client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "x"}]).choices
