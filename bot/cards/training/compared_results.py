"""Finished results side by side, for somebody who has to choose one: which is better and by how much, on how many rows
they differ, what each has cost, and which settings differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bot.cards.common.blocks import NOTHING, CardBlock, Message, Table, Text, code, escape
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import MEASURED, SHORT_MEANINGS, STANDINGS, p50_text, price, promote_command
from bot.cards.common.words import (
    about_rows,
    capitalize,
    charge,
    duration,
    listed,
    percent,
    pluralize,
    points,
    points_range,
    shorten,
    versioned,
)
from bot.cards.evidence.wrong_rows import DifferentSide, different_rows_button
from bot.cards.training.runs import STATE_TEXTS
from bot.rules.training.compared_results import (
    CommonScores,
    ComparedResult,
    LeftOut,
    ResultPair,
    ResultsCompared,
    different_settings,
)
from bot.values.evaluations import promotable_candidate
from storage.records import Promotable

SHOWN_SETTINGS = 8
WIDEST_CELL = 22  # with two results; with more, a cell has less room
NARROW_CELL = 11
RUN_STATES: Mapping[str, str] = {str(state): text for state, text in STATE_TEXTS.items()}
MEASUREMENT_STATES: Mapping[str, str] = {
    "asked": "has not begun",
    "running": "is under way",
    "failed": "failed",
    "cancelled": "was cancelled",
}
RIGHT_OR_WRONG = ("label", "calls", "judge")


def card(compared: ResultsCompared) -> Message:
    parts = Parts()
    parts.note(_subject(compared))
    for pair in compared.pairs:
        parts.add(_pair_part(pair, compared))
    results = [common.result for common in compared.compared]
    if len(results) > 1:
        parts.add(Table(_table(compared)))
    parts.bullets([_left_out_text(each) for each in compared.left_out])
    step = _next_step(compared)
    if step:
        parts.text(f"*Next*: {step}")
    if len(results) > 1:
        for note in _notes(compared):
            parts.note(note)
    return parts.titled(headline(compared))


def headline(compared: ResultsCompared) -> str:
    """Which result is better, unescaped."""
    if compared.outcome == "nothing to compare":
        names = _and([each.name for each in _everything(compared)])
        return f"{capitalize(names)} can't be compared"
    pair = compared.pairs[0]
    difference = pair.difference
    between = points_range(difference.low, difference.high)
    first = _title(pair.first)
    match compared.outcome:
        case "better" if len(compared.pairs) == 1:
            return f"{first} is better than {pair.other.name}: {points(difference.difference)} ({between})"
        case "better":
            gain = points(difference.difference)
            return (
                f"{first} is the best of {len(compared.compared)}: {gain} over {pair.other.name} ({between})"
            )
        case "cheaper":
            others = _and([each.other.name for each in compared.pairs])
            return f"{first}: cheaper, and less than {_margin(compared)} below {others}"
    undecided = _and([result.name for result in compared.undecided])
    closest = next(each for each in compared.pairs if not each.difference.is_better)
    between = points_range(closest.difference.low, closest.difference.high)
    return f"Can't tell {undecided} apart: {between} points"


def _subject(compared: ResultsCompared) -> str:
    """What answered, and on how many rows of which dataset they are compared."""
    names = [_described(result) for result in _everything(compared) if result.answered_by]
    text = "; ".join(names)
    if len(compared.compared) < 2:
        return text
    result = compared.compared[0].result
    dataset = escape(shorten(versioned(result.dataset, result.version)))
    rows = pluralize(compared.rows, "held-out row")
    if compared.is_part:
        return f"{text}. On the {rows} of {dataset} that all answered"
    return f"{text}. On {rows} of {dataset}"


def _described(result: ComparedResult) -> str:
    return f"{_title(result)}: {escape(shorten(result.answered_by, 50))}"


def _pair_part(pair: ResultPair, compared: ResultsCompared) -> CardBlock:
    """On how many rows two results differ. No row is quoted, as the answer may be typed in any channel; the button
    shows them where rows may be shown."""
    text = _pair_text(pair, compared)
    count = pair.only_first + pair.only_other
    is_same_dataset = pair.first.dataset == pair.other.dataset
    if not count or not is_same_dataset or pair.first.holdout != pair.other.holdout:
        return Text(text)
    words = f"Show {pluralize(count, 'row')}"
    side = DifferentSide(pair.first.name, pair.first.position)
    other = DifferentSide(pair.other.name, pair.other.position)
    return Text(text, different_rows_button(words, side, other, 0))


def _pair_text(pair: ResultPair, compared: ResultsCompared) -> str:
    difference = pair.difference
    if not pair.only_first and not pair.only_other:
        return f"{_title(pair.first)} and {pair.other.name} are right on the same rows."
    text = f"Of {pluralize(compared.rows, 'row')}, {_differing_rows(pair, compared)}"
    if len(compared.pairs) > 1:
        between = points_range(difference.low, difference.high)
        text += f": {points(difference.difference)} ({between})"
    if difference.low > 0 and not difference.is_better:
        return f"{text}. That may still be luck: it is the best of several models tuned on these rows."
    return f"{text}."


def _differing_rows(pair: ResultPair, compared: ResultsCompared) -> str:
    first = pair.first.name
    other = pair.other.name
    if compared.scoring in RIGHT_OR_WRONG:
        return f"{pair.only_first:,} only {first} gets right and {pair.only_other:,} only {other}"
    return f"{first} answers {pair.only_first:,} better and {other} {pair.only_other:,}"


def _table(compared: ResultsCompared) -> list[list[str]]:
    """A column for each result. The settings are those that differ."""
    results = [common.result for common in compared.compared]
    rows = [
        ["", *(result.name for result in results)],
        [_measure(compared), *(percent(common.score) for common in compared.compared)],
    ]
    if not compared.is_part:  # the bar is judged by all rows of a holdout
        rows.append(["Quality bar", *map(_standing, compared.compared)])
    rows.append(["Cost", *map(_cost, results)])
    if any(result.train_seconds is not None for result in results):
        rows.append(["Training took", *map(_training_time, results)])
    rows.append(["1,000 requests", *(price(result.usd) for result in results)])
    rows.append(["An answer takes", *map(_answer_time, results)])
    width = WIDEST_CELL
    if len(results) > 2:
        width = NARROW_CELL
    differences = different_settings(results)
    for setting in differences[:SHOWN_SETTINGS]:
        values = [shorten(value or NOTHING, width) for value in setting.values]
        rows.append([setting.name, *values])
    hidden = len(differences) - SHOWN_SETTINGS
    if hidden > 0:
        rows.append([f"{pluralize(hidden, 'more setting')} differ", *(NOTHING for _ in results)])
    return rows


def _measure(compared: ResultsCompared) -> str:
    return MEASURED[compared.scoring]


def _standing(common: CommonScores) -> str:
    if common.result.measured is None:
        return NOTHING
    return STANDINGS[common.result.measured.standing]


def _cost(result: ComparedResult) -> str:
    if result.cost_micros is None:
        return NOTHING
    return charge(result.cost_micros)


def _training_time(result: ComparedResult) -> str:
    if result.train_seconds is None:
        return NOTHING
    return duration(result.train_seconds)


def _answer_time(result: ComparedResult) -> str:
    if result.measured is None:
        return NOTHING
    return p50_text(result.measured)


def _left_out_text(left_out: LeftOut) -> str:
    """Why a result is not in the comparison."""
    result = left_out.result
    name = f"*{_title(result)}*"
    beside = ""
    if left_out.beside is not None:
        beside = left_out.beside.name
    match left_out.why:
        case "deleted":
            return f"{name} can't be compared: its dataset was deleted, and its answers with it."
        case "curve":
            return f"{name} can't be compared: it is a learning curve, not a measurement of candidates."
        case "no result":
            return f"{name} can't be compared yet: it {_state(result)}."
        case "other measure" if result.measured and left_out.beside and left_out.beside.measured:
            own = SHORT_MEANINGS[result.measured.scoring]
            other = SHORT_MEANINGS[left_out.beside.measured.scoring]
            return f"{name} was scored by another measure ({own}) than {beside} ({other})."
        case "other measure":
            return f"{name} was scored by another measure than {beside}."
        case "other judge":
            return (
                f"{name} was judged by {escape(shorten(str(result.judge)))}, and {beside} by another judge."
            )
    version = escape(shorten(versioned(result.dataset, result.version)))
    return f"{name} answered other held-out rows ({version}), of which {beside} answered none."


def _state(result: ComparedResult) -> str:
    words = RUN_STATES
    if result.is_measurement:
        words = MEASUREMENT_STATES
    if result.state == "done":
        return "has no scores"
    return words.get(result.state, "has no scores")


def _next_step(compared: ResultsCompared) -> str:
    """One step. Promoting says what speaks against a model, so it needs no second opinion here."""
    winner = compared.winner
    if winner is not None:
        return _use_text(winner)
    if compared.outcome == "nothing to compare":
        return _step_to_compare(compared)
    choose = "choose by price and time"
    cheapest = _cheapest(compared.undecided)
    if cheapest is not None:
        choose = f"take {cheapest.name}, which is cheaper"
    undecided = [pair.difference for pair in compared.pairs if not pair.difference.is_better]
    if any(difference.low > 0 for difference in undecided):
        return f"A version with fresh held-out rows decides; until then, {choose}."
    needed = max(difference.rows_for_margin(compared.margin) or 0 for difference in undecided)
    if not needed:
        return f"As far as these rows can tell, either will do: {choose}."
    more = capitalize(about_rows(needed, "held-out row"))
    return f"{more} would show whether they are within {_margin(compared)}; until then, {choose}."


def _use_text(winner: ComparedResult) -> str:
    measured = winner.measured
    if measured is not None and measured.standing == "misses":
        return (
            f"{_title(winner)} is still below the bar: `/finetune curve {winner.dataset}` says whether more "
            "rows would help."
        )
    if winner.model:
        what = Promotable(model=winner.model)
    elif winner.is_measurement and measured is not None:
        what = promotable_candidate(measured.identity, winner.number)
    else:
        return f"`/finetune results {winner.name}` shows it."
    command = code(promote_command(winner.dataset, what))
    return f"{command} deploys it, or says what speaks against it."


def _step_to_compare(compared: ResultsCompared) -> str:
    """What would make the results comparable, if waiting or training on the same rows does."""
    whys = {each.why for each in compared.left_out}
    if "no result" in whys:
        return "`/finetune status` shows what is under way; ask again once they are done."
    if "other rows" in whys:
        return _repeat_text(compared)
    return ""


def _repeat_text(compared: ResultsCompared) -> str:
    """How the result of the older version gets measured on the newest rows."""
    oldest = min(_everything(compared), key=lambda result: result.version)
    if oldest.is_measurement:
        return f"`/finetune baseline {oldest.dataset}` measures {oldest.name} again on the newest rows."
    return f"`/finetune again {oldest.number}` trains with the same settings and measures on the newest rows."


def _cheapest(results: Sequence[ComparedResult]) -> ComparedResult | None:
    """The one that costs least per request; None if that is unknown of one, or if two cost the same."""
    prices = [result.usd for result in results if result.usd is not None]
    if len(prices) < len(results):
        return None
    least = min(prices)
    if prices.count(least) > 1:
        return None
    return results[prices.index(least)]


def _notes(compared: ResultsCompared) -> list[str]:
    """How "better" is decided."""
    notes = [
        "Ranges: 95%, paired by row. “Better” takes more evidence for each later model tuned on these rows. "
        "Comparing doesn't count as a look."
    ]
    n_read = max(len(common.read) for common in compared.compared)
    if n_read:
        rows = pluralize(n_read, "row")
        notes.append(f"{capitalize(rows)} that people had read before a training count as wrong for it.")
    return notes


def _title(result: ComparedResult) -> str:
    """The name at the beginning of a sentence. Measurements are m7 everywhere."""
    if result.is_measurement:
        return result.name
    return capitalize(result.name)


def _everything(compared: ResultsCompared) -> list[ComparedResult]:
    return [
        *(common.result for common in compared.compared),
        *(each.result for each in compared.left_out),
    ]


def _margin(compared: ResultsCompared) -> str:
    return f"{100 * compared.margin:g} points"


def _and(names: Sequence[str]) -> str:
    """'run 3', 'run 3 and run 5', 'run 3, run 5 and m7'."""
    if len(names) < 2:
        return listed(names, 1)
    *first, last = names
    return f"{', '.join(first)} and {last}"
