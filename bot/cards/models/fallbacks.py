"""What answers programs when what is in use can't: on the card of what is in use, and after the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import CardBlock, Message, code, cut, escape
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import (
    price_in_sentence,
    promotable_name,
    promotable_text,
    short_meaning,
)
from bot.cards.common.general import text_message
from bot.cards.common.words import by_whom, capitalize, day, interval, percent, shorten
from bot.rules.models.promotion import alias_for
from storage.promotions import Fallback
from storage.records import Promotable
from trainers.evaluation.results import MeasuredCandidate


@dataclass(frozen=True)
class FallbackSummary:
    """A fallback with what is shown of it. `candidate` has its scores, None if they can't be read any more.
    `shared_provider` is the title of a provider that is asked by it and by what is in use, None if there is none."""

    fallback: Fallback
    candidate: MeasuredCandidate | None
    shared_provider: str | None = None

    @property
    def dataset(self) -> str:
        return self.fallback.dataset


def fallback_blocks(summary: FallbackSummary) -> Sequence[CardBlock]:
    """For the card of what is in use."""
    fallback = summary.fallback
    who = f"Chosen by {by_whom(fallback.person)} on {day(fallback.at)}"
    parts = Parts()
    case = "*If it can't answer*"
    if fallback.after_s is not None:
        case = f"*If it can't answer within {fallback.after_s:g} s*"
    parts.text(f"{case}, {promotable_text(fallback.what)} does{_figures(summary.candidate)}. {who}.")
    if fallback.trouble:
        parts.note(f"Programs don't get the fallback yet: {escape(cut(fallback.trouble, 300))}")
    if summary.shared_provider:
        parts.note(_shared(summary.shared_provider))
    return parts


def chosen_message(summary: FallbackSummary) -> Message:
    return text_message(chosen_text(summary))


def ended_message(summary: FallbackSummary) -> Message:
    return text_message(ended_text(summary))


def chosen_text(summary: FallbackSummary) -> str:
    """For the person who chose it."""
    fallback = summary.fallback
    stand_in = capitalize(promotable_text(fallback.what)) + _short_figures(summary.candidate)
    alias = code(alias_for(summary.dataset))
    cases = "its provider is out or busy, its machine is stopped, or its model has ended"
    if fallback.after_s is not None:
        cases = (
            f"its provider is out or busy or takes longer than {fallback.after_s:g} s, its machine is stopped, or its "
            "model has ended"
        )
    text = (
        f"{stand_in} will answer programs that call {alias} whenever what is in use can't: {cases}. Such an answer "
        "says so in the header `x-finetune-fallback`."
    )
    if summary.shared_provider:
        text += f" {_shared(summary.shared_provider)}"
    undo = code(f"/finetune fallback {summary.dataset} to=nothing")
    return f"{text} {undo} ends that."


def ended_text(summary: FallbackSummary) -> str:
    """For the person who ended it."""
    name = promotable_text(summary.fallback.what)
    return (
        f"{capitalize(name)} no longer stands in for what is in use: if that can't answer, programs that call "
        f"{code(alias_for(summary.dataset))} get its error."
    )


def hint(dataset: str) -> str:
    """For the details of something in use that has no fallback."""
    command = code(f"/finetune fallback {dataset} CANDIDATE")
    return f"If it can't answer, programs get its error: {command} has something else that was measured answer then."


def fallback_name(what: Promotable) -> str:
    """As its calls are counted: 'encoder, as fallback'. Unescaped."""
    return f"{promotable_name(what)}, as fallback"


def _short_figures(candidate: MeasuredCandidate | None) -> str:
    """' (91.2% right, free)'."""
    if candidate is None:
        return ""
    costs = price_in_sentence(candidate.usd_per_1000)
    return f" ({percent(candidate.score)} {short_meaning(candidate)}, {costs})"


def _figures(candidate: MeasuredCandidate | None) -> str:
    """': 91.2% right (90-92%), free'."""
    if candidate is None:
        return ""
    between = interval(candidate.low, candidate.high)
    costs = price_in_sentence(candidate.usd_per_1000)
    return f": {percent(candidate.score)} {short_meaning(candidate)} ({between}), {costs}"


def _shared(provider: str) -> str:
    name = escape(shorten(provider))
    return f"Both ask {name}, so if {name} is out, neither answers."
