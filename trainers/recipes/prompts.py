"""Applies a recipe to a program's request: its messages become the prompt that was measured, and what the program
leaves open is asked as in the measurement. Sends nothing.

Messages are those of a chat completion, or the items of OpenAI's Responses. Whatever the recipe doesn't change, such as
images, names and calls of tools, is passed on as the program wrote it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast, get_args

from trainers.dataset.rows import INSTRUCTION_ROLES, Example, default_system, with_system
from trainers.evaluation import prompts
from trainers.evaluation.results import CandidateKind
from trainers.models import chat_parameters
from trainers.models.chat_parameters import TOKEN_LIMITS, ChatParameters
from trainers.recipes.library import NOTHING_SHOWN, Shown, example_of
from trainers.recipes.values import Recipe
from trainers.types import Message, Role

Body = dict[str, Any]
ROLES = frozenset(get_args(Role))
ROLES_WITH_TEXT = ROLES - {"tool"}
# With a prompt of their own, these put the same before every conversation.
SAME_BEGINNING: frozenset[CandidateKind] = frozenset({"zero", "optimised", "kshot"})
TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
MOST_ANSWER_TOKENS = 1_024  # if the recipe names no cap
_NO_ANSWER = Message("assistant", "")


def as_row(messages: Sequence[Mapping[str, Any]]) -> Example:
    """Returns a request's messages as a row of data whose answer is empty. Each message's `extra` is its index, by
    which the original is found again; of its content only the text counts."""
    turns = []
    for index, raw in enumerate(messages):
        turn = Message(_role_of(raw), _text_of(raw), extra=str(index))
        turns.append(turn)
    turns.append(_NO_ANSWER)
    return Example(0, tuple(turns))


def write_prompt(
    recipe: Recipe, messages: Sequence[Mapping[str, Any]], shown: Shown = NOTHING_SHOWN
) -> list[Body]:
    """Returns the messages that the model is asked, in OpenAI's form."""
    if _has_same_beginning(recipe):
        # The beginning is the same for every call, so it is written once; a call's own turns stay as they are.
        prompt = list(_beginning(recipe))
        for message in messages:
            if _role_of(message) not in INSTRUCTION_ROLES:
                prompt.append(dict(message))
        return prompt
    row = _with_instructions(recipe, as_row(messages))
    written = _measured_prompt(recipe, row, shown)
    return [_original_or_new(message, messages) for message in written]


def _has_same_beginning(recipe: Recipe) -> bool:
    """True if the recipe puts the same before every conversation, whatever a program's instructions say."""
    if recipe.kind not in SAME_BEGINNING:
        return False
    return recipe.prompt is not None and recipe.prompt.strip() != ""


@lru_cache(maxsize=64)
def _beginning(recipe: Recipe) -> tuple[Body, ...]:
    """Returns what a recipe with instructions of its own puts before every conversation."""
    empty_question = {"role": "user", "content": ""}
    row = as_row([empty_question])
    *before, _question = _measured_prompt(recipe, row, NOTHING_SHOWN)
    return tuple(_body_of(message) for message in before)


def _with_instructions(recipe: Recipe, row: Example) -> Example:
    """Gives a request without instructions those that the measured rows came with."""
    if row.system or recipe.instructions == "":
        return row
    instructions = recipe.instructions or default_system(recipe.task)
    (instructed,) = with_system([row], instructions)
    return instructed


def _measured_prompt(recipe: Recipe, row: Example, shown: Shown) -> tuple[Message, ...]:
    """As bot/services/evidence/candidate_prompts.py writes it for a held-out row."""
    labels = recipe.labels
    prompt = recipe.prompt
    answer_format = recipe.answer_format
    match recipe.kind:
        case "zero" | "optimised":
            return prompts.zero_shot(row, labels, prompt, answer_format)
        case "retrieval" if recipe.retrieved == "passages":
            return prompts.with_passages(row, labels, prompt, shown.passages, answer_format)
        case "kshot" | "retrieval":
            # Those for this question, or those that a recipe of the kind "kshot" shows with every question.
            shots = shown.shots or recipe.shots
            rows = [example_of(shot) for shot in shots]
            return prompts.k_shot(row, labels, prompt, rows, answer_format)
        case "tuned":
            return prompts.trained_prompt(row)
        case "classical" | "encoder":
            raise ValueError(f"a recipe of the kind {recipe.kind} asks no model")


def _original_or_new(message: Message, originals: Sequence[Mapping[str, Any]]) -> Body:
    if not message.extra:  # the recipe's own
        return _body_of(message)
    index = int(message.extra)
    original = dict(originals[index])
    if message.content == _text_of(original):
        return original
    # Instructions, which the recipe has added to.
    return {**original, "content": message.content}


def _body_of(message: Message) -> Body:
    return {"role": message.role, "content": message.content}


def _role_of(message: Mapping[str, Any]) -> Role:
    """Returns the role of a message. Items of Responses have none if they are calls, results or thoughts."""
    role = message.get("role")
    if isinstance(role, str) and role in ROLES:
        return cast(Role, role)
    return "assistant"


def _text_of(message: Mapping[str, Any]) -> str:
    """Returns the text of a message without its images and other parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = []
    for part in content:
        if not _is_text_part(part):
            continue
        text = part.get("text")
        # The request wasn't checked before, so a part may have anything as its text.
        if isinstance(text, str):
            texts.append(text)
    return "\n".join(texts)


def has_only_text(messages: Sequence[Mapping[str, Any]]) -> bool:
    """True if the messages have no images, sounds, files or calls of tools."""
    return all(_is_text(message) for message in messages)


def _is_text(message: Mapping[str, Any]) -> bool:
    if message.get("tool_calls"):
        return False
    role = message.get("role")
    if not isinstance(role, str):
        return False
    if role not in ROLES_WITH_TEXT:
        return False
    content = message.get("content")
    if isinstance(content, list):
        return all(map(_is_text_part, content))
    return isinstance(content, str)


def _is_text_part(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    return isinstance(kind, str) and kind in TEXT_PARTS


def measured_parameters(recipe: Recipe, refused: Collection[str] = ()) -> ChatParameters:
    """Returns the decoding parameters with which a model was measured. `refused` are those that it has refused
    since."""
    assert recipe.model is not None  # noqa: S101  free kinds have no parameters
    model, _ = chat_parameters.split_effort(recipe.model)
    most = recipe.max_tokens or MOST_ANSWER_TOKENS
    most += chat_parameters.thinking_tokens(recipe.is_thinking)
    return _parameters_for(model, recipe.is_thinking, most, frozenset(refused))


@lru_cache(maxsize=256)
def _parameters_for(model: str, is_thinking: bool, most: int, refused: frozenset[str]) -> ChatParameters:
    return chat_parameters.parameters_for(model, is_thinking, most, 0, refused)


def open_parameters(measured: ChatParameters, body: Mapping[str, Any]) -> ChatParameters:
    """Returns those of the measured parameters that a request leaves open. Its cap on the answer keeps its number, and
    gets the name by which this model takes one."""
    changes: dict[str, Any] = {}
    own_cap = _own_cap(body)
    if own_cap is not None:
        for name in TOKEN_LIMITS.intersection(measured.sent):
            changes[name] = own_cap
    for name in ("temperature", "reasoning_effort"):
        if body.get(name) is not None:
            changes[name] = None
    return replace(measured, **changes)


def _own_cap(body: Mapping[str, Any]) -> Any:
    """Returns the cap on the answer that a request names, by whichever of its names, None if it names none."""
    for name in sorted(TOKEN_LIMITS):
        if body.get(name) is not None:
            return body[name]
    return None


def fill(body: Mapping[str, Any], parameters: ChatParameters) -> Body:
    """Returns a request for a chat completion with the parameters that it left open."""
    filled = {name: value for name, value in body.items() if name not in TOKEN_LIMITS}
    for name in parameters.sent:
        filled[name] = getattr(parameters, name)
    return filled
