"""What models cost, with the source and date of each price."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal

from bot.cards.blocks import CardBlock, Figure, Lines, Message, Note, Table, cut, escape
from bot.cards.general import text_message
from bot.cards.words import SLACK, Spelling, first_lines, listed, pluralize, shorten
from bot.rules.prices import MissingPrice, missing_keys
from trainers.money import rate, usd
from trainers.pricing import PriceRow, UnknownPrice
from trainers.rentals import prices as rentals

SHOWN_ROWS, TABLE_ROWS, SHOWN_SOURCES, SHOWN_NOTES = 25, 60, 8, 8
HEADING = ("USD per 1M tokens", "input", "cached", "output", "training", "ends")
OLD_PRICES = "these prices are over half a year old: check the vendor's page"
# A successor counts only in an estimate that reaches beyond the end, and estimates look a year ahead.
NEAR_END = timedelta(days=365)
Row = tuple[str, str, str, str, str, str]


def listing(rows: Sequence[PriceRow | UnknownPrice], read_on: date, *, is_detailed: bool = False) -> Message:
    """Prices as of the day `read_on`. `is_detailed` lists everything, which Slack has no room for."""
    priced = [row for row in rows if isinstance(row, PriceRow)]
    unknown = [row for row in rows if isinstance(row, UnknownPrice)]
    if not rows:
        return text_message(
            "No model is configured. `/finetune prices gpt-4o-mini` shows the price of a model by its name."
        )
    title = f"Prices of {pluralize(len(priced), 'model')}, {read_on}" if priced else "No price by that name"
    notes = _notes(priced, read_on, is_detailed=is_detailed)
    end: list[CardBlock | None] = [
        Lines(notes) if notes else None,
        Lines([f"• {escape(cut(name.sentence, 300))}" for name in unknown]) if unknown else None,
        Note(_sources(priced, read_on, is_detailed=is_detailed)),
    ]
    if not priced:
        return Message.titled(title, *end)
    shown = [HEADING, *(_row(row, 34, read_on) for row in priced[:SHOWN_ROWS])]
    hidden = len(priced) - SHOWN_ROWS
    more = [Note(f"{hidden:,} more: name one to see it.")] if hidden > 0 else []
    every = [HEADING, *(_row(row, 60, read_on) for row in priced[: None if is_detailed else TABLE_ROWS])]
    table = Table(every, "USD per 1M tokens", otherwise=(Table(shown), *more))
    return Message.titled(title, table, *end)


def _row(row: PriceRow, longest: int, today: date) -> Row:
    price = row.price
    kind = ", tuned" if row.kind == "tuned" else ""
    training = _amount(price.training)
    if price.training is None and row.usd_per_hour is not None:
        training = f"{usd(row.usd_per_hour)} an hour" if row.usd_per_hour else "free"
    if row.kind == "tuned" and row.model.startswith(f"{rentals.PROVIDER}/"):
        training = f"{usd(row.rental.usd_per_hour)} an hour" if row.rental else "by the minute"
    end = "–" if row.ends is None else f"ended {row.ends}" if row.has_ended(today) else f"{row.ends}"
    return (
        f"{shorten(row.model, longest)}{kind}",
        _amount(price.input),
        _amount(price.cached_input),
        _amount(price.output),
        training,
        end,
    )


def _amount(amount: Decimal | None) -> str:
    """A price with all its digits, at least two after the point: $0.025."""
    if amount is None:
        return "–"
    digits = max(2, -int(amount.normalize().as_tuple().exponent))
    return Figure(f"${amount:,.{digits}f}" if amount else "free", amount)


def _notes(rows: Sequence[PriceRow], today: date, *, is_detailed: bool) -> list[str]:
    notes = [(row, row.note) for row in rows if row.note]
    for row in rows:
        if row.successor:
            source = f" ({row.ends_said_by})" if row.ends_said_by else ""
            ends = "ended" if row.has_ended(today) else "ends"
            notes.append((row, f"{ends} on {row.ends}, then {row.successor}{source}"))
    notes += [(row, f"price unknown: {where_to_add(row)}") for row in rows if missing_keys(row)]
    lines = [f"• {escape(shorten(row.model))}: {escape(cut(text, 300))}" for row, text in notes]
    return lines if is_detailed else first_lines(lines, SHOWN_NOTES)


def _sources(rows: Sequence[PriceRow], today: date, *, is_detailed: bool) -> str:
    old_first = sorted(rows, key=lambda row: not row.is_old(today))
    texts = (
        f"{escape(cut(row.said_by, 120))}{' (over half a year old)' if row.is_old(today) else ''}"
        for row in old_first
    )
    sources = list(dict.fromkeys(texts))
    named = listed(sources, len(sources) if is_detailed else SHOWN_SOURCES, "; ")
    text = f"From {named}. " if named else ""
    return f'{text}A price of yours in finetune.toml, under `[prices."MODEL"]`, overrides these.'


def vendor_prices(row: PriceRow, today: date | None, *, asks_vendor: bool) -> str | None:
    """The prices of a vendor's tuned model with their source, then missing prices and where to add them. None for a
    model on our own machine. `asks_vendor` is True if the vendor confirms its price before approval."""
    if row.kind == "prompted" or row.usd_per_hour is not None:
        return None
    price, hourly = row.price, row.hosted_usd_per_hour
    tokens = {"input": price.input, "output": price.output}
    is_by_the_hour = row.is_hosted and price.input == price.output == 0
    rates = {"training": price.training, **({} if is_by_the_hour else tokens)}
    figures = [f"{name} {rate(amount)}" for name, amount in rates.items() if amount is not None]
    figures += [] if hourly is None else [f"its machine {usd(hourly)} an hour"]
    figures += ["tokens free"] if is_by_the_hour else []
    parts = [f"{', '.join(figures)} ({escape(cut(row.said_by, 120))})"] if figures else []
    if figures and today and row.is_old(today):
        parts.append(OLD_PRICES)
    if missing_keys(row):
        parts.append(f"unknown: {escape(where_to_add(row).removesuffix('.'))}")
    elif asks_vendor:
        parts.append("confirmed with the vendor before approval")
    return "; ".join(parts)


def doubtful_successors(rows: Sequence[PriceRow], today: date) -> list[str]:
    """A sentence for each successor that money or a verdict may rest on although its maker doesn't confirm it."""
    lines = []
    for row in rows:
        is_near = row.ends is not None and row.ends - today < NEAR_END
        if row.is_successor_doubtful and is_near:
            end = f"{row.model} ends on {row.ends}, then {row.successor}"
            lines.append(f"Check its successor: {end} ({row.ends_said_by}).")
    return list(dict.fromkeys(lines))


def where_to_add(row: PriceRow) -> str:
    """Which settings to add to finetune.toml for the row's missing prices, and where to get them."""
    *others, last = missing_keys(row)
    keys = f"{', '.join(others)} and {last}" if others else last
    if row.prices_from:
        keys = f"{keys} from {row.prices_from}"
    provider, slash, model = row.model.partition("/")
    if row.kind == "prompted" or not slash:
        return f'add {keys} to finetune.toml under [prices."{row.model}"].'
    return f'add {keys} to finetune.toml under [providers.{provider}.models."{model}"].'


def missing_price_text(missing: MissingPrice, spelling: Spelling = SLACK) -> str:
    """Which price is missing, and where to add it."""
    row = missing.row
    if row is None:
        current, volume = spelling.option("current"), spelling.option("volume")
        return f"Whether it saves money is unknown. Add {current} (today's model) and {volume}."
    if missing.what == "hours":
        return (
            f"Training on {row.model} is paid by the hour, but its speed is not measured. `finetune calibrate` "
            "measures this machine (without quantization); for another machine, set `tokens_per_second` of the model "
            "in finetune.toml, under [providers.NAME.models.MODEL]."
        )
    if missing.what == "hosting":
        return f"The hourly price of a machine for {row.model} is unknown: {where_to_add(row)}"
    what = f"training on {row.model}" if missing.what == "training" else f"a token of {row.model}"
    return f"The price of {what} is unknown: {where_to_add(row)}"
