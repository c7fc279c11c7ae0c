"""What recorded calls say about a team's requests: models, instructions, tokens, times and calls a month. Pure.

Calls are grouped by model and instructions, since an estimate is about one task that one model does today.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trainers.dataset.rows import normalise_text
from trainers.traces.calls import TracedCall

DAY_S = 86_400.0
DAYS_A_MONTH = 365 / 12
ENOUGH_DAYS = 7  # a whole week, as weekdays and weekends differ
_Z95 = 1.96
_MOSTLY = 0.5


@dataclass(frozen=True)
class Amount:
    """A number that `n` of the calls have: its mean and its median."""

    n: int
    mean: float
    median: float


@dataclass(frozen=True)
class ModelFacts:
    """The calls of one model, and their `share` of all calls. Amounts are tokens of a call; seconds are half's and 95
    per cent's. None is what no call has."""

    model: str
    calls: int
    share: float
    errors: int
    prompt: Amount | None
    cached: Amount | None
    completion: Amount | None
    seconds_p50: float | None
    seconds_p95: float | None


@dataclass(frozen=True)
class PromptFacts:
    """Instructions that calls have in common. The most frequent are number 1."""

    number: int
    hash: str
    text: str
    calls: int
    share: float


@dataclass(frozen=True)
class Month:
    """Answered calls a month, extrapolated from `days` covered, with the range that the differences between its days
    allow: twice the standard error of a day's mean, or the range of its days if there are fewer than ENOUGH_DAYS, when
    it `is_uncertain`."""

    calls: int
    low: int
    high: int
    days: float
    is_uncertain: bool


@dataclass(frozen=True)
class TraceFacts:
    """Facts of calls. `first` and `last` are in seconds since 1970. `month` is None if less than a day is covered.
    `questions` have a text of a single turn; `repeated` of them were asked before."""

    calls: int
    errors: int
    first: float | None
    last: float | None
    month: Month | None
    models: tuple[ModelFacts, ...]
    prompts: tuple[PromptFacts, ...]
    questions: int
    repeated: int

    @property
    def tokens_a_request(self) -> int | None:
        """The mean input tokens of a request, None if they were not recorded."""
        amounts = [model.prompt for model in self.models if model.prompt]
        n_calls = sum(amount.n for amount in amounts)
        if not n_calls:
            return None
        tokens = sum(amount.mean * amount.n for amount in amounts)
        return max(1, round(tokens / n_calls))


@dataclass(frozen=True)
class LeftOut:
    """Calls of another group, by its model and the number of its instructions."""

    model: str
    prompt: int
    calls: int


@dataclass(frozen=True)
class Group:
    """The calls of a model with the same instructions. `prompt` is None if the instructions differ in most calls, or if
    all were chosen."""

    model: str
    prompt: int | None
    calls: tuple[TracedCall, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class NoSuchGroup:
    """The file has no such calls. `model` and `prompt` are those that were wanted."""

    model: str | None
    prompt: int | None


def gather_facts(calls: Sequence[TracedCall]) -> TraceFacts:
    """Counts what the calls say. Returns the models and instructions sorted by their number of calls."""
    times = [call.at for call in calls if call.at is not None]
    answered = [call.at for call in calls if call.at is not None and not call.is_error]
    questions = [normalise_text(call.question) for call in calls if call.question is not None]
    return TraceFacts(
        calls=len(calls),
        errors=sum(call.is_error for call in calls),
        first=min(times, default=None),
        last=max(times, default=None),
        month=month_of(answered),
        models=_facts_of_models(calls),
        prompts=find_prompts(calls),
        questions=len(questions),
        repeated=len(questions) - len(set(questions)),
    )


def find_prompts(calls: Sequence[TracedCall]) -> tuple[PromptFacts, ...]:
    """Returns the different instructions of calls whose messages were recorded, the most frequent first."""
    counts: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for call in calls:
        if call.messages:
            counts[call.prompt_hash] += 1
            texts.setdefault(call.prompt_hash, call.instructions)
    total = counts.total()
    prompts = []
    for number, key in enumerate(_by_frequency(counts), 1):
        share = counts[key] / total
        prompts.append(PromptFacts(number, key, texts[key], counts[key], share))
    return tuple(prompts)


def choose_group(
    calls: Sequence[TracedCall],
    model: str | None = None,
    prompt: int | None = None,
    *,
    all_prompts: bool = False,
) -> Group | NoSuchGroup:
    """Returns the calls of this model with these instructions, by default the most frequent ones. `prompt` is a number
    of `find_prompts`; calls without recorded messages have the number 0.

    If the instructions differ in most calls of a model, they probably hold data, and all its calls are one group."""
    numbers = {facts.hash: facts.number for facts in find_prompts(calls)}
    keys: list[_GroupKey] = []
    for call in calls:
        number = 0
        if call.messages:
            number = numbers[call.prompt_hash]
        keys.append(_GroupKey(call.model, number))
    wanted: Counter[_GroupKey] = Counter()
    for key in keys:
        if model in (None, key.model) and prompt in (None, key.prompt):
            wanted[key] += 1
    if not wanted:
        return NoSuchGroup(model, prompt)
    by_model: Counter[str] = Counter()
    for key, count in wanted.items():
        by_model[key.model] += count
    chosen_model, *_ = _by_frequency(by_model)
    of_model = Counter({key.prompt: count for key, count in wanted.items() if key.model == chosen_model})
    chosen: int | None = min(of_model, key=lambda number: (-of_model[number], number))
    differ = len(of_model) > _MOSTLY * of_model.total() and len(of_model) > 1
    if prompt is None and (all_prompts or differ):
        chosen = None
    return _group(calls, keys, chosen_model, chosen)


class _GroupKey(NamedTuple):
    model: str
    prompt: int


def _group(calls: Sequence[TracedCall], keys: Sequence[_GroupKey], model: str, prompt: int | None) -> Group:
    inside = []
    outside: Counter[_GroupKey] = Counter()
    for call, key in zip(calls, keys, strict=True):
        if key.model == model and prompt in (None, key.prompt):
            inside.append(call)
        else:
            outside[key] += 1
    left_out = [LeftOut(key.model, key.prompt, count) for key, count in outside.items()]
    left_out.sort(key=lambda each: (-each.calls, each.model, each.prompt))
    return Group(model, prompt, tuple(inside), tuple(left_out))


def month_of(times: Sequence[float]) -> Month | None:
    """Extrapolates calls that began at these times to a month. Returns None if they cover less than a day."""
    if not times:
        return None
    first = min(times)
    covered = (max(times) - first) / DAY_S
    if covered < 1:
        return None
    full_days = int(covered)
    daily = Counter(int((time - first) // DAY_S) for time in times)
    days = [daily[day] for day in range(full_days)]
    mean = len(times) / covered
    if full_days >= ENOUGH_DAYS:
        standard_error = statistics.stdev(days) / math.sqrt(full_days)
        margin = _Z95 * standard_error
        low = max(0.0, mean - margin)
        high = mean + margin
    else:
        low = min(mean, *days)
        high = max(mean, *days)
    return Month(
        calls=round(mean * DAYS_A_MONTH),
        low=round(low * DAYS_A_MONTH),
        high=round(high * DAYS_A_MONTH),
        days=covered,
        is_uncertain=full_days < ENOUGH_DAYS,
    )


def _facts_of_models(calls: Sequence[TracedCall]) -> tuple[ModelFacts, ...]:
    by_model: dict[str, list[TracedCall]] = defaultdict(list)
    for call in calls:
        by_model[call.model].append(call)
    counts = Counter({name: len(own) for name, own in by_model.items()})
    return tuple(_facts_of_model(name, by_model[name], len(calls)) for name in _by_frequency(counts))


def _facts_of_model(name: str, own: Sequence[TracedCall], total: int) -> ModelFacts:
    answered = [call for call in own if not call.is_error]
    seconds = sorted(call.seconds for call in answered if call.seconds is not None)
    return ModelFacts(
        model=name,
        calls=len(own),
        share=len(own) / total,
        errors=sum(call.is_error for call in own),
        prompt=_amount([call.prompt_tokens for call in own]),
        cached=_amount([call.cached_tokens for call in own]),
        completion=_amount([call.completion_tokens for call in own]),
        seconds_p50=_quantile(seconds, 0.5),
        seconds_p95=_quantile(seconds, 0.95),
    )


def _amount(values: Sequence[int | None]) -> Amount | None:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    median = statistics.median(numbers)
    return Amount(len(numbers), statistics.fmean(numbers), float(median))


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """Returns the smallest value that at least this share of the values doesn't exceed (nearest rank)."""
    if not ordered:
        return None
    rank = math.ceil(share * len(ordered))
    return ordered[max(0, rank - 1)]


def _by_frequency(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))
