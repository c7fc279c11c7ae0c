"""Turns rows of the price list into what an estimate needs: the rates of asking a model, and what one run costs with
its evaluation on the held-out rows. Where a price is missing, says which. Money is in USD."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Literal

from bot.rules.bills import MILLION, ZERO, Rates
from bot.rules.models.deployments import Hosting
from bot.rules.roi import Range, Training, Usage
from bot.values.targets import JudgeTerms, TrainingNeeds
from trainers.dataset import Report
from trainers.money import from_micros
from trainers.providers.pricing import PriceRow
from trainers.rentals.prices import Rental

OTHER_TOKENIZER = 1.25  # another model's tokenizer may count up to this many times as many tokens as ours
# The share of the rented time in which a machine trains; the rest is for loading and uploading (rentals/attempt.py).
TRAINING_SHARE = Decimal("0.85")
# A model that ends within a year is not advised without naming that day, since estimates look a year ahead.
NEAR_END = timedelta(days=365)
JUDGE_INSTRUCTIONS = 150  # tokens of the prompt around the texts that a judge reads

PricedUnit = Literal["training", "input", "output", "hour"]


@dataclass(frozen=True)
class MissingPrice:
    """A value that a sum needs and that is unknown. Of `row`: the price of a "token", of "training" or of "hosting" by
    the hour, or the "hours" of a training that is paid by the hour. "today" is today's model and its volume."""

    what: Literal["token", "training", "hours", "today", "hosting"]
    row: PriceRow | None = None


@dataclass(frozen=True)
class PriceRise:
    """A price of `model` that is higher now, in USD: of 1M tokens of "training", "input" or "output", or of an "hour"
    of training."""

    model: str
    unit: PricedUnit
    before: Decimal
    now: Decimal


def find_price_rise(before: PriceRow, now: PriceRow) -> PriceRise | None:
    """Returns the first price of a plan's target that has risen, None if none has. That of the machine which serves the
    tuned model is compared when it is started, with the vendor's own (services/models/deployments.py)."""
    pairs: tuple[tuple[PricedUnit, Decimal | None, Decimal | None], ...] = (
        ("training", before.price.training, now.price.training),
        ("input", before.price.input, now.price.input),
        ("output", before.price.output, now.price.output),
        ("hour", before.usd_per_hour, now.usd_per_hour),
    )
    for unit, old, new in pairs:
        # An unknown price can't have risen, and a lower one stays within what was approved.
        if old is not None and new is not None and new > old:
            return PriceRise(now.model, unit, old, new)
    return None


def rates_from_row(row: PriceRow) -> Rates | MissingPrice:
    price = row.price
    if price.input is None or price.output is None:
        return MissingPrice("token", row)
    if row.is_hosted and row.hosted_usd_per_hour is None:
        return MissingPrice("hosting", row)
    # On a vendor's machine by the hour the tokens cost nothing, and its price is that of the hours.
    hourly = row.usd_per_hour or row.hosted_usd_per_hour or ZERO
    if row.served_by:
        hourly = ZERO  # our own machine's hours are paid for the training alone
    return Rates(
        model=row.model,
        input=price.input,
        output=price.output,
        said_by=row.said_by,
        usd_per_hour=hourly,
        idle_window_s=row.idle_window_s,
        note=row.note,
        cached_input=price.cached_input,
        batch_discount=row.batch_discount or ZERO,
        ends=row.ends,
        successor=row.successor,
        on_own_machine=row.answers_by_hour,
    )


def training_from_row(
    row: PriceRow, tokens: int, epochs: int, minutes: Range | None
) -> Training | MissingPrice:
    """Returns the training's tokens, time and price. `tokens` are those of one epoch.

    `minutes` is None if the speed is unknown. If the team's own machine costs money, the speed has to be measured; for
    a rented machine, which is stopped in time, a guess is enough."""
    if row.rental is not None:
        return Training(tokens, epochs, usd_per_hour=row.rental.usd_per_hour, minutes=minutes)
    if row.usd_per_hour is not None and row.price.training is None:
        if row.usd_per_hour and minutes is None:
            return MissingPrice("hours", row)
        return Training(tokens, epochs, usd_per_hour=row.usd_per_hour, minutes=minutes)
    if row.price.training is None:
        return MissingPrice("training", row)
    return Training(tokens, epochs, usd_per_million=row.price.training, minutes=minutes)


def evaluation_usd(holdout: Usage, base: Rates, tuned: Rates) -> Decimal:
    """Returns the USD to ask both models once about every held-out row: the base model with the long prompt and the
    tuned model with the short one."""
    asked_base = holdout.prompt_before * base.input + holdout.output * base.output
    asked_tuned = holdout.prompt_after * tuned.input + holdout.output * tuned.output
    return (asked_base + asked_tuned) / MILLION


def is_near_end(day: date, today: date) -> bool:
    return day - today < NEAR_END


def may_run_out(rental: Rental, expected_minutes: Decimal) -> bool:
    """True if the time that is rented may end before the training does."""
    return expected_minutes > TRAINING_SHARE * rental.minutes


def missing_keys(row: PriceRow) -> tuple[str, ...]:
    """Returns the keys that have to be added to finetune.toml before the row can be priced."""
    price = row.price
    needed = [("input", price.input), ("output", price.output)]
    if row.kind == "tuned" and row.usd_per_hour is None and not row.is_trained_elsewhere:
        needed.append(("training", price.training))
    if row.is_hosted:
        needed.append(("serving_usd_per_hour", row.hosted_usd_per_hour))
    return tuple(key for key, amount in needed if amount is None)


@dataclass(frozen=True)
class RunCost:
    """What one run costs: the training, and the evaluation of base and tuned model on the held-out rows, expected and
    at most. The evaluation includes `machine_usd`, the expected hours of a machine that serves the tuned model."""

    training: Training
    evaluation_usd: Decimal
    evaluation_most_usd: Decimal
    machine_usd: Decimal = ZERO


def run_cost(needs: TrainingNeeds, report: Report, judge: JudgeTerms | None) -> RunCost | MissingPrice:
    """Returns the cost of one run, or the price that is missing for it."""
    training = _training(needs)
    if isinstance(training, MissingPrice):
        return training
    tuned = rates_from_row(needs.tuned)
    if isinstance(tuned, MissingPrice):
        return tuned
    base = rates_from_row(needs.base)
    if isinstance(base, MissingPrice):
        return base

    cost = RunCost(training, ZERO, ZERO)
    # On our own machine the answers cost nothing beyond its hours of training; a vendor bills both models' answers.
    if not needs.tuned.answers_by_hour:
        cost = _with_answers(cost, needs, report, base, tuned)
    if judge:
        cost = _with_judge(cost, report, judge)
    if needs.hosting:
        cost = _with_hosting(cost, needs.hosting)
    return cost


def _training(needs: TrainingNeeds) -> Training | MissingPrice:
    time = needs.time
    minutes = time.minutes if time else None
    is_bought = needs.tuned.rental is not None or needs.tuned.price.training is not None
    is_paid_by_the_hour = bool(needs.tuned.usd_per_hour) and not is_bought
    if time and time.is_guess and is_paid_by_the_hour:
        minutes = None  # too uncertain to turn into dollars, unless the machine is rented
    training = training_from_row(needs.tuned, needs.tokens, needs.epochs, minutes)
    if isinstance(training, MissingPrice):
        return training
    training = replace(training, is_estimated=needs.is_estimated)
    if time is None:
        return training
    return replace(training, speed_measured=time.measured, is_guess=time.is_guess)


def _with_answers(cost: RunCost, needs: TrainingNeeds, report: Report, base: Rates, tuned: Rates) -> RunCost:
    rows = report.n_holdout
    before = report.tokens.prompted_mean
    after = report.tokens.prompt_mean
    usage = Usage.from_means(rows, before, after, report.tokens.answer_mean)
    amount = evaluation_usd(usage, base, tuned)
    # The vendor's tokenizer may count more tokens than ours.
    longest = Usage.from_means(
        rows,
        before * OTHER_TOKENIZER,
        after * OTHER_TOKENIZER,
        needs.answer_tokens,
    )
    most = evaluation_usd(longest, base, tuned)
    return replace(cost, evaluation_usd=amount, evaluation_most_usd=max(amount, most))


def _with_judge(cost: RunCost, report: Report, judge: JudgeTerms) -> RunCost:
    rows = report.n_holdout
    answer = report.tokens.answer_mean
    question = report.tokens.prompt_mean + answer
    amount = _judge_usd(judge, rows, question, answer)
    # The judge's tokenizer may count more tokens than ours.
    longest_question = question * OTHER_TOKENIZER
    longest_answer = judge.answer_tokens * OTHER_TOKENIZER
    most = _judge_usd(judge, rows, longest_question, longest_answer)
    return replace(
        cost,
        evaluation_usd=cost.evaluation_usd + amount,
        evaluation_most_usd=cost.evaluation_most_usd + max(amount, most),
    )


def _judge_usd(judge: JudgeTerms, rows: int, question: float, answer: float) -> Decimal:
    """Returns the USD for judging both models' answers to `rows` questions: each answer alone, then the two compared in
    both orders. `question` is the tokens of a question with its right answer, `answer` those of a model's answer."""
    # Four questions a row: two with one answer, two with both.
    read = 4 * (JUDGE_INSTRUCTIONS + question) + 6 * answer
    written = 4 * judge.verdict_tokens
    price = judge.model.price.price
    read_usd = (price.input or ZERO) * Decimal(str(read))
    written_usd = (price.output or ZERO) * written
    return rows * (read_usd + written_usd) / MILLION


def _with_hosting(cost: RunCost, hosting: Hosting) -> RunCost:
    machine_usd = from_micros(hosting.expected_micros)
    machine_most_usd = from_micros(hosting.most_micros)
    return replace(
        cost,
        machine_usd=machine_usd,
        evaluation_usd=cost.evaluation_usd + machine_usd,
        evaluation_most_usd=cost.evaluation_most_usd + machine_most_usd,
    )
