"""Verdicts on answers to `/finetune try`, and the preference pairs made from them.

The person who asked says whether the answer was good or, if it was not, writes a better one. A pair is an answer that
was not good with a better one that somebody wrote, or with another answer to the same question that was good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from bot.cards.common.blocks import code
from bot.cards.common.general import text_message
from bot.cards.models import tried_answers as views
from bot.context import AppContext
from bot.services.common import authorization, messages
from bot.services.datasets import data_policy, datasets, trained_rows
from bot.services.datasets.pairs import pairs_name
from bot.services.datasets.row_labels_worker import key_of_text, store_lines
from bot.services.serving import answerers
from bot.values.runs import Refusal
from storage.datasets import NewDataset
from storage.questions import TriedAnswer
from storage.records import Dataset
from trainers.dataset import Report
from trainers.dataset.checks import MINIMUM
from trainers.dataset.rows import normalise_text
from trainers.types import Message


@dataclass(frozen=True)
class PreferencePairs:
    """Rows in OpenAI's format. `empty` answers that were not good are left out: a pair needs two texts. So are `held`
    pairs whose question the dataset holds out: a model that has learnt from them could not be measured there."""

    rows: tuple[dict[str, Any], ...]
    empty: int
    held: int = 0


@dataclass(frozen=True)
class PairsDataset:
    """The version that was made of the pairs, without `empty` answers and the `held` pairs of held-out questions."""

    dataset: Dataset
    empty: int
    held: int = 0


def mark_good(context: AppContext, number: int, person: str) -> str | Refusal:
    """Records that an answer was good."""
    tried = may_judge(context, number, person)
    if isinstance(tried, Refusal):
        return tried
    if not tried.answer.strip():
        return Refusal(
            "The answer is empty, so it can't be preferred to another one. Ask again, or press 👎."
        )
    with context.store.transaction():
        context.store.tried_answers.judge(tried, is_good=True)
        context.audit(person, "judge answer", f"answer {tried.id} on {tried.dataset}", "good")
    return _note_verdict(context, tried)


def correct(context: AppContext, number: int, person: str, better: str) -> str | Refusal:
    """Records that an answer was not good, and the better one that the person wrote."""
    tried = may_judge(context, number, person)
    if isinstance(tried, Refusal):
        return tried
    text = better.strip()
    if normalise_text(text) in ("", normalise_text(tried.answer)):
        return Refusal("Write an answer that differs from the model's.")
    refusal = data_policy.secret_refusal(text, "Your answer")
    if refusal:
        return refusal
    with context.store.transaction():
        context.store.tried_answers.judge(tried, is_good=False, better=text)
        context.audit(person, "judge answer", f"answer {tried.id} on {tried.dataset}", "not good")
        noted = _note_verdict(context, tried)
        dataset = context.store.datasets.newest(tried.dataset)
        message = text_message(noted)
        if dataset is not None:
            message = views.noted_message(noted, dataset.id)
        messages.tell_person(context, None, person, "", message, topic="answers")
    return noted


def _note_verdict(context: AppContext, tried: TriedAnswer) -> str:
    pairs = _build_pairs(context, tried.dataset)
    is_empty = not tried.answer.strip()
    return views.verdict_noted(tried.question, tried.dataset, len(pairs.rows), MINIMUM, is_empty=is_empty)


def may_judge(context: AppContext, number: int, person: str) -> TriedAnswer | Refusal:
    """Returns the answer, or why this person can't judge it."""
    refusal = authorization.refusal(context, person, "try")
    tried = context.store.tried_answers.get(number)
    if refusal:
        return refusal
    if tried is None or tried.person != person:
        return Refusal("This answer is no longer stored. Ask the model again, and judge its new answer.")
    return tried


def make_pairs(context: AppContext, name: str, person: str, channel: str) -> PairsDataset | Refusal:
    """Makes the pairs a new dataset, or the next version of one; it is checked like an upload."""
    checked = datasets.load_usable(context, name, person, channel)
    if isinstance(checked, Refusal):
        return checked
    owner = checked.dataset.owner
    refusal = authorization.refusal(context, person, "upload", owner)
    if refusal:
        return refusal
    built = _build_pairs(context, name)
    pairs = _without_held_out(context, built, checked.report)
    n_pairs = len(pairs.rows)
    if n_pairs < MINIMUM:
        return Refusal(views.too_few_pairs(name, n_pairs, MINIMUM, pairs.empty, pairs.held))
    title = pairs_name(name)
    taken = Refusal(f"The pairs would get the name {code(title)}, which is not available here.")
    owner_of_name = context.store.datasets.owners().get(title, owner)
    if owner_of_name != owner:
        return taken
    # The file is written first: a version in the database without its file could never be checked.
    lines = map(orjson.dumps, pairs.rows)
    sha256 = store_lines(context.settings.files, lines)
    new = NewDataset(title, owner, person, f"{title}.jsonl", source="")
    detail = f"{n_pairs} pairs of verdicts on models of {name}"
    with context.store.transaction():
        added = datasets.add_generated_version(context, new, sha256, action="make pairs", detail=detail)
    if added is None:
        return taken
    return PairsDataset(added, pairs.empty, pairs.held)


def _without_held_out(context: AppContext, pairs: PreferencePairs, report: Report) -> PreferencePairs:
    held_keys = trained_rows.keys_set_aside(context, report)
    rows = [row for row in pairs.rows if _key_of(row) not in held_keys]
    n_held = len(pairs.rows) - len(rows)
    return replace(pairs, rows=tuple(rows), held=n_held)


def _key_of(pair: dict[str, Any]) -> bytes:
    """Returns the question_key of the question that was asked, which is the last message."""
    question = pair["input"]["messages"][-1]
    return key_of_text(question["content"])


def _build_pairs(context: AppContext, dataset: str) -> PreferencePairs:
    """Pairs each answer that was not good with each better one to the same question. Answers that differ only in case
    or spacing are the same, so a good one makes no pair with itself."""
    by_question: dict[str, list[TriedAnswer]] = defaultdict(list)
    for tried in context.store.tried_answers.judged(dataset):
        question = normalise_text(tried.question)
        by_question[question].append(tried)
    rows: list[dict[str, Any]] = []
    empty = 0
    for answers in by_question.values():
        good_texts = _good_texts(answers)
        also_good = {normalise_text(text) for text in good_texts}
        worse: dict[str, TriedAnswer] = {}  # by text, so that an answer which came twice makes no pair twice
        for tried in answers:
            if tried.is_good:
                continue
            text = normalise_text(tried.answer)
            if not tried.answer.strip():
                empty += 1
            elif text and text not in also_good:
                worse[tried.answer] = tried
        for tried in worse.values():
            rows += [_build_pair(context, tried, text) for text in good_texts]
    return PreferencePairs(tuple(rows), empty)


def _good_texts(answers: Sequence[TriedAnswer]) -> Collection[str]:
    """Returns the good answers and the better ones that people wrote, each once, in their order."""
    texts: dict[str, None] = {}
    for tried in answers:
        text = tried.better
        if tried.is_good:
            text = tried.answer
        if text and text.strip():
            texts[text] = None
    return texts


def _build_pair(context: AppContext, tried: TriedAnswer, good: str) -> dict[str, Any]:
    model = context.store.model(tried.model)
    instructions: tuple[Message, ...] = ()
    if model is not None:
        instructions = answerers.instructions_of(context, model)
    prompt = (*instructions, Message("user", tried.question))
    messages = [{"role": message.role, "content": message.content} for message in prompt]
    return {
        "input": {"messages": messages},
        "preferred_output": [{"role": "assistant", "content": good}],
        "non_preferred_output": [{"role": "assistant", "content": tried.answer}],
    }
