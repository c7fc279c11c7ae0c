"""A recipe asks what was measured, and leaves everything else of a request as it came."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.trainers.door.doors import PROMPT
from trainers.dataset import CLASSIFY, Example
from trainers.dataset.rows import REPLY
from trainers.evaluation import prompts as measured
from trainers.recipes.library import Shown, example_of
from trainers.recipes.prompts import (
    Body,
    fill,
    measured_parameters,
    open_parameters,
    write_prompt,
)
from trainers.recipes.values import Recipe, Shot
from trainers.types import Message

FORMAT = "Answer with one JSON object."
QUESTION = Message("user", "My card was charged twice.")
TURNS = (
    Message("system", "Be brief."),
    Message("user", "Hello"),
    Message("assistant", "Hi"),
    Message("developer", "In French."),
    QUESTION,
)
SHOTS = (Shot("Where is my parcel?", "delivery"), Shot("user: Hi\nassistant: Hello", "billing"))
ZERO = replace(PROMPT, kind="zero", shots=())
JSON = replace(ZERO, labels=(), task="free_text", scoring="json", answer_format=FORMAT)
RETRIEVAL = replace(ZERO, kind="retrieval", nearest=2)
ROWS = Shown(shots=SHOTS)
PASSAGES = Shown(passages=("Refunds take --- ten days.", "We deliver by bike."))


def as_asked(messages: tuple[Message, ...]) -> list[Body]:
    return [{"role": message.role, "content": message.content} for message in messages]


def row_of(messages: tuple[Message, ...]) -> Example:
    return Example(1, (*messages, Message("assistant", "billing")))


@pytest.mark.parametrize("turns", [(QUESTION,), TURNS], ids=["a question", "a conversation"])
@pytest.mark.parametrize("prompt", [None, "Which team answers?"], ids=["no prompt", "a prompt"])
@pytest.mark.parametrize(
    ("recipe", "shown"),
    [
        (ZERO, Shown()),
        (replace(ZERO, kind="optimised"), Shown()),
        (JSON, Shown()),
        (replace(PROMPT, shots=SHOTS), Shown()),
        (replace(RETRIEVAL, retrieved="examples"), ROWS),
        (replace(RETRIEVAL, retrieved="passages"), PASSAGES),
        (replace(ZERO, kind="tuned"), Shown()),
    ],
    ids=["zero", "optimised", "json", "kshot", "examples", "passages", "tuned"],
)
def test_the_prompt_is_the_measured_one(
    recipe: Recipe, shown: Shown, prompt: str | None, turns: tuple[Message, ...]
) -> None:
    recipe = replace(recipe, prompt=prompt, instructions="")
    row = row_of(turns)
    shots = [example_of(shot) for shot in shown.shots or recipe.shots]
    expected: tuple[Message, ...]
    if recipe.kind == "tuned":
        expected = measured.trained_prompt(row)
    elif recipe.retrieved == "passages":
        expected = measured.with_passages(row, recipe.labels, prompt, shown.passages, recipe.answer_format)
    else:
        expected = measured.k_shot(row, recipe.labels, prompt, shots, recipe.answer_format)
    assert write_prompt(recipe, as_asked(turns), shown) == as_asked(expected)


@pytest.mark.parametrize(
    ("recipe", "system"),
    [
        (replace(JSON, prompt=None, answer_format=""), REPLY),
        (replace(JSON, prompt=None), FORMAT),
        (replace(JSON, prompt=None, answer_format="", instructions="Be kind."), "Be kind."),
        (replace(JSON, prompt=None, answer_format="", instructions=""), None),
        (replace(ZERO, prompt=None), f"{CLASSIFY}\nLabels:\nbilling\ndelivery"),
        (replace(ZERO, kind="tuned", prompt=None), CLASSIFY),
    ],
)
def test_a_request_without_instructions_gets_those_of_the_measured_rows(
    recipe: Recipe, system: str | None
) -> None:
    written = write_prompt(recipe, as_asked((QUESTION,)))
    systems = [message["content"] for message in written if message["role"] == "system"]
    assert systems == ([system] if system else [])
    assert written[-1:] == as_asked((QUESTION,))


def test_images_names_and_calls_are_passed_on_as_they_came() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    function = {"name": "find", "arguments": "{}"}
    turns: list[Body] = [
        {"role": "user", "content": [{"type": "text", "text": "Look"}, image], "name": "ana"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "nothing"},
    ]  # fmt: skip
    written = write_prompt(PROMPT, turns)
    assert written[-3:] == turns
    assert written[0]["role"] == "system" and len(written) == 1 + 2 * len(PROMPT.shots) + 3


def test_what_a_program_sets_wins_and_its_cap_gets_the_models_own_name() -> None:
    def sent(recipe: Recipe, body: Body) -> Body:
        return fill(body, open_parameters(measured_parameters(recipe), body))

    thinking = replace(PROMPT, model="gpt-5-nano", is_thinking=True)
    assert sent(PROMPT, {}) == {"max_tokens": 16, "temperature": 0}
    assert sent(PROMPT, {"max_completion_tokens": 5, "temperature": 1, "seed": 3}) == {
        "max_tokens": 5,
        "temperature": 1,
        "seed": 3,
    }
    assert sent(thinking, {}) == {"max_completion_tokens": 16 + 1024, "reasoning_effort": "minimal"}
    assert sent(thinking, {"max_tokens": 9, "reasoning_effort": "high"}) == {
        "max_completion_tokens": 9,
        "reasoning_effort": "high",
    }
