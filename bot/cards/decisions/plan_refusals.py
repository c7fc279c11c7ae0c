"""Why a plan is refused or no longer holds: a newer plan, prices that rose, and a sweep that isn't possible. Also what
a rented machine costs."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from bot.cards.common.blocks import code
from bot.cards.common.words import pluralize
from bot.rules.plans import SweepConflict
from bot.rules.prices import PricedUnit, PriceRise, may_run_out
from trainers.money import usd
from trainers.providers.providers import ModelRow
from trainers.rentals.prices import WHO, Rental

UNITS: Mapping[PricedUnit, str] = {
    "training": "1M tokens of training",
    "input": "1M tokens of input",
    "output": "1M tokens of output",
    "hour": "an hour of training",
}


def superseded_by(by: int, requester: str, link: str | None = None) -> str:
    """A sentence for the old plan's card. `link` is the address of the new plan's card."""
    which = f"<{link}|run {by}>" if link else f"run {by}"
    return f"Replaced by {which}, requested by <@{requester}>. Earlier approvals no longer count."


def superseded_refusal(number: int, by: int) -> str:
    """For a person who clicks a button on the old plan's card."""
    return f"Nothing was done: run {number} was replaced by run {by}. Decide on the card of run {by}."


def rent_text(rental: Rental, expected_minutes: Decimal | None) -> str:
    """For approvers: what is rented, at what price, and for how long."""
    minutes = pluralize(rental.minutes, "minute")
    text = (
        f"It rents {rental.hardware} from {WHO} at {usd(rental.usd_per_hour)} an hour for at most {minutes}. Whether "
        "time spent waiting for the machine is billed is unknown."
    )
    if expected_minutes is not None and may_run_out(rental, expected_minutes):
        text += f" The training may need more than {minutes} and would then stop early: raise [hf] minutes."
    return text


def hosted_engine_text(title: str, data_terms: str | None, model: ModelRow) -> str:
    """For approvers: who gets the rows, what that costs, and on whose terms."""
    text = f"Its rows are sent to {title}, which trains {model.base_name}"
    if model.price.training is not None:
        text += f" at ${model.price.training:f} per million tokens"
    text += "."
    if data_terms:
        text += f" An approval accepts {title}'s terms: {data_terms}"
    return text


def price_rise_text(approved: Rental, now: Rental) -> str:
    return (
        f"{WHO} now charges {usd(now.usd_per_hour)} an hour for {now.hardware}, and {usd(approved.usd_per_hour)} was "
        "approved."
    )


def listed_price_rise_text(rise: PriceRise) -> str:
    """Which of the target's prices has risen."""
    unit = UNITS[rise.unit]
    return f"{code(rise.model)} costs ${rise.now:f} for {unit} now, and it was ${rise.before:f} when the plan was made."


def unswept_text(unswept: SweepConflict, title: str) -> str:
    """Why a sweep is refused. `title` is the provider's."""
    match unswept.why:
        case "one set a job":
            return (
                f"`sweep=` needs our own trainer; {title} trains one set of hyperparameters per job. Leave it out, or "
                "choose a target that starts with `local/`."
            )
        case "method" | "engine":
            return f"`{unswept.why}={unswept.name}` can't be combined with `sweep=`. Leave one of them out."
        case "given twice":
            return f"`{unswept.name}=` is given twice: alone and in the sweep. Remove one."
        case "patience":
            return "A sweep stops weaker trials itself, so `patience=` can't be combined with `sweep=`. Leave one out."
