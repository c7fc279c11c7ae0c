"""Verdicts on answers to `/finetune try`, and the preference pairs made from them.

The person who asked says whether the answer was good or, if it was not, writes a better one. A pair is an answer that
was not good with a better one that somebody wrote, or with another answer to the same question that was good.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import orjson

from bot.cards import models as views
from bot.cards.blocks import code
from bot.cards.general import text_message
from bot.command_options import dataset_name
from bot.context import AppContext
from bot.rules.units import Misread
from bot.services import authorization, data_policy, datasets, models, notifications
from bot.services.row_labels_worker import store_lines
from bot.values.runs import Refusal
from storage.datasets import NewDataset
from storage.questions import TriedAnswer
from storage.records import Dataset
from trainers.dataset.checks import MINIMUM
from trainers.dataset.rows import normalise_text


def mark_good(context: AppContext, number: int, person: str) -> str | Refusal:
    """Records that an answer was good."""
    tried = may_judge(context, number, person)
    if isinstance(tried, Refusal):
        return tried
    with context.store.transaction():
        context.store.tried_answers.judge(tried, is_good=True)
    return views.verdict_noted(tried.dataset, len(_build_pairs(context, tried.dataset)), MINIMUM)


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
        noted = views.verdict_noted(tried.dataset, len(_build_pairs(context, tried.dataset)), MINIMUM)
        notifications.tell_person(context, None, person, "", text_message(noted))
    return noted


def may_judge(context: AppContext, number: int, person: str) -> TriedAnswer | Refusal:
    """Returns the answer, or why this person can't judge it."""
    refusal = authorization.refusal(context, person, "try")
    tried = context.store.tried_answers.get(number)
    if refusal:
        return refusal
    if tried is None or tried.person != person:
        return Refusal("This answer is no longer stored. Ask the model again, and judge its new answer.")
    return tried


def make_pairs(context: AppContext, name: str, person: str, channel: str) -> Dataset | Refusal:
    """Makes the pairs a new dataset, or the next version of one; it is checked like an upload."""
    checked = datasets.load_usable(context, name, person, channel)
    if isinstance(checked, Refusal):
        return checked
    owner = checked.dataset.owner
    refusal = authorization.refusal(context, person, "upload", owner)
    if refusal:
        return refusal
    pairs = _build_pairs(context, name)
    if len(pairs) < MINIMUM:
        return Refusal(views.too_few_pairs(name, len(pairs), MINIMUM))
    title = dataset_name(f"{name}-pairs")
    if isinstance(title, Misread):
        return Refusal(title.sentence)
    taken = Refusal(f"The pairs would get the name {code(title)}, which is not available here.")
    if context.store.datasets.owners().get(title, owner) != owner:
        return taken
    sha256 = store_lines(context.settings.files, map(orjson.dumps, pairs))
    new = NewDataset(title, owner, person, f"{title}.jsonl", source="")
    with context.store.transaction():
        detail = f"{len(pairs)} pairs of verdicts on models of {name}"
        added = datasets.add_generated_version(context, new, sha256, action="make pairs", detail=detail)
    return added or taken


def _build_pairs(context: AppContext, dataset: str) -> list[dict[str, Any]]:
    """Returns rows in OpenAI's format of preference pairs: each answer that was not good with each better one to the
    same question."""
    by_question: dict[str, list[TriedAnswer]] = defaultdict(list)
    for tried in context.store.tried_answers.judged(dataset):
        by_question[normalise_text(tried.question)].append(tried)
    pairs = []
    for answers in by_question.values():
        texts = ((tried.better, tried.answer if tried.is_good else None) for tried in answers)
        good = dict.fromkeys(text for both in texts for text in both if text)
        bad = {tried.answer: tried for tried in answers if not tried.is_good and tried.answer not in good}
        pairs += [_build_pair(context, tried, text) for tried in bad.values() for text in good]
    return pairs


def _build_pair(context: AppContext, tried: TriedAnswer, good: str) -> dict[str, Any]:
    model = context.store.model(tried.model)
    prompt = models.messages_for(context, model, tried.question) if model else ()
    messages = [{"role": message.role, "content": message.content} for message in prompt]
    return {
        "input": {"messages": messages or [{"role": "user", "content": tried.question}]},
        "preferred_output": [{"role": "assistant", "content": good}],
        "non_preferred_output": [{"role": "assistant", "content": tried.answer}],
    }
