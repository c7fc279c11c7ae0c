"""The first verdict, before anything is trained: what the data and the money say, and what is still unknown.

An estimate can say no. It cannot say yes on quality: that takes a measurement, and the verdict says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from bot.decisions.amounts import duration, tokens
from bot.decisions.roi import Estimate
from trainers.money import usd
from trainers.providers import ModelVerdict

NOT_YET_ROWS, ENOUGH_ROWS = 200, 1000
LONGEST_PAYBACK_MONTHS = 12
FEW_PER_LABEL = 10
SMALL_HOLDOUT = 100

Kind = Literal["go", "no_go", "unknown"]


@dataclass(frozen=True)
class Facts:
    """`smallest_label` is the rows of the rarest label, None for free text. `estimate` is None, and `gaps` say
    why, where today's bill or the tuned model's price is not known; `training_usd` may be known all the same."""

    rows: int
    n_holdout: int
    smallest_label: int | None
    target: ModelVerdict
    training_usd: Decimal | None
    estimate: Estimate | None
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reason:
    """`rule` is a word for the rule, `text` a sentence with its numbers; `kind` is what it argues for."""

    rule: str
    kind: Kind
    text: str


@dataclass(frozen=True)
class Verdict:
    kind: Kind
    headline: str
    reasons: tuple[Reason, ...]
    next_step: str


def advise(facts: Facts) -> Verdict:
    reasons = (*_about_target(facts), _about_rows(facts), *_about_labels(facts), *_about_money(facts))
    against = [reason for reason in reasons if reason.kind == "no_go"]
    if against:
        return Verdict("no_go", f"Not now. {against[0].text}", reasons, _way_out(against[0]))
    unknown = Reason(
        "quality",
        "unknown",
        f"How good the tuned model will be is unknown until it has answered the {facts.n_holdout} held-out rows.",
    )
    return Verdict("unknown", _promising(facts), (*reasons, unknown), _measure(facts))


def _about_target(facts: Facts) -> tuple[Reason, ...]:
    kind: Kind = "no_go" if facts.target.level == "refuse" else "unknown"
    return tuple(Reason("end date", kind, text) for text in facts.target.reasons)


def _about_rows(facts: Facts) -> Reason:
    if facts.rows < NOT_YET_ROWS:
        return Reason(
            "rows",
            "no_go",
            f"{facts.rows} rows are too few: below {NOT_YET_ROWS} a better prompt with examples gains more.",
        )
    if facts.rows < ENOUGH_ROWS:
        return Reason(
            "rows",
            "unknown",
            f"{facts.rows} rows are worth a try; {ENOUGH_ROWS:,} and more are what usually carries a fine-tune.",
        )
    return Reason("rows", "go", f"{facts.rows:,} rows are enough to fine-tune with.")


def _about_labels(facts: Facts) -> tuple[Reason, ...]:
    if facts.smallest_label is None or facts.smallest_label >= FEW_PER_LABEL:
        return ()
    text = f"The rarest label has {facts.smallest_label} rows: it will hardly be learnt, and can't be judged."
    return (Reason("labels", "unknown", text),)


def _about_money(facts: Facts) -> tuple[Reason, ...]:
    estimate = facts.estimate
    if estimate is None:
        return tuple(Reason("cost", "unknown", gap) for gap in facts.gaps)
    if estimate.payback_months is None:
        return (Reason("cost", "no_go", _a_loss(estimate)),)
    months = estimate.payback_months
    text = f"It saves {usd(estimate.saving_month)} a month and pays back {in_time(months)}."
    if estimate.months_left == 0:
        return ()  # its end is a reason of its own
    if estimate.months_left is not None and months > estimate.months_left:
        text += f" The model is gone before that, in {duration(estimate.months_left)}."
        return (Reason("payback", "no_go", text),)
    if months > LONGEST_PAYBACK_MONTHS:
        return (Reason("payback", "no_go", f"{text} That is longer than a year. {_needed(estimate)}"),)
    if months > estimate.payback_target_months:
        return (Reason("payback", "unknown", f"{text} That is longer than {_target(estimate)}."),)
    return (Reason("payback", "go", text),)


def in_time(months: Decimal) -> str:
    return f"in {duration(months)}" if months else "at once"


def _a_loss(estimate: Estimate) -> str:
    return (
        f"On cost it is a loss: today's model costs {usd(estimate.monthly_before.total)} a month, "
        f"the tuned one would cost {usd(estimate.monthly_after.total)}. {_needed(estimate)}"
    )


def _needed(estimate: Estimate) -> str:
    if estimate.break_even_tokens_per_month is None:
        return "No volume changes that."
    volume = tokens(estimate.break_even_tokens_per_month)
    return f"It would pay back within {_target(estimate)} from {volume} input tokens a month on."


def _target(estimate: Estimate) -> str:
    return duration(estimate.payback_target_months)


def _promising(facts: Facts) -> str:
    cost = _cost(facts.training_usd)
    if facts.estimate is None:
        return f"Worth measuring: a run costs {cost}. What it saves is still unknown."
    return (
        f"Worth measuring: a run costs {cost} and would save {usd(facts.estimate.saving_month)} a month "
        f"if the tuned model is good enough."
    )


def _cost(amount: Decimal | None) -> str:
    if amount is None:
        return "an unknown sum"
    if not amount:
        return "nothing but your own machine's time"
    said = usd(amount)
    return f"about {said}" if said.startswith("$") else said


def _measure(facts: Facts) -> str:
    small = ""
    if facts.n_holdout < SMALL_HOLDOUT:
        small = f" With {facts.n_holdout} held-out rows only a large difference will show."
    return f"Start a run: it measures base and tuned model on the same held-out rows.{small}"


def _way_out(reason: Reason) -> str:
    if reason.rule == "rows":
        return "Collect labelled rows and upload again; until then put ten good examples into the prompt."
    if reason.rule == "end date":
        return "Choose another target: a model on your own machine has no end date."
    return "Stay with today's model, or start all the same if quality, not cost, is the reason."
