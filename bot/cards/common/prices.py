"""What models cost, with the source and date of each price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from types import MappingProxyType

from bot.cards.common.blocks import Figure, Message, Table, button, cut, escape
from bot.cards.common.builder import Parts
from bot.cards.common.general import text_message
from bot.cards.common.help import ESTIMATE
from bot.cards.common.words import SLACK, Spelling, counted, first_lines, listed, pluralize, shorten
from bot.rules.prices import MissingPrice, is_near_end, missing_keys
from trainers.money import rate, usd
from trainers.providers.pricing import PriceRow, UnknownPrice
from trainers.rentals import prices as rentals
from trainers.types import Price, TriedWith

SHOWN_ROWS = 25
TABLE_ROWS = 60
SHOWN_SOURCES = 8
SHOWN_NOTES = 8
HEADING = ("USD per 1M tokens", "input", "cached", "output", "training", "ends")
UNIT = HEADING[0]
OLD_PRICES = "these prices are over half a year old: check the vendor's page"
NOTHING_TRIED: Mapping[str, Sequence[TriedWith]] = MappingProxyType({})
PROOFS: Mapping[TriedWith, str] = {
    "stand-in": "a stand-in",
    "SDK-typed": "the vendor's own types",
}
UNKNOWN = Price(None, None, None, None)
Row = tuple[str, str, str, str, str, str]


def listing(
    rows: Sequence[PriceRow | UnknownPrice],
    read_on: date,
    *,
    is_detailed: bool = False,
    shown_by: str = "",
    tried_with: Mapping[str, Sequence[TriedWith]] = NOTHING_TRIED,
) -> Message:
    """Prices as of the day `read_on`. `is_detailed` lists everything, which Slack has no room for. If a command that
    shows all of them is named (`shown_by`), models that have ended, can't be trained any more or have no known price
    are only counted. `tried_with` says with what the road of each provider was tried."""
    priced = [row for row in rows if isinstance(row, PriceRow)]
    unknown = [row for row in rows if isinstance(row, UnknownPrice)]
    if not rows:
        return text_message(
            "No model is configured. `/finetune prices gpt-4o-mini` shows the price of a model by its name."
        )
    shown = priced
    if shown_by:
        shown = [row for row in priced if _is_worth_a_line(row, read_on)]
    title = "No price by that name"
    parts = Parts()
    if priced:
        title = f"Prices of {pluralize(len(shown), 'model')}, {read_on}"
    if shown:
        parts.add(_table(shown, read_on, is_detailed=is_detailed))
    parts.lines(_notes(shown, read_on, is_detailed=is_detailed))
    parts.lines([f"• {escape(cut(row.sentence, 300))}" for row in unknown])
    if len(shown) < len(priced):
        hidden = _hidden_text(priced, read_on)
        parts.text(f"{hidden}: {shown_by}")
    if shown_by and not is_detailed:
        parts.buttons(button("Estimate", ESTIMATE, "prices"))
    parts.note(_tried_note(shown, tried_with))
    parts.note(_sources(shown, read_on, is_detailed=is_detailed))
    return parts.titled(title)


def tried_text(tried: Sequence[TriedWith]) -> str:
    """With what the road of a provider was tried, for people who choose one; '' if nobody says."""
    words = _tried_words(tried)
    return f"Tried {words}" if words else ""


def _tried_words(tried: Sequence[TriedWith]) -> str:
    if not tried:
        return ""
    if "live" in tried:
        return "live"
    words = " and ".join(PROOFS[proof] for proof in tried)
    return f"with {words}, not live"


def _tried_note(shown: Sequence[PriceRow], tried: Mapping[str, Sequence[TriedWith]]) -> str:
    """A line for the providers among these whose models can be tuned."""
    tuned = dict.fromkeys(row.model.partition("/")[0] for row in shown if row.kind == "tuned")
    providers_by_words: dict[str, list[str]] = {}
    for provider in tuned:
        words = _tried_words(tried.get(provider, ()))
        if words:
            providers_by_words.setdefault(words, []).append(provider)
    tried_so = [f"{escape(', '.join(names))} {words}" for words, names in providers_by_words.items()]
    if not tried_so:
        return ""
    return f"Tried: {'; '.join(tried_so)}."


def _is_worth_a_line(row: PriceRow, today: date) -> bool:
    return not _is_over(row, today) and not _is_blank(row, today)


def _is_blank(row: PriceRow, today: date) -> bool:
    """True if the table would have nothing but dashes for it."""
    _, *cells = _row(row, 60, today)
    return set(cells) <= {"–", "unknown"}


def _is_over(row: PriceRow, today: date) -> bool:
    """True if the model answers no more, or can only be tuned and takes no new training."""
    if row.has_ended(today):
        return True
    return row.kind == "tuned" and row.is_closed(today)


def _hidden_text(priced: Sequence[PriceRow], today: date) -> str:
    n_over = 0
    n_blank = 0
    for row in priced:
        if _is_over(row, today):
            n_over += 1
        elif _is_blank(row, today):
            n_blank += 1
    over = f"{pluralize(n_over, 'model')} that ended or can't be trained any more"
    blank = f"{pluralize(n_blank, 'model')} without a known price"
    return counted((n_over, over), (n_blank, blank))


def _table(priced: Sequence[PriceRow], read_on: date, *, is_detailed: bool) -> Table:
    """The table of Slack's newest blocks, which has room for more rows than the one for other clients."""
    shown = priced
    if not is_detailed:
        shown = priced[:TABLE_ROWS]
    wide_rows = [HEADING, *(_row(row, 60, read_on) for row in shown)]
    # Other clients get a line for each model, and 25 fit into the 3,000 characters that Slack allows for a text.
    rows = [_row(row, 34, read_on) for row in priced[:SHOWN_ROWS]]
    otherwise = Parts()
    otherwise.text(f"{UNIT}:")
    otherwise.add(Table([HEADING, *rows]))
    hidden = len(priced) - SHOWN_ROWS
    if hidden > 0:
        otherwise.note(f"{hidden:,} more: name one to see it.")
    return Table(wide_rows, UNIT, otherwise=tuple(otherwise))


def _row(row: PriceRow, longest: int, today: date) -> Row:
    price = row.price
    name = shorten(row.model, longest)
    if row.kind == "tuned":
        name += ", tuned"
    input_cell = _amount(price.input)
    cached_cell = _amount(price.cached_input)
    output_cell = _amount(price.output)
    if is_by_the_hour(row):
        # The tokens are free, which says nothing as long as nobody sees what the machine costs.
        input_cell = "–"
        cached_cell = "–"
        output_cell = "by the hour"
        if row.hosted_usd_per_hour is not None:
            output_cell = f"{usd(row.hosted_usd_per_hour)} an hour"
    return (
        name,
        input_cell,
        cached_cell,
        output_cell,
        _training(row, today),
        _end(row, today),
    )


def is_by_the_hour(row: PriceRow) -> bool:
    """True if a vendor bills the hours of a machine for the tuned model, and not its tokens."""
    if not row.is_hosted:
        return False
    return row.price.input == 0 and row.price.output == 0


def _training(row: PriceRow, today: date) -> str:
    if row.is_closed(today):
        return "closed"
    if row.kind == "tuned" and row.model.startswith(f"{rentals.PROVIDER}/"):
        if row.rental is None:
            return "by the minute"
        return f"{usd(row.rental.usd_per_hour)} an hour"
    if row.price.training is not None:
        return _amount(row.price.training)
    if row.usd_per_hour:
        return f"{usd(row.usd_per_hour)} an hour"
    if row.usd_per_hour is not None:
        return "free"
    if row.kind == "tuned" and not row.is_trained_elsewhere:
        return "unknown"
    return "–"


def _end(row: PriceRow, today: date) -> str:
    if row.ends is None:
        return "–"
    if row.has_ended(today):
        return f"{row.ends}, over"
    return f"{row.ends}"


def _amount(amount: Decimal | None) -> str:
    """A price with all its digits, at least two after the point: $0.025."""
    if amount is None:
        return "–"
    if not amount:
        return Figure("free", amount)
    exponent = int(amount.normalize().as_tuple().exponent)
    digits = max(2, -exponent)
    return Figure(f"${amount:,.{digits}f}", amount)


def _notes(rows: Sequence[PriceRow], today: date, *, is_detailed: bool) -> list[str]:
    """What a buyer should know, beginning with the models that can't be trained any more. Rows with the same note share
    a line."""
    rows_by_note: dict[str, list[PriceRow]] = {}
    notes_on_one: dict[str, str] = {}
    closed_first = sorted(rows, key=lambda row: not row.is_closed(today))
    for row in closed_first:
        for_several = _notes_on(row, today, is_shared=True)
        for_this = _notes_on(row, today)
        for note, note_on_one in zip(for_several, for_this, strict=True):
            rows_by_note.setdefault(note, []).append(row)
            notes_on_one[note] = note_on_one

    lines = []
    for note, about in rows_by_note.items():
        text = notes_on_one[note]
        if len(about) > 1:
            text = note
        names = _names(about)
        lines.append(f"• {escape(names)}: {escape(cut(text, 300))}")
    if is_detailed:
        return lines
    return first_lines(lines, SHOWN_NOTES)


def _notes_on(row: PriceRow, today: date, *, is_shared: bool = False) -> Iterator[str]:
    """`is_shared`: in words that fit every model of its provider."""
    closing_source = ""
    if row.closing_said_by:
        closing_source = f" ({row.closing_said_by})"
    if row.is_closed(today):
        # Nobody needs to know the rest about a model that can't be trained.
        yield f"has taken no new training jobs since {row.closed_since}{closing_source}"
        return
    limits = []
    if row.closed_to_new:
        limits.append(f"trains only for organisations that had trained there before {row.closed_to_new}")
    if row.closed_since:
        limits.append(f"takes no new training jobs from {row.closed_since} on")
    if limits:
        yield f"{', and '.join(limits)}{closing_source}"
    if row.note:
        yield row.note
    if row.successor:
        ends = "ended" if row.has_ended(today) else "ends"
        succession = f"{ends} on {row.ends}, then {row.successor}"
        if row.ends_said_by:
            succession += f" ({row.ends_said_by})"
        yield succession
    if missing_keys(row):
        yield f"price unknown: {where_to_add(row, is_shared=is_shared)}"
    if row.is_old(today) and row.price != UNKNOWN:
        yield f"{OLD_PRICES} ({row.as_of})"


def price_mark(row: PriceRow, today: date) -> str:
    """What is wrong with a price, for a list of models to choose from; '' if nothing is."""
    if missing_keys(row):
        return "price unknown"
    if row.is_old(today) and row.price != UNKNOWN:
        return "old price"
    return ""


def _names(rows: Sequence[PriceRow]) -> str:
    """The model, or its provider if several of its models share a note."""
    if len(rows) == 1:
        return shorten(rows[0].model)
    providers = dict.fromkeys(row.model.partition("/")[0] for row in rows)
    names = " and ".join(providers)
    return f"{names} ({pluralize(len(rows), 'model')})"


def _sources(rows: Sequence[PriceRow], today: date, *, is_detailed: bool) -> str:
    own = 'A price of yours in finetune.toml, under `[prices."MODEL"]`, overrides these.'
    # Old prices are the ones to check, so their sources must not be among those left out.
    old_first = sorted(rows, key=lambda row: not row.is_old(today))
    sources = list(dict.fromkeys(_source(row, today) for row in old_first))
    if not sources:
        return own
    most = SHOWN_SOURCES
    if is_detailed:
        most = len(sources)
    names = listed(sources, most, "; ")
    return f"From {names}. {own}"


def _source(row: PriceRow, today: date) -> str:
    source = escape(cut(row.said_by, 120))
    if row.is_old(today):
        return f"{source} (over half a year old)"
    return source


def vendor_prices(
    row: PriceRow, today: date | None, *, asks_vendor: bool, is_short: bool = False
) -> str | None:
    """The prices of a vendor's tuned model with their source, then missing prices and where to add them. None for a
    model on our own machine. `asks_vendor` is True if the vendor confirms its price before approval. `is_short` names
    only the day of the source."""
    if row.kind == "prompted":
        return None
    if row.usd_per_hour is not None and row.price.training is None:
        return None
    figures = _figures(row)
    is_old = today is not None and row.is_old(today)
    parts = []
    if figures and is_short:
        parts.append(_short_figures(row, figures, is_old=is_old))
    elif figures:
        if is_by_the_hour(row):
            figures.append("tokens free")
        source = escape(cut(row.said_by, 120))
        parts.append(f"{', '.join(figures)} ({source})")
        if is_old:
            parts.append(OLD_PRICES)
    if missing_keys(row):
        where = where_to_add(row).removesuffix(".")
        parts.append(f"unknown: {escape(where)}")
    elif asks_vendor:
        parts.append("confirmed with the vendor before approval")
    return "; ".join(parts)


def _short_figures(row: PriceRow, figures: Sequence[str], *, is_old: bool) -> str:
    text = ", ".join(figures)
    if not row.as_of:
        return text
    if is_old:
        return f"{text} (of {row.as_of}, over half a year old)"
    return f"{text} (of {row.as_of})"


def _figures(row: PriceRow) -> list[str]:
    """The known prices of training the model and of using it."""
    rates = {"training": row.price.training}
    answers_here = row.answers_by_hour  # on our own machine, where tokens cost nothing more
    if not answers_here and not is_by_the_hour(row):
        rates["input"] = row.price.input
        rates["output"] = row.price.output
    figures = []
    for name, amount in rates.items():
        if amount is not None:
            figures.append(f"{name} {rate(amount)}")
    if row.hosted_usd_per_hour is not None:
        figures.append(f"its machine {usd(row.hosted_usd_per_hour)} an hour")
    return figures


def doubtful_successors(rows: Sequence[PriceRow], today: date) -> list[str]:
    """A sentence for each successor that money or a verdict may rest on although its maker doesn't confirm it."""
    lines = []
    for row in rows:
        if not row.is_successor_doubtful or row.ends is None:
            continue
        # Until its end is near, no verdict rests on what comes after.
        if is_near_end(row.ends, today):
            end = f"{row.model} ends on {row.ends}, then {row.successor}"
            lines.append(f"Check its successor: {end} ({row.ends_said_by}).")
    # Several rows may be about the same model.
    return list(dict.fromkeys(lines))


def where_to_add(row: PriceRow, *, is_shared: bool = False) -> str:
    """Which settings to add to finetune.toml for the row's missing prices, and where to get them. `is_shared`: for any
    model of its provider."""
    *others, last = missing_keys(row)
    keys = last
    if others:
        keys = f"{', '.join(others)} and {last}"
    if row.prices_from:
        keys = f"{keys} from {row.prices_from}"
    provider, slash, model = row.model.partition("/")
    if row.kind == "prompted" or not slash:
        return f'add {keys} to finetune.toml under [prices."{row.model}"].'
    table = model
    if is_shared:
        table = "MODEL"
    return f'add {keys} to finetune.toml under [providers.{provider}.models."{table}"].'


def missing_price_text(missing: MissingPrice, spelling: Spelling = SLACK) -> str:
    """Which price is missing, and where to add it."""
    row = missing.row
    if row is None:
        current = spelling.option("current")
        volume = spelling.option("volume")
        return f"Whether it saves money is unknown. Add {current} (today's model) and {volume}."
    if missing.what == "hours":
        return (
            f"Training on {row.model} is paid by the hour, but its speed is not measured. `finetune calibrate` "
            "measures this machine (without quantization); for another machine, set `tokens_per_second` of the model "
            "in finetune.toml, under [providers.NAME.models.MODEL]."
        )
    if missing.what == "hosting":
        return f"The hourly price of a machine for {row.model} is unknown: {where_to_add(row)}"
    what = f"a token of {row.model}"
    if missing.what == "training":
        what = f"training on {row.model}"
    return f"The price of {what} is unknown: {where_to_add(row)}"
