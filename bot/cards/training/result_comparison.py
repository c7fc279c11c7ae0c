"""How a tuned model compares with the best alternative and with what answered the same rows without training, for the
result's headline, its facts and its details."""

from __future__ import annotations

from collections.abc import Mapping

from bot.cards.common.blocks import escape
from bot.cards.common.candidates import candidate_name, short_meaning, whole_rows_text
from bot.cards.common.words import (
    interval,
    p_value,
    percent,
    pluralize,
    points,
    points_range,
    share_with_interval,
    shorten,
)
from bot.cards.models.promotions import not_worse_text
from bot.rules.training.results import best_alternative, is_base_ahead, is_base_best, is_before, is_clear
from bot.values.runs import Before, RunResult
from trainers.evaluation.results import Comparison, MeasuredCandidate

# The name of a tuned model that the training went on from is in the result.
NAMES_BEFORE: Mapping[Before, str] = {
    "base": "the prompted base model",
    "classical": "the free classical model",
    "encoder": "the free encoder",
}


def right_text(result: RunResult) -> str:
    """The tuned model's score, by the measure of the alternatives if there are any."""
    comparison = result.comparison
    if comparison is None or not comparison.of_kind("tuned"):
        return share_with_interval(result.tuned)
    (tuned,) = comparison.of_kind("tuned")
    text = f"{_score_text(tuned)} ({interval(tuned.low, tuned.high)})"
    if tuned.scoring == "json":
        return f"{text}; {whole_rows_text(tuned)}"
    return text


def _score_text(candidate: MeasuredCandidate) -> str:
    """The score with its measure, which right or wrong labels don't need."""
    if candidate.scoring == "label":
        return percent(candidate.score)
    return f"{percent(candidate.score)} {short_meaning(candidate)}"


def comparison_facts(result: RunResult, *, is_full: bool = False) -> list[tuple[str, str]]:
    """A fact that compares the tuned model with the best alternative on the same rows, or with what answered before.
    With `is_full` there is none if Details begin with that comparison."""
    comparison = result.comparison
    other = best_alternative(comparison)
    if comparison is None or other is None or not comparison.pairs:
        if is_full:
            return []
        return [_fact_about_base(result)]
    if is_full and is_before(result, other):
        return []
    if not is_full and is_base_best(result, other):
        return [_fact_about_base(result)]
    started = []
    if not is_full and result.before == "start":
        # Whether going on has helped is what was asked, whatever else is better.
        started = [_fact_about_base(result)]
    gain, low, high = _gain_over_best(comparison)
    (pair,) = comparison.pairs
    name = f"Against {escape(shorten(_name(other), 60))}, {_score_text(other)}"
    if is_full:
        return [(name, f"{points(gain)} ({points_range(low, high)}), {p_value(pair.p)}")]
    return [*started, (name, _gain_text(gain, low, high, is_clear=is_clear(pair.p)))]


def _fact_about_base(result: RunResult) -> tuple[str, str]:
    change = result.change
    gain = _gain_text(change.gain, change.low, change.high, is_clear=is_clear(change.p))
    return f"Against {before_name(result)}, {before_text(result)}", gain


def _gain_over_best(comparison: Comparison) -> tuple[float, float, float]:
    """The tuned model's score minus that of the best alternative, with the lower and upper end of its interval."""
    (pair,) = comparison.pairs
    if pair.better.kind == "tuned":
        return pair.difference, pair.low, pair.high
    # The pair counts for the better of the two, so the signs turn, and the ends of the interval change places.
    return -pair.difference, -pair.high, -pair.low


def _gain_text(gain: float, low: float, high: float, *, is_clear: bool) -> str:
    between = points_range(low, high)
    if not is_clear:
        # A number in front would be read as a gain or a loss.
        return f"no clear difference ({between} points)"
    return f"{points(gain)} ({between})"


def compared_with_best(result: RunResult, comparison: Comparison) -> str:
    other = best_alternative(comparison)
    if result.not_worse:
        return not_worse_text(result.not_worse, result.margin, is_named=True)
    if is_base_best(result, other):
        return compared_with_base(result)
    if other is None:
        return "nothing else was measured"
    (pair,) = comparison.pairs
    gain, _, _ = _gain_over_best(comparison)
    name = shorten(_name(other), 50)
    return _difference(gain, name, other.score, is_clear=is_clear(pair.p))


def compared_with_base(result: RunResult) -> str:
    change = result.change
    return _difference(change.gain, before_name(result), change.before.score, is_clear=is_clear(change.p))


def before_text(result: RunResult) -> str:
    """The score before training, by the measure of the quality bar: '12.5% of fields right'."""
    return f"{percent(result.change.before.score)}{partial_meaning(result)}"


def partial_meaning(result: RunResult) -> str:
    """What the scores of the comparison mean, for the end of a share; '' if a row is right or wrong."""
    comparison = result.comparison
    if result.partial is None or comparison is None:
        return ""
    (tuned,) = comparison.of_kind("tuned")
    return f" {short_meaning(tuned)}"


def _difference(gain: float, name: str, score: float, *, is_clear: bool) -> str:
    if not is_clear:
        return f"no clear difference from {name} ({percent(score)})"
    count = round(100 * abs(gain))
    amount = "under 1 point"
    if count:
        amount = pluralize(count, "point")
    if gain > 0:
        return f"{amount} above {name}"
    return f"{amount} below {name}"


def better_name(result: RunResult) -> str:
    """The name of what the labels were compared with: the best alternative, or what answered before if that is better
    (services/training/run_worker.py)."""
    other = best_alternative(result.comparison)
    if other is None or is_base_ahead(result, other):
        return before_name(result)
    return _name(other)


def _name(candidate: MeasuredCandidate) -> str:
    name = candidate_name(candidate.identity)
    if not candidate.is_free:
        return name
    return f"the free {name.removeprefix('the ')}"


def before_name(result: RunResult) -> str:
    """The name of what answered the same rows without training; a tuned model's if the training went on from one."""
    if result.before == "start":
        return result.start
    return NAMES_BEFORE[result.before]
