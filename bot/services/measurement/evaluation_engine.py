"""The evaluation engine: all candidates answer the same questions, and no question is paid for twice, because answers
are cached.

An evaluation can be stopped and resumed anywhere. An answer is stored under its question's key, so a step counts the
stored answers, asks the missing ones that are not under way, and books what they cost. The comparison, its judge, the
choice of examples, the search for a prompt, a run's result and the terminal all use it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Protocol

from bot.llm_client import Declined, LlmClient, Question
from bot.rules import budgets
from bot.values.evaluations import CandidateProgress
from storage.evaluations import AnswerTotals
from storage.records import CachedAnswer
from storage.store import Store
from trainers.evaluation.results import NO_ANSWER, Candidate, Reply
from trainers.evaluation.scores import strip_thoughts
from trainers.providers.pricing import PriceRow

SURELY_DECLINED = 5  # with this many questions declined and none answered, the model itself can't be asked


class EngineContext(Protocol):
    """The part of an `AppContext` that the engine needs; the terminal's session provides it too."""

    @property
    def store(self) -> Store: ...

    @property
    def llm(self) -> LlmClient: ...


@dataclass(frozen=True)
class Evaluation:
    """`owner` is 'm3' or 'run 3'. `keys` are the keys of each candidate's answers, in the order of the rows.
    `questions` builds the questions with given keys. Answers from before `since` (unix seconds) are free."""

    owner: str
    keys: Mapping[Candidate, Sequence[str]]
    questions: Callable[[frozenset[str]], Sequence[Question]]
    since: float = 0.0

    @property
    def all_keys(self) -> list[str]:
        return [key for keys in self.keys.values() for key in keys]


@dataclass(frozen=True)
class Answers:
    """How far an evaluation is. `paid` are the tokens of each candidate's answers. `missing` are, for each candidate
    that has not failed, the questions that were neither answered nor declined. `unasked` are the missing ones that can
    be asked now: they need a model, and are neither queued nor under way."""

    candidates: tuple[CandidateProgress, ...]
    paid: Mapping[Candidate, AnswerTotals]
    missing: Mapping[Candidate, frozenset[str]]
    unasked: frozenset[str]

    @property
    def all_missing(self) -> frozenset[str]:
        return frozenset[str]().union(*self.missing.values())

    @property
    def failed(self) -> str | None:
        """Why the first of the failed candidates can't be asked, None if none has failed."""
        for candidate in self.candidates:
            if candidate.failed is not None:
                return candidate.failed
        return None


def collect(context: EngineContext, evaluation: Evaluation, before: Sequence[CandidateProgress]) -> Answers:
    """Returns the answers so far, given the progress `before`. The client reports each declined question only once, so
    the caller has to store the result.

    Answers are counted, not read: reading a thousand rows took most of a tick.
    """
    declined = context.llm.collect(evaluation.owner)
    # Before the answers are counted: one that arrives in between must not be asked for again.
    idle = _idle_keys(context, evaluation)
    answered: dict[Candidate, frozenset[str]] = {}
    paid: dict[Candidate, AnswerTotals] = {}
    for candidate, keys in evaluation.keys.items():
        answered_keys, totals = context.store.answers.count(keys, since=evaluation.since)
        answered[candidate] = answered_keys
        paid[candidate] = totals

    after = []
    missing: dict[Candidate, frozenset[str]] = {}
    for last in before:
        candidate = last.identity
        keys = evaluation.keys[candidate]
        progress = update_progress(last, keys, answered[candidate], declined)
        after.append(progress)
        if progress.failed is None:
            missing[candidate] = frozenset(keys) - answered[candidate] - set(progress.declined)

    for_models = frozenset[str]()
    for candidate, unanswered in missing.items():
        if candidate.model:
            for_models |= unanswered
    return Answers(tuple(after), paid, missing, unasked=idle & for_models)


def _idle_keys(context: EngineContext, evaluation: Evaluation) -> frozenset[str]:
    """Returns the keys of the questions to models that are neither queued nor under way."""
    by_provider: dict[str, set[str]] = {}
    for candidate, keys in evaluation.keys.items():
        if candidate.model is None:
            continue
        its_keys = by_provider.setdefault(_provider(candidate.model), set())
        its_keys.update(keys)
    idle = frozenset[str]()
    for name, keys_of_provider in by_provider.items():
        idle |= context.llm.idle(name, frozenset(keys_of_provider))
    return idle


def update_progress(
    candidate: CandidateProgress,
    keys: Sequence[str],
    answered: AbstractSet[str],
    declined: Sequence[Declined],
) -> CandidateProgress:
    """Returns a candidate's progress: what was answered, what was declined, and whether the candidate has failed."""
    if candidate.failed is not None:
        return candidate
    refusals = [refusal for refusal in declined if refusal.model == candidate.identity.model]
    of_questions = {refusal.key for refusal in refusals if not refusal.of_model}
    refused = of_questions & set(keys)
    ever_declined = dict.fromkeys((*candidate.declined, *sorted(refused)))  # each once, in order
    # An answer may have come from another measurement that asked the same.
    silent = tuple(key for key in ever_declined if key not in answered)
    why = candidate.why_declined
    if why is None:
        reasons = [refusal.why for refusal in refusals if refusal.key in silent]
        why = reasons[0] if reasons else None
    return replace(
        candidate,
        answered=sum(key in answered for key in keys),
        declined=silent,
        failed=_failure(set(keys), answered, set(silent), refusals),
        why_declined=why,
    )


def _failure(
    keys: AbstractSet[str],
    answered: AbstractSet[str],
    silent: AbstractSet[str],
    refusals: Sequence[Declined],
) -> str | None:
    """Returns why a candidate can't be asked, None if it can be, or if nothing is left to ask."""
    has_answers = not keys.isdisjoint(answered)
    # Nothing is left to ask, so it no longer matters that the model can't be asked now.
    if has_answers and keys - silent <= answered:
        return None
    for refusal in refusals:
        if refusal.of_model:
            return refusal.why
    if has_answers or not silent:
        return None
    if len(silent) < min(SURELY_DECLINED, len(keys)):
        return None
    if not refusals:  # they were declined before this step
        return "It declined every question."
    return refusals[0].why


def store_free_answers(
    context: EngineContext,
    candidate: Candidate,
    keys: Sequence[str],
    replies: Sequence[Reply],
    now: float,
    owner: str | None = None,
) -> None:
    """Stores the answers of a candidate that asks no model, in the same cache as the models' answers."""
    rows = []
    for key, reply in zip(keys, replies, strict=True):
        rows.append(CachedAnswer(key, candidate.kind, reply.text, 0, 0, reply.seconds, now))
    context.store.answers.keep(rows, owner)


def ask(context: EngineContext, evaluation: Evaluation, keys: frozenset[str]) -> None:
    """Asks the questions with these keys, which must be among the `unasked` ones."""
    by_provider: dict[str, list[Question]] = {}
    if keys:  # building the questions reads the held-out rows
        for question in evaluation.questions(keys):
            provider = _provider(question.model)
            by_provider.setdefault(provider, []).append(question)
    for provider in sorted(by_provider):
        context.llm.ask(evaluation.owner, provider, by_provider[provider])
    context.llm.wake()


def waiting_reasons(context: EngineContext, models: Iterable[str]) -> str | None:
    """Returns why questions to these models are waiting, as sentences, None if they are not."""
    providers = sorted({_provider(model) for model in models})
    troubles = [context.llm.trouble(name) for name in providers]
    sentences = " ".join(filter(None, troubles))
    return sentences or None


def waiting_note(context: EngineContext, models: Iterable[str]) -> str | None:
    """Returns the note for a card while questions to these models are waiting, None if they are not."""
    sentences = waiting_reasons(context, models)
    if sentences is None:
        return None
    return f"{sentences} Measuring resumes automatically."


def replies(
    context: EngineContext, keys: Mapping[Candidate, Sequence[str]], candidates: Collection[CandidateProgress]
) -> dict[Candidate, list[Reply]]:
    """Returns the replies of the candidates that have not failed. A declined question has an empty answer."""
    measured = [candidate.identity for candidate in candidates if candidate.failed is None]
    all_keys: list[str] = []
    for candidate in measured:
        all_keys += keys[candidate]
    cached = context.store.answers.read(all_keys)
    replies_of = {}
    for candidate in measured:
        replies_of[candidate] = [_reply(cached.get(key)) for key in keys[candidate]]
    return replies_of


def spent_micros(
    context: EngineContext,
    prices: Mapping[str, PriceRow],
    keys: Mapping[Candidate, Sequence[str]],
    since: float,
) -> int:
    """Returns the cost in micro-dollars of the answers that arrived `since` then. A question that two candidates share
    is counted once."""
    paid = {}
    for model, its_keys in budgets.paid_questions(prices, keys).items():
        paid[model] = context.store.answers.totals(sorted(its_keys), since=since)
    return budgets.spent_micros(prices, paid)


def lost_micros(context: EngineContext, prices: Mapping[str, PriceRow], owner: str) -> int:
    """Returns the highest cost in micro-dollars of the questions whose answers were lost, by a kill or a broken
    connection. They may have been paid for, and were asked again."""
    lost = context.store.sent_questions.lost(owner)
    priced = {model: tokens for model, tokens in lost.items() if model in prices}
    return budgets.spent_micros(prices, priced)


def _provider(model: str) -> str:
    provider, _, _ = model.partition("/")
    return provider


def _reply(answer: CachedAnswer | None) -> Reply:
    if answer is None:
        return NO_ANSWER
    text = strip_thoughts(answer.text)
    return Reply(text, answer.prompt_tokens, answer.completion_tokens, answer.seconds, answer.at)
