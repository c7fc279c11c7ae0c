"""The evaluation engine: candidates answer the same questions, each paid once, through the cache of answers.

An evaluation continues from wherever it was stopped: an answer is stored under its question's key, so a step counts
what is there, asks what is missing and not under way, and books what has come. The ladder, its judge, a run's result, a
tuned model's curve and the terminal all use it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Protocol

from bot.llm_client import Declined, LlmClient, Question
from bot.rules.budgets import paid_questions, spent_micros
from bot.values.evaluations import ArmProgress
from storage.evaluations import AnswerTotals
from storage.records import CachedAnswer
from storage.store import Store
from trainers.evaluation.results import NO_ANSWER, Candidate, Reply
from trainers.evaluation.scores import without_thoughts
from trainers.pricing import PriceRow

SURELY_DECLINED = 5  # so many refusals and not one answer: the model itself can't be asked


class Asking(Protocol):
    """The part of a context that the engine needs; the terminal's session has it too."""

    @property
    def store(self) -> Store: ...

    @property
    def llm(self) -> LlmClient: ...


@dataclass(frozen=True)
class Evaluation:
    """`owner` is 'm3' or 'run 3'. `keys`: those of each candidate's answers, in the rows' order. `questions` builds the
    questions of given keys. Answers that came before `since` (unix seconds) are free."""

    owner: str
    keys: Mapping[Candidate, Sequence[str]]
    questions: Callable[[frozenset[str]], Sequence[Question]]
    since: float = 0.0

    @property
    def all_keys(self) -> list[str]:
        return [key for keys in self.keys.values() for key in keys]


@dataclass(frozen=True)
class Answers:
    """How far an evaluation is. `paid`: the tokens of each candidate's answers. `missing`: for each candidate that has
    not failed, the questions that were neither answered nor declined. `unasked`: those of models that neither wait nor
    are under way."""

    arms: tuple[ArmProgress, ...]
    paid: Mapping[Candidate, AnswerTotals]
    missing: Mapping[Candidate, frozenset[str]]
    unasked: frozenset[str]

    @property
    def all_missing(self) -> frozenset[str]:
        return frozenset[str]().union(*self.missing.values())

    @property
    def failed(self) -> str | None:
        """Why the first candidate that failed can't be asked."""
        return next((arm.failed for arm in self.arms if arm.failed is not None), None)


def collect(context: Asking, evaluation: Evaluation, before: Sequence[ArmProgress]) -> Answers:
    """Returns what has come since `before`. What was declined is reported once, so the caller has to store the result.

    Answers are counted, not read: reading a thousand rows took most of a tick.
    """
    declined = context.llm.collect(evaluation.owner)
    by_provider: dict[str, set[str]] = {}
    for candidate, keys in evaluation.keys.items():
        if candidate.model:
            by_provider.setdefault(_provider(candidate.model), set()).update(keys)
    # looked at before the answers are: one that comes in between is not asked for again
    looked = (context.llm.idle(name, frozenset(keys)) for name, keys in by_provider.items())
    idle = frozenset[str]().union(*looked)
    looks = {
        candidate: context.store.answers.count(keys, since=evaluation.since)
        for candidate, keys in evaluation.keys.items()
    }
    arms = tuple(count(arm, evaluation.keys[arm.arm], looks[arm.arm][0], declined) for arm in before)
    missing = {
        arm.arm: frozenset(evaluation.keys[arm.arm]) - looks[arm.arm][0] - set(arm.declined)
        for arm in arms
        if arm.failed is None
    }
    of_models = (keys for candidate, keys in missing.items() if candidate.model)
    unasked = idle & frozenset[str]().union(*of_models)
    return Answers(arms, {candidate: paid for candidate, (_, paid) in looks.items()}, missing, unasked)


def count(
    arm: ArmProgress, keys: Sequence[str], answered: AbstractSet[str], declined: Sequence[Declined]
) -> ArmProgress:
    """Returns a candidate's progress: what was answered, what was declined, and whether it can go on at all."""
    if arm.failed is not None:
        return arm
    ours = [refusal for refusal in declined if refusal.model == arm.arm.model]
    refused = {refusal.key for refusal in ours if not refusal.of_model} & set(keys)
    silent = tuple(key for key in dict.fromkeys((*arm.declined, *sorted(refused))) if key not in answered)
    there = sum(key in answered for key in keys)
    failed = next((refusal.why for refusal in ours if refusal.of_model), None)
    if there and set(keys) - set(silent) <= answered:
        failed = None  # all that it was to say is there, whatever became of the model since
    if failed is None and silent and not there and len(silent) >= min(SURELY_DECLINED, len(set(keys))):
        failed = next((refusal.why for refusal in ours), "It declined every question.")
    why = arm.why_declined or next((refusal.why for refusal in ours if refusal.key in silent), None)
    return replace(arm, answered=there, declined=silent, failed=failed, why_declined=why)


def store_free_answers(
    context: Asking,
    candidate: Candidate,
    keys: Sequence[str],
    replies: Sequence[Reply],
    now: float,
    owner: str | None = None,
) -> None:
    """Stores the answers of a candidate that asks no model beside the models'."""
    rows = [
        CachedAnswer(key, candidate.rung, reply.text, 0, 0, reply.seconds, now)
        for key, reply in zip(keys, replies, strict=True)
    ]
    context.store.answers.keep(rows, owner)


def ask(context: Asking, evaluation: Evaluation, keys: frozenset[str]) -> None:
    """Asks these questions, the `unasked` ones of the answers."""
    questions = evaluation.questions(keys) if keys else ()
    for provider in sorted({_provider(question.model) for question in questions}):
        theirs = [question for question in questions if _provider(question.model) == provider]
        context.llm.ask(evaluation.owner, provider, theirs)
    context.llm.wake()


def waiting_reasons(context: Asking, models: Iterable[str]) -> str | None:
    """Returns why questions to these models wait now, as sentences."""
    sentences = (context.llm.trouble(name) for name in sorted({_provider(model) for model in models}))
    return " ".join(filter(None, sentences)) or None


def waiting_note(context: Asking, models: Iterable[str]) -> str | None:
    """Returns what a card says while questions to these models wait."""
    sentences = waiting_reasons(context, models)
    return f"{sentences} Measuring goes on by itself." if sentences else None


def replies(
    context: Asking, keys: Mapping[Candidate, Sequence[str]], arms: Collection[ArmProgress]
) -> dict[Candidate, list[Reply]]:
    """Returns the replies of the candidates that have not failed. A question that was declined counts as an empty
    answer."""
    measured = [arm.arm for arm in arms if arm.failed is None]
    cached = context.store.answers.read([key for candidate in measured for key in keys[candidate]])
    return {candidate: [_reply(cached.get(key)) for key in keys[candidate]] for candidate in measured}


def spent(
    context: Asking,
    prices: Mapping[str, PriceRow],
    keys: Mapping[Candidate, Sequence[str]],
    since: float,
) -> int:
    """Returns the micro-dollars of the answers that came `since` then. A question that two candidates share is paid
    once."""
    totals = context.store.answers.totals
    by_model = paid_questions(prices, keys)
    return spent_micros(
        prices, {model: totals(sorted(theirs), since=since) for model, theirs in by_model.items()}
    )


def _provider(model: str) -> str:
    return model.split("/", 1)[0]


def _reply(answer: CachedAnswer | None) -> Reply:
    if answer is None:
        return NO_ANSWER
    text = without_thoughts(answer.text)
    return Reply(text, answer.prompt_tokens, answer.completion_tokens, answer.seconds, answer.at)
