"""How much programs use what is in use: calls, cost and saving by month."""

from __future__ import annotations

from dataclasses import dataclass

from bot.cards.common.blocks import CardBlock, Note, Table, Text, escape
from bot.cards.common.words import money, month_name, pluralize, shorten
from storage.actuals import ActualMonth

UPDATED = "Updated every five minutes."
NOT_COUNTED_YET = "No calls are counted yet. They are added up every five minutes."


@dataclass(frozen=True)
class ModelActuals:
    """The use of what is deployed for a dataset. `months` are newest first. `foreseen` is what the plan of the model in
    use expected to save, in words, '' if nothing."""

    months: tuple[ActualMonth, ...]
    foreseen: str = ""


def actuals_table(actuals: ModelActuals) -> list[CardBlock]:
    """Calls, cost and saving by month, for each that was in use in it."""
    if not actuals.months:
        return [Text(NOT_COUNTED_YET)]
    heading = ("Month", "In use", "Calls", "Tokens", "Cost", "Otherwise", "Saved")
    rows = [
        (
            month_name(each.month),
            each.model,
            _calls(each),
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
    reasons: list[str] = []
    for each in actuals.months:
        reasons += unknown_reasons(each)
    sentences += dict.fromkeys(reasons)
    note = " ".join(sentences) or UPDATED
    return [Table([heading, *rows], "Calls by programs"), Note(note)]


def _calls(month: ActualMonth) -> str:
    if not month.failed:
        return f"{month.calls:,}"
    return f"{month.calls:,}, {month.failed:,} failed"


def unknown_reasons(month: ActualMonth) -> list[str]:
    """Why a month's cost or saving is missing, as sentences."""
    name = escape(shorten(month.model))
    other = escape(shorten(month.alternative or ""))
    sentences = []
    match month.cost_unknown:
        case "no_price":
            sentences.append(f"The price of {name} is unknown: [prices] in finetune.toml can name it.")
        case "no_tokens":
            sentences.append(f"Some answers of {name} named no tokens, so what they cost is unknown.")
        case "estimate":
            sentences.append(f"What {name} costs can't be told any more, because its rows were deleted.")
        case None:
            pass
    match month.saving_unknown:
        case "nothing_before":
            sentences.append(
                "The saving is unknown: nothing was in use before, and no estimate named today's model."
            )
        case "no_price_before":
            sentences.append(f"The saving is unknown, because the price of {other} is.")
        case "cost" | None:
            pass
    return sentences


def latest_month(actuals: ModelActuals, *, with_plan: bool = True) -> str:
    """The newest month in a few words, for all that was in use in it, beside what was planned."""
    if not actuals.months:
        return "no calls counted yet"
    month = actuals.months[0].month
    months = [each for each in actuals.months if each.month == month]
    savings = [each.saving_micros for each in months if each.saving_micros is not None]
    calls = sum(each.calls for each in months)
    text = f"{pluralize(calls, 'call')} in {month_name(month)}"
    if len(savings) < len(months):
        # A sum of some savings would read as that of all.
        return text
    text += f", {_saved_text(sum(savings))}"
    if actuals.foreseen and with_plan:
        text += f" (planned: {actuals.foreseen})"
    return text


def _saved_text(micros: int) -> str:
    if micros < 0:
        return f"cost {money(-micros)} more than the alternative"
    return f"saved {money(micros)}"
