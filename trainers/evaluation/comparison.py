"""Builds the comparison from all candidates' answers to the frozen holdout: scores, intervals, tests of pairs, and
costs. Asks no model; numpy is imported when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import TypeVar

from trainers.dataset.rows import Example, at, distinct_example_indices
from trainers.evaluation.quality_threshold import cheapest_passing, judge_candidates
from trainers.evaluation.results import (
    CANDIDATE_KINDS,
    NO_ANSWER,
    Candidate,
    Comparison,
    MeasuredCandidate,
    Pair,
    Reply,
    Scoring,
)
from trainers.evaluation.scores import count_calls, is_unread, label_or_text, score, scoring_of, task_of
from trainers.evaluation.statistics import (
    Interval,
    compare,
    confusion,
    detectable_gap,
    holm,
    macro_f1,
    mean_interval,
    normalise,
    paired_means,
    wilson,
)
from trainers.providers.pricing import PriceRow, UnknownPrice

T = TypeVar("T")
Prices = Mapping[str, PriceRow | UnknownPrice]
_DETECTABLE_Z = 1.959964 + 0.841621  # z of 0.975 and of 0.8: detected in 80% of cases at the 5% level


def build_comparison(
    replies: Mapping[Candidate, Sequence[Reply]],
    examples: Sequence[Example],
    labels: Sequence[str],
    bar: float,
    prices: Prices,
    *,
    dataset: str,
    version: int,
    holdout_sha256: str,
    measured_at: float,
    verdicts: Mapping[Candidate, Sequence[float]] | None = None,
    floor: float | None = None,
) -> Comparison:
    """Builds the comparison. `replies[candidate][i]` is the candidate's answer to `examples[i]`. `labels` is empty for
    free text. `prices` are by model name, 'provider/model'. `verdicts[candidate][i]` is a judge's verdict between 0 and
    1; if there are verdicts, they are the scores. `floor` is that of the dataset's report.

    Copies of a question count once, so 200 rows with 20 questions give at most 20 right ones. The same answers always
    give the same comparison. Raises ValueError if there are no rows or a candidate has not answered all of them.
    """
    _check_complete(replies, examples)
    distinct = distinct_example_indices(examples)
    examples = at(distinct, examples)
    replies = _at_each(distinct, replies)
    verdicts = _at_each(distinct, verdicts or {})

    scoring: Scoring
    if verdicts:
        scoring = "judge"
        floor = None  # it was not scored by the judge
    else:
        scoring = scoring_of(examples, task_of(labels))
    measured = _build_candidates(replies, examples, labels, prices, scoring, verdicts)
    candidates = judge_candidates(measured, bar)
    pairs, gap = _compare_all(candidates)

    never_answered: tuple[str, ...] = ()
    if scoring == "label":
        never_answered = _never_answered(replies, examples, labels)
    return Comparison(
        dataset=dataset,
        version=version,
        holdout_sha256=holdout_sha256,
        bar=bar,
        candidates=candidates,
        cheapest=cheapest_passing(candidates),
        pairs=pairs,
        detectable_gap=gap,
        never_answered=never_answered,
        prices_said_by=_price_sources(candidates, prices),
        measured_at=measured_at,
        floor=floor,
    )


def _at_each(rows: Sequence[int], values: Mapping[Candidate, Sequence[T]]) -> Mapping[Candidate, Sequence[T]]:
    return {candidate: at(rows, of_candidate) for candidate, of_candidate in values.items()}


def _effort(candidate: Candidate | MeasuredCandidate) -> int:
    """Returns the rank of a candidate in the order of effort."""
    return CANDIDATE_KINDS.index(candidate.kind)


def _check_complete(replies: Mapping[Candidate, Sequence[Reply]], examples: Sequence[Example]) -> None:
    if not examples:
        raise ValueError("judging answers to 0 held-out rows: there is nothing to judge")
    for candidate, its_replies in replies.items():
        if len(its_replies) != len(examples):
            raise ValueError(
                f"judging '{candidate.key}': it has {len(its_replies)} answers to {len(examples)} held-out rows"
            )


def _price_sources(candidates: Sequence[MeasuredCandidate], prices: Prices) -> tuple[str, ...]:
    sources = set()
    for candidate in candidates:
        if candidate.model is None:
            continue
        row = prices.get(candidate.model)
        if isinstance(row, PriceRow):
            sources.add(row.said_by)
    return tuple(sorted(sources))


def merge_comparisons(comparisons: Sequence[Comparison], bar: float) -> Comparison:
    """Joins comparisons of one holdout that were scored in the same way, the newest first, into one with every
    candidate.

    A candidate that was measured several times keeps its newest measurement. All are judged by `bar` together, and
    compared row by row, as if they had been measured at once. The rest is that of the newest comparison. Raises
    ValueError if there are no comparisons, or if they differ in their holdout or their number of rows.
    """
    if not comparisons:
        raise ValueError("joining 0 comparisons: there is nothing to join")
    newest = comparisons[0]
    by_candidate: dict[Candidate, MeasuredCandidate] = {}
    for comparison in reversed(comparisons):
        is_same_holdout = comparison.holdout_sha256 == newest.holdout_sha256
        if not is_same_holdout or comparison.n != newest.n:
            raise ValueError(
                f"joining comparisons of '{newest.dataset}': one has {comparison.n} held-out rows, another has "
                f"{newest.n} or other rows"
            )
        for candidate in comparison.candidates:
            by_candidate[candidate.identity] = candidate
    measured = sorted(by_candidate.values(), key=_effort)
    candidates = judge_candidates(measured, bar)
    pairs, gap = _compare_all(candidates)
    # a label counts as never answered only if no candidate of any comparison answered it
    silent = set(newest.never_answered)
    sources: set[str] = set()
    weights: dict[str, None] = {}  # a dict, which unlike a set keeps their order
    for comparison in comparisons:
        silent &= set(comparison.never_answered)
        sources |= set(comparison.prices_said_by)
        weights |= dict.fromkeys(comparison.weights)
    return replace(
        newest,
        bar=bar,
        candidates=candidates,
        cheapest=cheapest_passing(candidates),
        pairs=pairs,
        detectable_gap=gap,
        never_answered=tuple(sorted(silent)),
        prices_said_by=tuple(sorted(sources)),
        weights=tuple(weights),
    )


def usd_per_1000(candidate: Candidate, replies: Sequence[Reply], prices: Prices) -> Decimal | None:
    """Returns the price of a thousand such requests, rounded to a millionth of a dollar, or None if a price is unknown
    or nothing was asked.

    The hours of our own machine are divided among the requests that it answered in parallel. Free candidates cost
    nothing.
    """
    if candidate.model is None:
        return Decimal(0)
    row = prices.get(candidate.model)
    if not isinstance(row, PriceRow) or not replies:
        return None
    if row.usd_per_hour is not None and row.answers_by_hour:
        seconds = round(_busy_seconds(replies), 6)
        hours = Decimal(str(seconds)) / 3600
        return _round_usd(hours * row.usd_per_hour * 1000 / len(replies))
    if row.price.input is None or row.price.output is None:
        return None
    prompt_tokens = sum(reply.prompt_tokens for reply in replies)
    completion_tokens = sum(reply.completion_tokens for reply in replies)
    # The prices are dollars for a million tokens.
    usd = row.price.input * prompt_tokens + row.price.output * completion_tokens
    return _round_usd(usd / 1000 / len(replies))


def _round_usd(usd: Decimal) -> Decimal:
    return usd.quantize(Decimal("0.000001"))


def _busy_seconds(replies: Sequence[Reply]) -> float:
    """Returns the seconds in which a machine was busy. Time in which several requests ran in parallel counts once.
    Replies without the time of their arrival count as if they ran one after the other."""
    times: list[tuple[float, float]] = []
    busy = 0.0
    for reply in replies:
        if reply.came_at is None:
            busy += reply.seconds
        else:
            began_at = reply.came_at - reply.seconds
            times.append((began_at, reply.came_at))

    until = float("-inf")
    for began, came in sorted(times):
        alone_from = max(began, until)
        busy += max(came - alone_from, 0.0)
        until = max(until, came)
    return busy


def _build_candidates(
    replies: Mapping[Candidate, Sequence[Reply]],
    examples: Sequence[Example],
    labels: Sequence[str],
    prices: Prices,
    scoring: Scoring,
    verdicts: Mapping[Candidate, Sequence[float]],
) -> list[MeasuredCandidate]:
    measured = []
    for candidate in sorted(replies, key=_effort):
        built = _build_candidate(
            candidate,
            replies[candidate],
            examples,
            labels,
            prices,
            scoring,
            verdicts.get(candidate),
        )
        measured.append(built)
    return measured


def _build_candidate(
    candidate: Candidate,
    replies: Sequence[Reply],
    examples: Sequence[Example],
    labels: Sequence[str],
    prices: Prices,
    scoring: Scoring,
    verdicts: Sequence[float] | None,
) -> MeasuredCandidate:
    texts = [reply.text for reply in replies]
    if scoring == "judge":
        if verdicts is None or len(verdicts) != len(texts):
            raise ValueError(f"judging '{candidate.key}': some of its answers have no verdict of the judge")
        pairs = zip(verdicts, texts, strict=True)
        scores = tuple(_judged_score(verdict, text) for verdict, text in pairs)
    else:
        rows = zip(examples, texts, strict=True)
        scores = tuple(score(scoring, example.answer, text, labels) for example, text in rows)
    interval = _interval(scores)
    f1 = None
    if scoring == "label":
        right = [example.answer for example in examples]
        answers = [label_or_text(text, labels) for text in texts]
        f1 = macro_f1(confusion(right, answers))

    calls = 0
    if scoring in ("f1", "judge"):  # the other kinds are all calls, or none
        calls = count_calls(examples)
    wrong = [text for value, text in zip(scores, texts, strict=True) if not value]
    answered = [reply for reply in replies if reply != NO_ANSWER]
    seconds = [reply.seconds for reply in answered or replies]
    p50, p95 = percentiles(seconds)
    return MeasuredCandidate(
        identity=candidate,
        scoring=scoring,
        scores=scores,
        score=sum(scores) / len(scores),
        low=interval.low,
        high=interval.high,
        standing="undecided",  # until judge_candidates compares all candidates with the bar
        rows_to_decide=None,
        macro_f1=f1,
        unread=sum(is_unread(scoring, text, labels) for text in wrong),
        empty=sum(not text.strip() for text in texts),
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
        p50_s=p50,
        p95_s=p95,
        usd_per_1000=usd_per_1000(candidate, answered, prices),
        calls=calls,
    )


def _judged_score(verdict: float, text: str) -> float:
    if not text.strip():  # an empty answer is never acceptable, whatever the verdict
        return 0.0
    return float(verdict)


def _interval(scores: Sequence[float]) -> Interval:
    if _is_right_or_wrong(scores):
        right = round(sum(scores))
        return wilson(right, len(scores))
    return mean_interval(scores)


def _is_right_or_wrong(scores: Sequence[float]) -> bool:
    return set(scores) <= {0.0, 1.0}


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Returns the median and the 95th percentile, without interpolating between measured times."""
    ordered = sorted(seconds)
    count = len(ordered)
    middle = int(0.5 * count)
    late = min(int(0.95 * count), count - 1)
    return ordered[middle], ordered[late]


def _compare_all(candidates: Sequence[MeasuredCandidate]) -> tuple[tuple[Pair, ...], float | None]:
    """Returns the pairs of the best candidate with each of the others, and the smallest gap that would be detected."""
    best = max(candidates, key=lambda candidate: candidate.score, default=None)
    if best is None:
        return (), None
    others = [candidate for candidate in candidates if candidate is not best]
    return _compare_with_best(best, others), _detectable_gap(best, others)


def _compare_with_best(best: MeasuredCandidate, others: Sequence[MeasuredCandidate]) -> tuple[Pair, ...]:
    pairs = [compare_candidates(best, other) for other in others]
    corrected = holm([pair.p for pair in pairs])
    return tuple(replace(pair, p=p) for pair, p in zip(pairs, corrected, strict=True))


@lru_cache(maxsize=1_000)  # joined comparisons are compared again each time somebody looks at them
def compare_candidates(best: MeasuredCandidate, other: MeasuredCandidate) -> Pair:
    """Compares two candidates on the same rows, of which `best` is the better one. `p` is not corrected for multiple
    tests."""
    if _is_right_or_wrong(best.scores) and _is_right_or_wrong(other.scores):
        best_right = [score == 1 for score in best.scores]
        other_right = [score == 1 for score in other.scores]
        both = compare(other_right, best_right)
        interval = both.difference_interval
        return _pair(best, other, both.difference, interval.low, interval.high, both.p)
    apart = paired_means(other.scores, best.scores)
    return _pair(best, other, apart.value, apart.low, apart.high, apart.p)


def _pair(
    best: MeasuredCandidate,
    other: MeasuredCandidate,
    difference: float,
    low: float,
    high: float,
    p: float,
) -> Pair:
    return Pair(best.identity, other.identity, difference, low, high, p)


def _detectable_gap(best: MeasuredCandidate, others: Sequence[MeasuredCandidate]) -> float | None:
    """Returns the smallest gap that would be detected, given how often the two best candidates disagree. Returns None
    if they never disagree, or so rarely that even disagreement in one direction only would not be detected."""
    second = max(others, key=lambda candidate: candidate.score, default=None)
    if second is None:
        return None
    differences = [score - other for score, other in zip(best.scores, second.scores, strict=True)]
    n = len(differences)
    if _is_right_or_wrong(best.scores) and _is_right_or_wrong(second.scores):
        discordant = sum(map(abs, differences)) / n
        return detectable_gap(n, discordant)
    mean = sum(differences) / n
    squares = sum((difference - mean) ** 2 for difference in differences)
    variance = squares / max(n - 1, 1)
    if not variance:
        return None
    standard_error: float = (variance / n) ** 0.5
    return _DETECTABLE_Z * standard_error


def _never_answered(
    replies: Mapping[Candidate, Sequence[Reply]], examples: Sequence[Example], labels: Sequence[str]
) -> tuple[str, ...]:
    """Returns the expected labels, in their first spelling and sorted, that no candidate ever answered. Empty if there
    are no candidates."""
    if not replies:
        return ()
    answered = set()
    for its_replies in replies.values():
        for reply in its_replies:
            answer = label_or_text(reply.text, labels)
            answered.add(normalise(answer))
    # Backwards, so that the first spelling is the last that is written.
    expected = {normalise(example.answer): example.answer.strip() for example in reversed(examples)}
    never = [label for key, label in expected.items() if key not in answered]
    return tuple(sorted(never))
