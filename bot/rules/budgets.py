"""The month's budgets, and the maximum and the actual cost of runs and measurements. Money is in micro-dollars, time in
seconds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, Protocol

from trainers.evaluation.results import Candidate
from trainers.models.chat_parameters import thinking_tokens
from trainers.money import from_micros, to_micros
from trainers.providers.pricing import PriceList, PriceRow
from trainers.providers.providers import ProviderRow, model_verdict
from trainers.types import Event, Job

if TYPE_CHECKING:  # storage opens the database's library, which the command line need not load
    from storage.evaluations import AnswerTotals

MILLION = 1_000_000
WARN_AT_PERCENT = (50, 80, 100)

Kind = Literal["team", "channel", "person"]


@dataclass(frozen=True)
class Budget:
    """The budget of one calendar month in UTC. `committed_micros` is spent and reserved money together. `id` is the id
    of the channel or person that the limit is for; '' for the team."""

    limit_micros: int
    committed_micros: int
    kind: Kind = "team"
    id: str = ""

    @property
    def whose(self) -> str:
        """The budget's name in the store: 'team', 'channel C1', 'person U1'."""
        return f"{self.kind} {self.id}".strip()

    @property
    def left_micros(self) -> int:
        return self.limit_micros - self.committed_micros

    def warnings(self) -> tuple[int, ...]:
        """The warning thresholds, in percent, that have been reached."""
        if not self.limit_micros:
            return ()
        return tuple(
            percent
            for percent in WARN_AT_PERCENT
            if 100 * self.committed_micros >= percent * self.limit_micros
        )

    def covers(self, channel: str, person: str) -> bool:
        """True if what this person asks for in this channel is paid from this budget."""
        match self.kind:
            case "team":
                return True
            case "channel":
                return self.id == channel
            case "person":
                return self.id == person

    def fits(self, asked_micros: int) -> bool:
        """True if the amount is left. An amount of 0 always fits, even if the budget is overdrawn."""
        return asked_micros <= max(self.left_micros, 0)


def tightest(budgets: Sequence[Budget]) -> Budget:
    """Returns the budget with the least left; the first one if several are equal."""
    return min(budgets, key=lambda budget: budget.left_micros)


def is_paid_by_token(prices: PriceList) -> bool:
    """True if training is paid by the token, and false if it is paid by the hour or is free."""
    row = prices.rows[0]
    return row.rental is None and bool(row.price.training)


def actual_micros(
    prices: PriceList,
    seconds: float,
    trained_tokens: int,
    base: AnswerTotals | None = None,
    tuned: AnswerTotals | None = None,
    billed_micros: int | None = None,
) -> int:
    """Returns what a run has cost.

    `prices` start with the rows of the tuned model and of the base model. A rented machine is paid for the `seconds`
    that it ran, and the team's own machine for the hours that it trained; what either answers costs nothing more,
    unless somebody else serves it by the token. A vendor, also one at which our trainer trains, is paid for trained
    tokens (or `billed_micros`, if it reported what it charged) and for both models' answers to the holdout.
    """
    tuned_row, base_row = prices.rows[:2]
    if tuned_row.rental is not None:
        dollars = tuned_row.rental.usd(round(seconds))
    elif tuned_row.usd_per_hour is not None and tuned_row.price.training is None:
        dollars = tuned_row.usd_per_hour * Decimal(round(seconds)) / 3600
    elif billed_micros is not None:
        dollars = from_micros(billed_micros)
    else:
        dollars = (tuned_row.price.training or Decimal(0)) * trained_tokens / MILLION
    if tuned_row.answers_by_hour:
        return to_micros(dollars)
    for row, tokens in ((base_row, base), (tuned_row, tuned)):
        if tokens:
            dollars += _tokens_usd(row, tokens.prompt_tokens, tokens.completion_tokens)
    return to_micros(dollars)


def seconds_since_creation(job: Job, events: Sequence[Event], *, are_all: bool) -> float:
    """Returns how long a job has trained, without pauses. `events` are newest first; `are_all` is true if they reach
    back to the job's first event.

    If a finished job doesn't show when training began, all the time since its creation counts: overcharging the budget
    is safer than undercharging. A job that was stopped while it was queued has trained for 0 seconds.
    """
    # All times are by the trainer's clock, which may differ from ours.
    times = [event.created_at for event in events]
    end = float(job.finished_at or max([job.created_at, *times]))
    start = None
    if are_all:
        start = _training_start(events)
        has_queued = any(event.announces("queued") for event in events)
        if start is None and has_queued and job.status != "succeeded":
            return 0.0
    if start is None and job.is_final:
        start = job.created_at
    elif start is None:
        start = min([end, *times])
    paused = _paused_seconds(events, start, end, was_paused=False)
    return max(0.0, end - start - paused)


def seconds_since_poll(
    job: Job, events: Sequence[Event], looked: float, now: float, *, was_paused: bool
) -> float:
    """Returns how long a job has trained since it was last polled at `looked`. `was_paused` says whether it was paused
    then, rather than running."""
    is_resumed = any(event.announces("resumed") for event in events)
    if job.status == "paused" and was_paused and not is_resumed:
        return 0.0
    end = min(float(job.finished_at or now), now)
    paused = _paused_seconds(events, looked, end, was_paused=was_paused and is_resumed)
    return max(0.0, end - looked - paused)


def _training_start(events: Sequence[Event]) -> float | None:
    """Returns when the job left the queue: the time of the first event after the last "queued" one. None if there is
    no such event."""
    newer = None
    for event in events:  # the newest first
        if not event.announces("queued"):
            newer = event
        elif newer is None:
            return None
        else:
            return float(newer.created_at)
    return None


def _paused_seconds(events: Sequence[Event], start: float, end: float, *, was_paused: bool) -> float:
    seconds = 0.0
    since = None
    if was_paused:
        since = start
    for event in reversed(events):
        # `start` may be by our clock and events by the trainer's, so that one seems to lie outside.
        at = min(max(float(event.created_at), start), end)
        if event.announces("resumed") and since is not None:
            seconds += at - since
            since = None
        elif event.announces("paused") and since is None and event.created_at >= start:
            since = at
    if since is not None:  # it is still paused
        seconds += end - since
    return seconds


class CandidateQuestions(Protocol):
    """A candidate's questions: the keys of their answers, and the maximum number of tokens of each prompt."""

    @property
    def keys(self) -> tuple[str, ...]: ...

    @property
    def tokens(self) -> tuple[int, ...]: ...


def max_evaluation_micros(
    prices: Mapping[str, PriceRow],
    candidates: Mapping[Candidate, CandidateQuestions],
    stored: Collection[str],
    max_tokens: int,
    thinking: Collection[str],
) -> int:
    """Returns the maximum cost of the questions that have no stored answer yet. `stored` are the keys of the answers in
    the store. Each answer is counted with `max_tokens`, plus the most that a model in `thinking` may reason before it.
    A question that two candidates share is asked and counted once."""
    dollars = Decimal(0)
    counted = set(stored)
    for candidate, questions in candidates.items():
        price = prices.get(candidate.model or "")
        if price is not None:
            most = max_tokens + thinking_tokens(candidate.model in thinking)
            dollars += _max_usd(price, questions, counted, most)
    return to_micros(dollars)


def paid_questions(
    prices: Mapping[str, PriceRow], keys: Mapping[Candidate, Sequence[str]]
) -> Mapping[str, frozenset[str]]:
    """Returns the answer keys of each model that has a price. A question that two candidates share is counted once."""
    by_model: dict[str, frozenset[str]] = {}
    for candidate, its_keys in keys.items():
        if candidate.model is not None and candidate.model in prices:
            keys_before = by_model.get(candidate.model, frozenset())
            by_model[candidate.model] = keys_before.union(its_keys)
    return by_model


def spent_micros(prices: Mapping[str, PriceRow], answers: Mapping[str, AnswerTotals]) -> int:
    """Returns what all these answers have cost."""
    dollars = (
        _tokens_usd(prices[model], tokens.prompt_tokens, tokens.completion_tokens)
        for model, tokens in answers.items()
    )
    return to_micros(sum(dollars, Decimal(0)))


def max_judge_micros(
    price: PriceRow, questions: CandidateQuestions, stored: Collection[str], max_tokens: int
) -> int:
    """Like `max_evaluation_micros`, for the model that judges answers."""
    return to_micros(_max_usd(price, questions, set(stored), max_tokens))


def question_micros(price: PriceRow, sent: int, answered: int) -> int:
    """Returns the price of one question by its prompt and answer tokens; 0 if the machine is paid by the hour."""
    if price.answers_by_hour:
        return 0
    return to_micros(_tokens_usd(price, sent, answered))


def _max_usd(price: PriceRow, questions: CandidateQuestions, counted: set[str], max_tokens: int) -> Decimal:
    dollars = Decimal(0)
    for key, tokens in zip(questions.keys, questions.tokens, strict=True):
        if key not in counted:
            counted.add(key)
            dollars += _tokens_usd(price, tokens, max_tokens)
    return dollars


def _tokens_usd(price: PriceRow, sent: int, answered: int) -> Decimal:
    read = (price.price.input or Decimal(0)) * sent
    written = (price.price.output or Decimal(0)) * answered
    return (read + written) / MILLION


@dataclass(frozen=True)
class DuplicateCost:
    """What training on duplicate rows costs per epoch: `usd` at `target` ('provider/model'). Both are None if no
    provider charges by the token."""

    tokens: int
    target: str | None = None
    usd: Decimal | None = None


def duplicate_cost(tokens: int, rows: Sequence[ProviderRow], today: date) -> DuplicateCost | None:
    """Returns the cost of `tokens` of duplicates at the cheapest trainable model of the providers in `rows`; None
    without duplicates."""
    if tokens <= 0:
        return None
    prices = []
    for row in rows:
        for model in row.models:
            price = model.price.training
            if price and model_verdict(row, model, today).may_train:
                prices.append((price, f"{row.name}/{model.name}"))
    if not prices:
        return DuplicateCost(tokens)
    price, target = min(prices)
    return DuplicateCost(tokens, target, price * tokens / MILLION)
