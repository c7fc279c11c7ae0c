"""Simulates what watches live calls: false alarms, and how long it takes to see what is there.

The decisions are the product's own functions; only calls, labels and feedback are drawn at random. Vectors are those of
our support tickets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainers.dataset import Columns, read
from trainers.encoders.embedding import load_encoder
from trainers.evaluation.statistics import Interval, wilson
from trainers.evaluation.tfidf import label_of, text_of
from trainers.monitoring.live_accuracy import Holdout, LabelledWeek, cumulative_sum
from trainers.monitoring.shift import (
    RECENT_WEEKS,
    REFERENCE_WEEKS,
    Shift,
    TooFewCalls,
    alarm_level,
    label_shift,
    vector_shift,
)
from trainers.monitoring.switch_tests import (
    MARGIN,
    CallVerdict,
    SwitchTest,
    judge_canary,
    judge_non_inferiority,
    judge_superiority,
)

TICKETS = Path(__file__).resolve().parent.parent / "examples" / "support_tickets.csv"
WEEKS = 52
CALLS = 200  # a week
DATASETS = 10
COMPARED = range(REFERENCE_WEEKS, WEEKS - RECENT_WEEKS + 1)  # the first of the recent weeks
MOST_CALLS = 4_000  # of a test that does not end before
USUAL = 0.9995  # share of weeks whose distance is certainly no alarm at 1 in 10,000, so that no p is computed
USUAL_YEARS = 400

Vectors = NDArray[np.float32]
Judge = Callable[[Sequence[CallVerdict], float], SwitchTest]


@dataclass(frozen=True)
class Share:
    """`hits` of `n` simulated cases."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n

    @property
    def interval(self) -> Interval:
        return wilson(self.hits, self.n)

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.interval.low:.1%} to {self.interval.high:.1%} of {self.n:,})"


@dataclass(frozen=True)
class Tickets:
    """Vectors (n, d) of texts, and their labels."""

    vectors: Vectors
    labels: NDArray[np.str_]


def embed_tickets() -> Tickets:
    rows = read(TICKETS, TICKETS.name, columns=Columns("text", "label")).examples
    vectors = load_encoder().embed([text_of(row) for row in rows])
    return Tickets(vectors, np.array([label_of(row) for row in rows]))


@dataclass(frozen=True)
class Labels:
    """People label `weekly` random calls each week. What is in use is right in `share` of the cases, was measured on
    `rows` held-out rows, and is the best there of `best_of` that are as good."""

    weekly: int
    share: float
    rows: int
    best_of: int = 1

    def __str__(self) -> str:
        return f"{self.weekly} a week, {self.share:.0%}, {self.rows} rows"


def alarm_weeks(labels: Labels, drop: float, weeks: int, histories: int, seed: int) -> NDArray[np.float64]:
    """Returns the week of the alarm of each history, or infinity, if answers are right less often by `drop` from the
    first week on."""
    generator = np.random.default_rng(seed)
    best = generator.binomial(labels.rows, labels.share, (histories, labels.best_of)).max(axis=1)
    right = generator.binomial(labels.weekly, labels.share - drop, (histories, weeks))
    alarms = np.full(histories, math.inf)
    for place, counts in enumerate(right.tolist()):
        reference = Holdout(best[place] / labels.rows, labels.rows).reference
        history = [LabelledWeek(count, labels.weekly) for count in counts]
        _, week = cumulative_sum(history, reference)
        if week is not None:
            alarms[place] = week
    return alarms


def false_alarms_of_accuracy(labels: Labels, histories: int, seed: int) -> Share:
    """Returns the share of dataset-years with an alarm although nothing changed."""
    alarms = alarm_weeks(labels, 0.0, WEEKS, histories, seed)
    return Share(int(np.isfinite(alarms).sum()), histories)


def false_alarms_of_shift(tickets: Tickets, years: int, seed: int) -> Share:
    """Returns the share of years in which any of ten datasets has an alarm, if all calls of a dataset are drawn from
    the same tickets. Each two weeks, which overlap, are compared with the first four."""
    generator = np.random.default_rng(seed)
    level = alarm_level(DATASETS)
    drawn = [_draw_year(tickets.vectors, generator).distances for _ in range(USUAL_YEARS)]
    most = float(np.quantile(drawn, USUAL))
    years_with_alarm = 0
    for _ in range(years):
        datasets = [_draw_year(tickets.vectors, generator) for _ in range(DATASETS)]
        years_with_alarm += any(_has_alarm(tickets.vectors, year, level, most) for year in datasets)
    return Share(years_with_alarm, years)


@dataclass(frozen=True)
class _Year:
    """The rows (52, 200) that a dataset's calls are drawn from, and the squared distances of the means of the COMPARED
    weeks from that of the first four."""

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


def _draw_year(vectors: Vectors, generator: np.random.Generator) -> _Year:
    n = len(vectors)
    rows = generator.integers(0, n, (WEEKS, CALLS))
    places = rows + n * np.arange(WEEKS)[:, None]
    counts = np.bincount(places.ravel(), minlength=WEEKS * n).reshape(WEEKS, n)
    means = counts.astype(np.float32) @ vectors / CALLS
    reference = means[:REFERENCE_WEEKS].mean(axis=0)
    recent = np.array([means[week : week + RECENT_WEEKS].mean(axis=0) for week in COMPARED])
    distances = np.square(recent - reference).sum(axis=1)
    return _Year(rows, distances)


def _has_alarm(vectors: Vectors, year: _Year, level: float, most: float) -> bool:
    reference = vectors[year.rows[:REFERENCE_WEEKS].ravel()]
    for week, distance in zip(COMPARED, year.distances, strict=True):
        recent = year.rows[week : week + RECENT_WEEKS].ravel()
        if distance > most and _is_alarm(vector_shift(reference, vectors[recent], level, seed=week)):
            return True
    return False


def _is_alarm(result: Shift | TooFewCalls) -> bool:
    return isinstance(result, Shift) and result.is_alarm


def false_alarms_of_labels(tickets: Tickets, years: int, seed: int) -> Share:
    """Like `false_alarms_of_shift`, for the shares of labels."""
    generator = np.random.default_rng(seed)
    level = alarm_level(DATASETS)
    names, counts = np.unique(tickets.labels, return_counts=True)
    shares = counts / counts.sum()
    years_with_alarm = 0
    for year in range(years):
        weekly = generator.multinomial(CALLS, shares, (DATASETS, WEEKS))
        alarms = False
        for of_dataset in weekly:
            before = dict(zip(names, of_dataset[:REFERENCE_WEEKS].sum(axis=0).tolist(), strict=True))
            for week in COMPARED:
                recent = of_dataset[week : week + RECENT_WEEKS].sum(axis=0).tolist()
                now = dict(zip(names, recent, strict=True))
                alarms |= _is_alarm(label_shift(before, now, level, seed=year))
        years_with_alarm += alarms
    return Share(years_with_alarm, years)


def new_requests_seen(tickets: Tickets, share: float, cases: int, seed: int) -> Share:
    """Returns in how many cases an alarm comes within four weeks if `share` of the calls are of a kind that no earlier
    call was of: those of one label, each label in turn."""
    generator = np.random.default_rng(seed)
    level = alarm_level(DATASETS)
    names = np.unique(tickets.labels)
    seen = 0
    for case in range(cases):
        is_new = tickets.labels == names[case % len(names)]
        new = tickets.vectors[is_new]
        usual = tickets.vectors[~is_new]
        reference = usual[generator.integers(0, len(usual), REFERENCE_WEEKS * CALLS)]
        last_week = usual[generator.integers(0, len(usual), CALLS)]
        for week in range(4):
            count = generator.binomial(CALLS, share)
            of_new = new[generator.integers(0, len(new), count)]
            of_usual = usual[generator.integers(0, len(usual), CALLS - count)]
            this_week = np.concatenate([of_new, of_usual])
            recent = np.concatenate([last_week, this_week])
            last_week = this_week
            if _is_alarm(vector_shift(reference, recent, level, seed=week)):
                seen += 1
                break
    return Share(seen, cases)


@dataclass(frozen=True)
class SwitchTests:
    """Outcomes of simulated tests: how many gave each answer, and how many calls and labels those took that gave
    `wanted`."""

    better: Share
    worse: Share
    calls: float
    pairs: float


def run_switch_tests(
    judge: Judge, disagreement: float, gain: float, histories: int, seed: int
) -> SwitchTests:
    """Tests a candidate that is right more often by `gain`, on calls of which in the share `disagreement` one of the
    two is right. Medians are of all tests, those that end without an answer included."""
    generator = np.random.default_rng(seed)
    wins = (disagreement + gain) / 2
    losses = (disagreement - gain) / 2
    chances = (wins, losses, 1 - disagreement)
    verdicts = np.array(["candidate", "incumbent", "same"])
    tests = [judge(generator.choice(verdicts, MOST_CALLS, p=chances).tolist(), 1.0) for _ in range(histories)]
    better = sum(test.outcome in {"better", "not_worse"} for test in tests)
    worse = sum(test.outcome == "worse" for test in tests)
    return SwitchTests(
        better=Share(better, histories),
        worse=Share(worse, histories),
        calls=float(np.median([test.calls for test in tests])),
        pairs=float(np.median([test.pairs for test in tests])),
    )


def superiority_tests(disagreement: float, gain: float, histories: int, seed: int) -> SwitchTests:
    return run_switch_tests(judge_superiority, disagreement, gain, histories, seed)


def non_inferiority_tests(
    disagreement: float, gain: float, histories: int, seed: int, margin: float = MARGIN
) -> SwitchTests:
    def judge(calls: Sequence[CallVerdict], weeks: float) -> SwitchTest:
        return judge_non_inferiority(calls, weeks, margin)

    return run_switch_tests(judge, disagreement, gain, histories, seed)


@dataclass(frozen=True)
class Canaries:
    """How many canaries were stopped, and the median conversations until then, the incumbent's included, of those."""

    stopped: Share
    conversations: float


def run_canaries(
    share: float, usual: float, canary: float, conversations: int, histories: int, seed: int
) -> Canaries:
    """Lets a canary answer `share` of the conversations. A conversation ends badly with probability `usual` with the
    incumbent, and `canary` with the canary."""
    generator = np.random.default_rng(seed)
    lengths = []
    for _ in range(histories):
        is_canary = generator.random(conversations) < share
        chances = np.where(is_canary, canary, usual)
        bad = np.flatnonzero(generator.random(conversations) < chances)
        test = judge_canary(is_canary[bad].tolist(), share)
        if test.outcome == "worse":
            lengths.append(int(bad[test.events - 1]) + 1)
    middle = float(np.median(lengths)) if lengths else math.inf
    return Canaries(Share(len(lengths), histories), middle)
