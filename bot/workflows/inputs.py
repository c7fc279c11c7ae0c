"""From a question, a report, prices and what was measured to the inputs of the sum. Looks up no price itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from bot.decisions.amounts import HOURS_PER_MONTH
from bot.decisions.verdict.facts import Evidence
from bot.decisions.worth.alternatives import Alternative, Measured, Today, Use, choose
from bot.decisions.worth.bills import ZERO, Asking, Rates, Speed, Tokens
from bot.decisions.worth.question import USUAL_BUSY, Question
from bot.decisions.worth.roi import USD_PER_HOUR, Inputs, Quality, Training, Usage, retraining_usd
from trainers.dataset import Report
from trainers.measuring.values import Rung

OTHER_TOKENIZER = 1.25  # times as many tokens: what a model counts that has another than ours


@dataclass(frozen=True)
class Priced:
    """`cheapest`: what asking the cheapest measured rung that meets the bar costs, where there is one.

    `volume` is input tokens a month, `training` one run's.
    """

    volume: int
    now: Rates
    tuned: Rates
    training: Training
    evaluation_usd: Decimal
    cheapest: Rates | None


def measured(evidence: Evidence) -> Measured:
    """A ladder that was judged by another bar says nothing about this one."""
    other = evidence.ladder.bar if evidence.ladder and evidence.is_stale else None
    return Measured(evidence.alternatives, evidence.bar, other)


def inputs_of(
    question: Question, report: Report, evidence: Evidence, priced: Priced, ends: date | None, today: date
) -> Inputs:
    prompted = measured(evidence).prompted(question.current or "")
    without = Inputs(
        monthly_input_tokens=priced.volume,
        usage=_usage(report, question, prompted),
        now=priced.now,
        tuned=priced.tuned,
        training=replace(priced.training, runs=question.runs or 1),
        today=today,
        ends=ends,
        tuned_tokens=_tuned_tokens(report, evidence.trained),
        asking=_asking(question),
        evaluation_usd=priced.evaluation_usd,
        people_hours=question.people_hours,
        people_usd_per_hour=USD_PER_HOUR if question.people_rate is None else question.people_rate,
        labels=question.label_count or 0,
        usd_per_label=question.label_usd or ZERO,
        retrain_months=question.retrain_months,
        monitoring_usd=question.monitoring_usd or ZERO,
    )
    held_against = _alternative(without, measured(evidence), prompted, priced.cheapest)
    quality = _quality(evidence.trained, held_against.rung, question.wrong_usd)
    return replace(without, alternative=held_against, quality=quality)


def once_trained(inputs: Inputs) -> Inputs:
    """What was spent does not come back, whatever is decided; what each training again will cost does count."""
    again = inputs.monitoring_usd + retraining_usd(inputs)
    free = Training(inputs.training.tokens, inputs.training.epochs, usd_per_million=ZERO)
    spent = replace(inputs, training=free, evaluation_usd=ZERO, people_hours=ZERO, labels=0)
    return replace(spent, retrain_months=None, monitoring_usd=again)


def holdout_usage(report: Report) -> Usage:
    counted = report.tokens
    means = counted.prompted_mean, counted.prompt_mean, counted.answer_mean
    return Usage.from_means(report.n_holdout, *means)


def longest_holdout_usage(report: Report, answer: int) -> Usage:
    """At most: answers of `answer` tokens, and prompts a quarter longer than ours, if another tokenizer counts."""
    counted = report.tokens
    before, after = counted.prompted_mean * OTHER_TOKENIZER, counted.prompt_mean * OTHER_TOKENIZER
    return Usage.from_means(report.n_holdout, before, after, answer)


def _usage(report: Report, question: Question, prompted: Rung | None) -> Usage:
    """Today's prompt as a person said, else as measured on the holdout, else as the examples suggest."""
    counted = report.tokens
    before, output = counted.prompted_mean, counted.answer_mean
    if prompted is not None:
        before, output = prompted.prompt_tokens / prompted.n, prompted.completion_tokens / prompted.n
    if question.prompt_tokens is not None:
        before = float(question.prompt_tokens)
    return Usage.from_means(report.rows, max(before, 1.0), counted.prompt_mean, output)


def _tuned_tokens(report: Report, trained: Rung | None) -> Tokens:
    if trained is not None and trained.n:
        return Tokens(trained.n, trained.prompt_tokens, trained.completion_tokens)
    rows, counted = report.rows, report.tokens
    return Tokens(rows, round(counted.prompt_mean * rows), round(counted.answer_mean * rows))


def _asking(question: Question) -> Asking:
    speed = None
    if question.serving_speed is not None:
        speed = Speed(question.serving_speed, question.utilisation or USUAL_BUSY)
    hours = HOURS_PER_MONTH if question.hosting_hours is None else question.hosting_hours
    return Asking(batch_share=question.batch_share or ZERO, hosting_hours=hours, speed=speed)


def _alternative(
    inputs: Inputs, found: Measured, prompted: Rung | None, cheapest: Rates | None
) -> Alternative:
    today = Today(inputs.usage.today, inputs.now, prompted)
    return choose(today, found, cheapest, Use(inputs.requests, inputs.usage.own, inputs.asking))


def _quality(trained: Rung | None, other: Rung | None, usd_per_wrong: Decimal | None) -> Quality | None:
    """Only where both answered the same rows, and only where a wrong answer has a price."""
    if trained is None or other is None or not usd_per_wrong or not 0 < trained.n == other.n:
        return None
    gaps = [Decimal(str(ours)) - Decimal(str(theirs)) for ours, theirs in _scores(trained, other)]
    gained, lost = sum(max(gap, ZERO) for gap in gaps), sum(max(-gap, ZERO) for gap in gaps)
    return Quality(trained.n, Decimal(gained), Decimal(lost), usd_per_wrong)


def _scores(trained: Rung, other: Rung) -> list[tuple[float, float]]:
    return list(zip(trained.scores, other.scores, strict=True))
