"""Which of several finished results is better, row by row on the held-out rows that all of them answered? Pure; the
sentences are in bot/cards/training/compared_results.py.

A comparison shows no score that people had not seen, so it is no look of its own (trainers/evaluation/looks.py). But
the settings of a later model were chosen by the scores of the earlier ones. So one is called better only by the rule of
a promotion, at the level of the later one of the two: among ten tuned models, all pairs together may be wrong in 7%.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean
from typing import Literal

from bot.rules.models.promotion import ModelComparison, compare_models
from trainers.evaluation.results import MeasuredCandidate, Scoring

MOST_COMPARED = 6  # columns that a table has room for

# Why a result has no place in the comparison.
Unmatched = Literal["no result", "deleted", "curve", "other measure", "other judge", "other rows"]
Outcome = Literal["better", "cheaper", "can't tell", "nothing to compare"]


@dataclass(frozen=True)
class ComparedResult:
    """One result that a person wants compared: the tuned model of a run, or the best candidate of a measurement.

    `number` is that of its run or measurement, and `answered_by` the model's name. `model` is the tuned model that can
    be deployed, '' if there is none. `measured` is None without scores; `state` then says in which state
    the run or measurement is. `settings` are names with their values, as people type them. `cost_micros` is what the
    run or measurement has cost, and `usd` the cost of 1,000 requests in production. `look` is the number of the look
    that measured it, among tuned models if it is one, and `position` that of the candidate in its measurement."""

    number: int
    dataset: str
    version: int
    holdout: str
    is_measurement: bool = False
    answered_by: str = ""
    model: str = ""
    measured: MeasuredCandidate | None = None
    state: str = ""
    judge: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    cost_micros: int | None = None
    train_seconds: float | None = None
    usd: Decimal | None = None
    look: int = 1
    is_deleted: bool = False
    is_curve: bool = False
    position: int = 0

    @property
    def name(self) -> str:
        """'run 3' or 'm7', as people type it."""
        if self.is_measurement:
            return f"m{self.number}"
        return f"run {self.number}"


@dataclass(frozen=True)
class LeftOut:
    """A result that can't be compared, and why. `beside` is the result that it was to be compared with."""

    result: ComparedResult
    why: Unmatched
    beside: ComparedResult | None = None


@dataclass(frozen=True)
class CommonScores:
    """A result's scores on the rows that all compared results answered, in one order for all of them. `read` are the
    positions of rows that people had read with a wrong answer before they made its training rows."""

    result: ComparedResult
    scores: tuple[float, ...]
    read: tuple[int, ...] = ()

    @property
    def score(self) -> float:
        return fmean(self.scores)


@dataclass(frozen=True)
class ResultPair:
    """Two results on the same rows. `difference` is the score of `first` minus that of `other`. On `only_first` rows
    only the first one's answer is right, or better, and on `only_other` only the other's."""

    first: ComparedResult
    other: ComparedResult
    difference: ModelComparison
    only_first: int
    only_other: int


@dataclass(frozen=True)
class ResultsCompared:
    """The outcome. `compared` are the results with their scores on common rows, in the order in which they were named;
    `is_part` is True if these rows are only a part of those that some of them answered. `winner` is None unless one is
    better than all others, or else cheaper and not worse by `margin`. `pairs` are the winner, or without one the result
    with the highest score, against each of the others, the best of these first."""

    compared: tuple[CommonScores, ...]
    pairs: tuple[ResultPair, ...]
    outcome: Outcome
    winner: ComparedResult | None
    left_out: tuple[LeftOut, ...]
    margin: float
    is_part: bool = False

    @property
    def rows(self) -> int:
        if not self.compared:
            return 0
        return len(self.compared[0].scores)

    @property
    def scoring(self) -> Scoring:
        for common in self.compared:
            if common.result.measured is not None:
                return common.result.measured.scoring
        return "label"

    @property
    def undecided(self) -> tuple[ComparedResult, ...]:
        """Those that can't be told apart: the result with the highest score, and those that it doesn't clearly beat."""
        if self.outcome != "can't tell":
            return ()
        others = (pair.other for pair in self.pairs if not pair.difference.is_better)
        return (self.pairs[0].first, *others)


def why_unmatched(result: ComparedResult, beside: ComparedResult | None) -> Unmatched | None:
    """Returns why the result's scores can't stand beside those of `beside`, whatever its rows; None if they can."""
    if result.is_deleted:
        return "deleted"
    if result.is_curve:
        return "curve"
    if result.measured is None:
        return "no result"
    if beside is None or beside.measured is None:
        return None
    if result.measured.scoring != beside.measured.scoring:
        return "other measure"
    if result.measured.scoring == "judge" and result.judge != beside.judge:
        return "other judge"
    return None


def compare_results(
    compared: Sequence[CommonScores],
    left_out: Sequence[LeftOut],
    margin: float,
    *,
    is_part: bool = False,
) -> ResultsCompared:
    """Compares results by their scores on common rows."""
    together = tuple(compared)
    if len(together) < 2:
        return ResultsCompared(
            together, (), "nothing to compare", None, tuple(left_out), margin, is_part=is_part
        )
    # Of equal scores, the one that was named first leads.
    ranked = sorted(together, key=lambda common: common.score, reverse=True)
    leader, *others = ranked
    outcome: Outcome = "can't tell"
    head = leader
    if all(_compare(leader, other).is_better for other in others):
        outcome = "better"
    else:
        cheaper = _cheaper_and_not_worse(ranked, margin)
        if cheaper is not None:
            outcome = "cheaper"
            head = cheaper
    pairs = tuple(_compare_pair(head, other) for other in ranked if other is not head)
    winner = None
    if outcome != "can't tell":
        winner = head.result
    return ResultsCompared(together, pairs, outcome, winner, tuple(left_out), margin, is_part=is_part)


def _compare_pair(first: CommonScores, other: CommonScores) -> ResultPair:
    both = list(zip(first.scores, other.scores, strict=True))
    return ResultPair(
        first=first.result,
        other=other.result,
        difference=_compare(first, other),
        only_first=sum(score > its_score for score, its_score in both),
        only_other=sum(score < its_score for score, its_score in both),
    )


def _cheaper_and_not_worse(ranked: Sequence[CommonScores], margin: float) -> CommonScores | None:
    """Returns the first one that is better than each other, or cheaper and not worse by the margin; None if there is
    none."""
    for common in ranked:
        others = [other for other in ranked if other is not common]
        if all(_compare(common, other).is_enough(margin) for other in others):
            return common
    return None


def _compare(common: CommonScores, other: CommonScores) -> ModelComparison:
    return compare_models(
        other.result.name,
        common.scores,
        other.scores,
        common.result.usd,
        other.result.usd,
        look=max(common.result.look, other.result.look),
        read=common.read,
    )


@dataclass(frozen=True)
class SettingDifference:
    """A setting with its value for each result, in their order; None for a result that has no such setting."""

    name: str
    values: tuple[str | None, ...]


def different_settings(results: Sequence[ComparedResult]) -> tuple[SettingDifference, ...]:
    """Returns the settings that are not the same for all trained results, in the order in which they are first named.
    The candidate of a measurement was not trained, and has none."""
    by_result = [dict(result.settings) for result in results]
    trained = [settings for settings in by_result if settings]
    names = dict.fromkeys(name for settings in trained for name in settings)
    differences = []
    for name in names:
        if len({settings.get(name) for settings in trained}) > 1:
            values = tuple(settings.get(name) for settings in by_result)
            differences.append(SettingDifference(name, values))
    return tuple(differences)
