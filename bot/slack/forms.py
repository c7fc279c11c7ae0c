"""Forms that commands and buttons open, each for somebody who may fill it in. What they submit is read by modals.py."""

from __future__ import annotations

from dataclasses import replace

from bot.cards.common import message_topics as topic_cards
from bot.cards.datasets import datasets as dataset_cards
from bot.cards.decisions import estimate_form as estimate_cards
from bot.cards.decisions import run_again as run_again_cards
from bot.cards.decisions.estimate_form import AskedEstimate
from bot.cards.evidence import evaluations as evaluation_cards
from bot.services.common import authorization, message_topics
from bot.services.decisions import estimate_requests, run_again
from bot.services.measurement import evaluations
from bot.slack.replies import Call, Form
from bot.values.runs import Refusal


def upload_form(call: Call, **initial: str) -> Form | Refusal:
    """Returns the form with its `initial` values, or a refusal if this person may upload nowhere, since nobody should
    fill it in for nothing. The channel is checked once the person has chosen it."""
    refusal = authorization.refusal(call.context, call.person, "upload")
    if refusal:
        return refusal
    return dataset_cards.upload_modal(call.channel, **initial)


def baseline_form(call: Call, dataset: str | None = None) -> Form | Refusal:
    """Returns the form, or a refusal if there is nothing to choose from. `dataset` is preselected if it exists."""
    refusal = authorization.refusal(call.context, call.person, "read", call.channel)
    if refusal:
        return refusal
    choices = evaluations.form_choices(call.context, call.person, call.channel)
    if not choices.datasets:
        return Refusal("There is no dataset to measure on yet: `/finetune upload` adds the first one.")
    if dataset:
        choices = replace(choices, dataset=dataset)
    return evaluation_cards.form(call.channel, choices)


def estimate_form(
    call: Call, dataset: str | None = None, before: AskedEstimate | None = None
) -> Form | Refusal:
    """Returns the form, filled in like the earlier question `before`, by default this person's newest one about the
    dataset. `dataset` is preselected if it exists."""
    refusal = authorization.refusal(call.context, call.person, "read", call.channel)
    if refusal:
        return refusal
    choices = estimate_requests.form_choices(call.context, call.person, call.channel)
    if not choices.datasets:
        return Refusal("There is no dataset to estimate yet: `/finetune upload` adds the first one.")
    chosen = dataset if dataset in choices.datasets else None
    if chosen and before is None:
        before = estimate_requests.newest_question(call.context, chosen, call.person)
    return estimate_cards.form(call.channel, choices, chosen, before)


def run_again_form(call: Call, run: int) -> Form | Refusal:
    earlier = run_again.load_earlier(call.context, run, call.person)
    if isinstance(earlier, Refusal):
        return earlier
    return run_again_cards.form(earlier)


def notify_form(call: Call) -> Form:
    """Returns the form for the messages that the person and, in a channel, the channel get."""
    chosen = message_topics.chosen_topics(call.context, call.person, call.channel)
    return topic_cards.form(call.channel, chosen)
