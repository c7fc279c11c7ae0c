"""How much programs use the deployed models: calls, cost and saving by month, counted by their providers."""

from __future__ import annotations

from dataclasses import dataclass

from bot.cards.common.blocks import CardBlock, Note, Table, Text, escape
from bot.cards.common.words import money, month_name, pluralize, shorten
from storage.actuals import ActualMonth

UPDATED = "Updated every five minutes."


@dataclass(frozen=True)
class ModelActuals:
    """How much a dataset's models were used. `months` are newest first. `foreseen` is what the plan of the model in use
    expected to save, in words, '' if nothing. `is_counted` is False if its provider doesn't count calls by model."""

    months: tuple[ActualMonth, ...]
    foreseen: str
    provider: str
    is_counted: bool


def actuals_table(actuals: ModelActuals) -> list[CardBlock]:
    """Calls, cost and saving by month and model."""
    if not actuals.months:
        provider = escape(shorten(actuals.provider))
        unknown = f"The number of calls is unknown: {provider} has reported nothing yet."
        if not actuals.is_counted:
            unknown = f"The number of calls is unknown: {provider} doesn't count calls by model."
        return [Text(unknown)]
    heading = ("Month", "Model", "Calls", "Tokens", "Cost", "Otherwise", "Saved")
    rows = [
        (
            month_name(each.month),
            each.model,
            f"{each.calls:,}",
            f"{each.tokens:,}",
            money(each.micros),
            money(each.alternative_micros),
            money(each.saving_micros),
        )
        for each in actuals.months
    ]
    sentences = []
    if actuals.foreseen:
        sentences.append(f"Planned: {actuals.foreseen}.")
    others = dict.fromkeys(each.alternative for each in actuals.months if each.alternative)
    if others:
        sentences.append(f"Otherwise: the same calls on {escape(shorten(', '.join(others), 80))}.")
    note = " ".join(sentences) or UPDATED
    return [Table([heading, *rows], "Calls by programs"), Note(note)]


def latest_month(actuals: ModelActuals) -> str:
    """The newest month in a few words, for all models that were in use in it."""
    if not actuals.months and not actuals.is_counted:
        return "calls unknown"
    if not actuals.months:
        return "no calls counted yet"
    month = actuals.months[0].month
    months = [each for each in actuals.months if each.month == month]
    savings = [each.saving_micros for each in months if each.saving_micros is not None]
    text = f"{pluralize(sum(each.calls for each in months), 'call')} in {month_name(month)}"
    if len(savings) < len(months):
        # A sum of some models' savings would read as that of all.
        return text
    text += f", {_saved_text(sum(savings))}"
    if actuals.foreseen:
        text += f" (planned: {actuals.foreseen})"
    return text


def _saved_text(micros: int) -> str:
    if micros < 0:
        return f"cost {money(-micros)} more than the alternative"
    return f"saved {money(micros)}"
