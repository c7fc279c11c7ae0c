"""Simulates teams that look at the same held-out rows again and again: how often they hear that a model meets the
bar or is better than another when it isn't, and how often the stated number of further rows settles a case.

The decisions are the product's own functions; only the teams and their models are drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bot.rules.models.promotion import compare_models
from trainers.evaluation.claims import binomial_tail, claim_level, least_right
from trainers.evaluation.looks import DistinctCandidate, Look, find_origin
from trainers.evaluation.quality_threshold import judge_all
from trainers.evaluation.results import Candidate
from trainers.evaluation.statistics import wilson_of_share

LOOKS = 10
BAR = 0.85
BELOW = 0.001  # the true scores lie this much below the bar, where a claim is false but most likely
REDRAWN = 0.2  # share of the answers that differ between a prompt and a rewrite of it

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """`rows` are held out, and `of_look` candidates are measured in each look. Their answers are correlated by the
    rows' common difficulty."""

    bar: float
    rows: int
    correlation: float
    of_look: int

    def __str__(self) -> str:
        return (
            f"bar {self.bar:.0%}, {self.rows} rows, {self.of_look} a look, correlation {self.correlation:g}"
        )


def false_meets(setting: Setting, histories: int, seed: int) -> float:
    """Returns the share of histories in which one of ten looks shows a false "meets"."""
    generator = np.random.default_rng(seed)
    needed = [needed_right(setting.rows, setting.bar, look, setting.of_look) for look in range(1, LOOKS + 1)]
    wrong = 0
    for right in _histories(setting, LOOKS * setting.of_look, histories, generator):
        counts = right.sum(axis=1).reshape(len(right), LOOKS, setting.of_look).max(axis=2)
        wrong += int((counts >= np.array(needed)).any(axis=1).sum())
    return wrong / histories


def false_meets_when_climbing(rows: int, bar: float, first: int, histories: int, seed: int) -> float:
    """Returns the share of histories with a false "meets" of a team that measures `first` models and then nine times
    rewrites the prompt of the best candidate so far, keeping four of five of its answers."""
    generator = np.random.default_rng(seed)
    true = bar - BELOW
    needed = [needed_right(rows, bar, 1, first)]
    needed += [needed_right(rows, bar, look, choices_of_rewrite(look - 1, first)) for look in range(2, 11)]
    wrong = 0
    for _ in range(histories):
        answers = generator.random((first, rows)) < true
        counts = answers.sum(axis=1)
        best, best_count = answers[counts.argmax()], int(counts.max())
        is_wrong = best_count >= needed[0]
        for look in range(2, LOOKS + 1):
            redrawn = generator.random(rows) < REDRAWN
            rewritten = np.where(redrawn, generator.random(rows) < true, best)
            count = int(rewritten.sum())
            is_wrong |= count >= needed[look - 1]
            if count > best_count:
                best, best_count = rewritten, count
        wrong += is_wrong
    return wrong / histories


def false_meets_on_fresh_rows(rows: int, bar: float, histories: int, seed: int) -> float:
    """Returns the share of histories with a false "meets" of a team that reads the wrong rows and makes its prompts fit
    them: nine rewrites answer all seen rows right, and each version adds as many fresh rows, which alone count."""
    generator = np.random.default_rng(seed)
    needed = [needed_right(rows, bar, look, 1) for look in range(1, LOOKS + 1)]
    counts = generator.binomial(rows, bar - BELOW, (histories, LOOKS))
    return float((counts >= np.array(needed)).any(axis=1).mean())


@cache
def choices_of_rewrite(number: int, first: int) -> int:
    """Returns the choices that the product finds for the `number`-th rewrite after a look with `first` models."""
    models = [Candidate("zero", f"vendor/model-{place}") for place in range(first)]
    looks = [Look("m1", "rows", tuple(map(DistinctCandidate, models)))]
    for rewrite in range(1, number + 1):
        measured = DistinctCandidate(models[0], by_people=f"prompt {rewrite}")
        looks.append(Look(f"m{rewrite + 1}", "rows", (measured,)))
    return find_origin(looks[-1].candidates[0], "rows", looks).choices


@cache
def needed_right(rows: int, bar: float, look: int, among: int) -> int:
    """Returns the fewest right answers that meet the bar, one more than there are rows if none do."""
    needed = least_right(rows, bar, look, among)
    return rows + 1 if needed is None else needed


def false_meets_when_following_the_best(rows: int, first: int, histories: int, seed: int) -> float:
    """Returns the share of histories with a false "meets" of a team that measures the first models of `first` families
    and then nine times another one of the family with the best score so far, which gives four of five of the answers of
    its first model."""
    generator = np.random.default_rng(seed)
    true = BAR - BELOW
    needed = {1: needed_right(rows, BAR, 1, first)}
    for look in range(2, LOOKS + 1):
        needed[look] = needed_right(rows, BAR, look, choices_of_relative(look - 1, first))
    wrong = 0
    for _ in range(histories):
        first_answers = generator.random((first, rows)) < true
        best_counts = first_answers.sum(axis=1)
        is_wrong = best_counts.max() >= needed[1]
        for look in range(2, LOOKS + 1):
            family = int(best_counts.argmax())
            redrawn = generator.random(rows) < REDRAWN
            answers = np.where(redrawn, generator.random(rows) < true, first_answers[family])
            count = int(answers.sum())
            is_wrong |= count >= needed[look]
            best_counts[family] = max(best_counts[family], count)
        wrong += is_wrong
    return wrong / histories


@cache
def choices_of_relative(number: int, first: int) -> int:
    """Returns the choices that the product finds for the `number`-th relative after a look with `first` models."""
    models = [DistinctCandidate(Candidate("zero", f"vendor/model-{place}")) for place in range(first)]
    looks = [Look("m1", "rows", tuple(models))]
    for relative in range(1, number + 1):
        measured = DistinctCandidate(Candidate("zero", f"vendor/relative-{relative}"))
        looks.append(Look(f"m{relative + 1}", "rows", (measured,)))
    return find_origin(looks[-1].candidates[0], "rows", looks).choices


@cache
def choices_of_training(number: int) -> int:
    """Returns the choices that the product finds for the `number`-th training."""
    runs = [
        DistinctCandidate(Candidate("tuned", f"local/{place}"), made_of=f"{place}") for place in range(number)
    ]
    looks = [Look(f"run {place}", "rows", (run,)) for place, run in enumerate(runs)]
    return find_origin(runs[-1], "rows", looks).choices


@dataclass(frozen=True)
class Trainings:
    """Ten trainings, one after the other, whose models are right in `score` of all cases, less a `margin`; the prompted
    model in `base`. `redrawn` is the share of rows on which a model's answer does not depend on the best one's before,
    whose settings people took over. If they read `shown` of the rows that got worse, and as many that got better, the
    next training rows mend exactly these."""

    rows: int
    score: float
    margin: float = 0.0
    redrawn: float = 1.0
    shown: int = 0

    def __str__(self) -> str:
        return f"{self.rows:,} rows, {self.score:.0%}, margin {self.margin:g}"


@dataclass(frozen=True)
class FalseClaims:
    """Shares of histories. `uncorrected` is that of a false "meets" if the rows that people read counted as right."""

    meets: float
    promotions: float
    uncorrected: float


def false_claims_of_trainings(trainings: Trainings, histories: int, seed: int) -> FalseClaims:
    """A "meets" is judged by a bar just above the models' true score, a promotion by the gate: a model passes wrongly
    if it is no better than the prompted one or, with a `margin`, cheaper and worse by just that."""
    generator = np.random.default_rng(seed)
    claims = [_claims_of_history(trainings, generator) for _ in range(histories)]
    meets, promotions, uncorrected = (sum(each) / histories for each in zip(*claims, strict=True))
    return FalseClaims(meets, promotions, uncorrected)


def _claims_of_history(trainings: Trainings, generator: np.random.Generator) -> tuple[bool, bool, bool]:
    """Returns whether the history has a false "meets", a false promotion, and a false "meets" without the correction
    for rows that were read."""
    rows = trainings.rows
    true = trainings.score - trainings.margin
    difficulty = generator.standard_normal(rows, dtype=np.float32)
    base = _answers(difficulty, generator.standard_normal(rows, dtype=np.float32), trainings.score)
    read = np.zeros(rows, bool)
    read_wrong = np.zeros(rows, bool)
    best_luck = generator.standard_normal(rows, dtype=np.float32)
    best_count = -1
    meets = False
    passes = False
    uncorrected = False
    for number in range(1, LOOKS + 1):
        redrawn = generator.random(rows, dtype=np.float32) < trainings.redrawn
        luck = np.where(redrawn, generator.standard_normal(rows, dtype=np.float32), best_luck)
        right = _answers(difficulty, luck, true) | read
        counted = right & ~read_wrong
        count = int(right.sum())
        needed = needed_right(rows, true + BELOW, number, choices_of_training(number))
        meets |= int(counted.sum()) >= needed
        uncorrected |= count >= needed
        passes = passes or _passes_gate(counted, base, number, trainings.margin)
        if count > best_count:
            best_luck = luck
            best_count = count
        worse = np.flatnonzero(base & ~right)[: trainings.shown]
        better = np.flatnonzero(right & ~base)[: trainings.shown]
        read_wrong[worse] = True
        read[worse] = True
        read[better] = True
    return meets, passes, uncorrected


def _answers(difficulty: NDArray[np.float32], luck: NDArray[np.float32], score: float) -> Bools:
    """Returns which rows are answered right. Half of the variance is the rows' difficulty, which models share."""
    right: Bools = math.sqrt(0.5) * (difficulty + luck) < NormalDist().inv_cdf(score)
    return right


def _passes_gate(tuned: Bools, base: Bools, number: int, margin: float) -> bool:
    both = int((tuned & base).sum())
    gained = int((tuned & ~base).sum())
    lost = int((base & ~tuned).sum())
    if gained - lost <= -margin * len(base):
        return False  # the bound lies below the difference, so it needs no computing
    return _passes((both, gained, lost), len(base), number, margin)


@cache
def _passes(counts: tuple[int, int, int], rows: int, look: int, margin: float) -> bool:
    both, gained, lost = counts
    neither = rows - both - gained - lost
    tuned = [1.0] * both + [1.0] * gained + [0.0] * lost + [0.0] * neither
    base = [1.0] * both + [0.0] * gained + [1.0] * lost + [0.0] * neither
    comparison = compare_models("the prompted model", tuned, base, look=look)
    return comparison.is_not_worse(margin) if margin else comparison.is_better


def settled_by_stated_rows(
    rows: int, mean: float, deviation: float, bar: float, cases: int, seed: int
) -> tuple[float, int]:
    """Returns the share of undecided cases that the stated number of further rows settles, and their number. The true
    scores are drawn around `mean`."""
    generator = np.random.default_rng(seed)
    settled = stated = 0
    for _ in range(cases):
        true = min(max(float(generator.normal(mean, deviation)), 0.0), 1.0)
        right = int(generator.binomial(rows, true))
        more = _further_rows(right, rows, bar, 1)
        if more is None:
            continue
        stated += 1
        later = right + int(generator.binomial(more, true))
        settled += _is_settled(later, rows + more, bar, 2)
    return settled / max(stated, 1), stated


def false_meets_when_following(rows: int, bar: float, histories: int, seed: int) -> float:
    """Returns the share of teams that get a false "meets" by adding the stated rows and measuring again, five times."""
    generator = np.random.default_rng(seed)
    true = bar - BELOW
    wrong = 0
    for _ in range(histories):
        held, right = rows, int(generator.binomial(rows, true))
        for look in range(1, 7):
            if binomial_tail(right, held, bar) <= claim_level(look):
                wrong += 1
                break
            more = _further_rows(right, held, bar, look)
            if more is None:
                break
            held, right = held + more, right + int(generator.binomial(more, true))
    return wrong / histories


@cache
def _further_rows(right: int, rows: int, bar: float, look: int) -> int | None:
    (judgement,) = judge_all([[1.0] * right + [0.0] * (rows - right)], bar, [look])
    return judgement.rows_to_decide


def _is_settled(right: int, rows: int, bar: float, look: int) -> bool:
    meets = binomial_tail(right, rows, bar) <= claim_level(look)
    return meets or wilson_of_share(right / rows, rows, 0.9).high < bar


def _histories(
    setting: Setting, candidates: int, histories: int, generator: np.random.Generator
) -> Iterator[Bools]:
    """Yields the right answers of histories, as histories x rows x candidates."""
    limit = NormalDist().inv_cdf(setting.bar - BELOW)
    own, common = math.sqrt(1 - setting.correlation), math.sqrt(setting.correlation)
    at_once = max(2_000_000 // (setting.rows * candidates), 1)
    for start in range(0, histories, at_once):
        count = min(at_once, histories - start)
        difficulty = generator.standard_normal((count, setting.rows, 1), dtype=np.float32)
        luck = generator.standard_normal((count, setting.rows, candidates), dtype=np.float32)
        yield common * difficulty + own * luck < limit
