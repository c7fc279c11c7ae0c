"""Is more data worth it? The learning curve: what more rows would gain, what they cost, and which rows to label."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from bot.cards.common.blocks import (
    CardBlock,
    Chart,
    Lines,
    Message,
    Table,
    Text,
    button,
    code,
    cut,
    escape,
    sentence,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import bar_share, long_name, table_name
from bot.cards.common.general import Attachment
from bot.cards.common.words import (
    SLACK,
    TERMINAL_AGAIN,
    Spelling,
    about_usd,
    capitalize,
    first_lines,
    percent,
    pluralize,
    shorten,
    signed,
    versioned,
)
from bot.cards.datasets.datasets import UPLOAD_AGAIN
from bot.cards.evidence.evaluation_results import DETAILS
from bot.rules.fit import (
    best_free_ahead,
    dollars_per_point,
    hardly_help,
    is_overtaken,
    more_rows_help,
)
from storage.records import Measurement
from trainers.evaluation.results import NEGLIGIBLE_GAIN, Curve, Gain, MeasuredCandidate, Prediction
from trainers.money import usd, usd_micros

SHOWN_NEEDS = 3
SHOWN_SIZES = 3  # measured, and as many expected
MOST_NEEDS = 8
# As many as the points that Slack's chart takes.
MOST_SIZES = 20


def progress_card(dataset: str) -> Message:
    text = f"Calculating the learning curve on {escape(shorten(dataset))} …"
    return Message(text, (Text(text),))


def trained_curve_ended(spent_micros: int) -> str:
    """Why a tuned model's curve, which an earlier version began, has no result, and what there is instead."""
    why = "This version no longer trains learning curves of tuned models."
    if spent_micros:
        why += (
            f" A job that was under way is cancelled at its trainer; {usd_micros(spent_micros)}, the most that was "
            "agreed, counts as spent."
        )
    return f"{why} `/finetune curve` still draws the free classical model's."


def failure_card(dataset: str, why: str) -> Message:
    """`why` is our own mrkdwn."""
    headline = f"No learning curve of {shorten(dataset)}"
    return Message.titled(headline, Text(why), notice=why)


def card(
    curve: Curve,
    *,
    number: int | None = None,
    label_usd: Decimal | None = None,
    bar: float | None = None,
    free: Sequence[MeasuredCandidate] = (),
) -> Message:
    """The card. `number` is the measurement's; without it there are no buttons. `label_usd` is the cost of one labelled
    row, if the team gave it. `free` are the free candidates that were measured on the same rows."""
    ahead = best_free_ahead(curve, free)

    parts = Parts()
    parts.note(_subject(curve, number))
    if curve.points:
        parts.add(_chart(curve))
    # What more rows cost and need hardly matters if a free model is better without them.
    if is_overtaken(curve, ahead):
        parts.bullets(_bar(curve, bar))
    else:
        parts.bullets(
            [
                *_ahead(curve, ahead),
                *_dollars(curve, label_usd),
                *_bar(curve, bar),
                *_needs(curve),
            ]
        )
    parts.text(f"*Next*: {_next_step(curve, ahead, is_in_slack=number is not None)}")
    if number is not None:
        buttons = [button("Details", DETAILS, str(number))]
        # More rows are offered only where they are known to help.
        if more_rows_help(curve, ahead):
            buttons.insert(0, button("Upload more rows", UPLOAD_AGAIN, curve.dataset, style="primary"))
        parts.buttons(*buttons)
    if curve.candidate.kind != "tuned":
        parts.note("A fine-tuned model's curve starts at another level but often has a similar slope.")
    elif _is_of_one_sample(curve):
        parts.note("Each size was trained only once, so the variation between trainings was not measured.")

    notice = ""
    if curve.points and curve.predicted:
        last = curve.predicted[-1]
        notice = f"With {last.rows:,} rows: about {_predicted(curve, last)}"
    return parts.titled(headline(curve, ahead), notice=escape(notice))


def _subject(curve: Curve, number: int | None) -> str:
    which = "Learning curve"
    if number is not None:
        which += f" m{number}"
    dataset = versioned(escape(shorten(curve.dataset)), curve.version)
    return f"{which}: {dataset}, {escape(table_name(curve.candidate))}"


def details(
    curve: Curve, label_usd: Decimal | None = None, spelling: Spelling = SLACK
) -> tuple[CardBlock, ...]:
    """What the card has no room for."""
    parts = Parts()
    _, *rows_of_table = _table(curve, MOST_SIZES)
    parts.lines([f"• {rows} rows: {right}, {how}" for rows, right, how in rows_of_table])
    parts.add(*_all_needs(curve))
    parts.bullets(_price_unclear(curve, label_usd, spelling))
    parts.text(f"*How this was measured*: {_method(curve)}")
    return tuple(parts)


def finished_notice(measurement: Measurement, curve: Curve) -> str:
    """A message for the person who asked, since the result is an edit of the card, which notifies nobody."""
    return f"<@{measurement.requested_by}> m{measurement.id} is done. {escape(headline(curve))}."


def chart(path: Path, curve: Curve) -> Attachment:
    """The plot of the curve, with its answer."""
    subject = f"{table_name(curve.candidate, 40)}, {shorten(curve.dataset)}"
    return Attachment(path, f"Right answers by rows to train on, {subject}", headline(curve))


def headline(curve: Curve, ahead: MeasuredCandidate | None = None) -> str:
    """The answer in one sentence, as plain text. `ahead` is a free candidate that gets more right today."""
    farthest = curve.farthest
    if ahead and farthest and is_overtaken(curve, ahead):
        expected = percent(max(curve.predicted, key=lambda each: each.rows).score)
        name = capitalize(long_name(ahead.identity))
        return (
            f"{name} gets {percent(ahead.score)} right today; with {farthest.rows:,} rows "
            f"{long_name(curve.candidate)} would get about {expected}"
        )
    if hardly_help(curve) and farthest:
        return f"More rows like these would hardly help, even {farthest.rows:,}"
    if hardly_help(curve):
        return "More rows like these would hardly help"
    if farthest is None:
        if curve.points_per_100 < NEGLIGIBLE_GAIN:
            return "The next 100 rows: no measurable gain expected (under 1 point)"
        # One significant digit, since there is no interval for it.
        return f"The next 100 rows should gain about {curve.points_per_100:.1g} points"
    if not farthest.is_certain:
        return (
            f"Growing to {farthest.rows:,} rows: no measurable gain expected ({signed_gain(farthest)} points)"
        )
    return f"Growing to {farthest.rows:,} rows should gain about {_points(farthest)} points ({signed_gain(farthest)})"


def signed_gain(gain: Gain) -> str:
    """The interval of a gain in points, with signs: '+0.4 to +2.1'."""
    return f"{_signed_points(gain.low, gain.digits)} to {_signed_points(gain.high, gain.digits)}"


def _signed_points(points: float, digits: int) -> str:
    """A rounded number with its sign; 0 has none, also if it was rounded from below."""
    rounded = round(points, digits)
    if not rounded:
        return "0"
    return signed(rounded, f"+.{digits}f")


def next_size(curve: Curve) -> str | None:
    """Which size would show a gain; None if it is clear already whether more rows help."""
    farthest = curve.farthest
    if farthest is None or farthest.is_certain or farthest.is_negligible:
        return None
    if curve.next_useful_size is None:
        return (
            "These held-out rows can't show a gain from any number of rows like these: hold out more first."
        )
    return f"The next size that would show a gain is about {curve.next_useful_size:,} rows."


def _points(gain: Gain) -> str:
    return f"{gain.points:.{gain.digits}f}"


def _ahead(curve: Curve, ahead: MeasuredCandidate | None) -> list[str]:
    if ahead is None:
        return []
    name = capitalize(escape(long_name(ahead.identity)))
    return [f"{name}, free too, gets {percent(ahead.score)} of the held-out rows right today."]


def _predicted(curve: Curve, prediction: Prediction) -> str:
    """The score, and the range of the gain over today's, as in the headline."""
    gain = next(each for each in curve.gains if each.rows == prediction.rows)
    return f"{percent(prediction.score)} ({signed_gain(gain)} points)"


def _table(curve: Curve, most: int = SHOWN_SIZES) -> list[tuple[str, str, str]]:
    measured = [
        (f"{point.rows:,}", percent(point.score), f"measured, {pluralize(len(point.draws), 'sample')}")
        for point in curve.points
    ]
    expected = [
        (f"{prediction.rows:,}", percent(prediction.score), f"expected, {signed_gain(gain)} points")
        for prediction, gain in zip(curve.predicted, curve.gains, strict=False)
    ]
    return [("Rows", "Right", ""), *measured[-most:], *expected[-most:]]


def _chart(curve: Curve) -> CardBlock:
    table = Table(_table(curve))
    seen = [(f"{point.rows:,}", _chart_points(point.score)) for point in curve.points]
    seen += [(f"{item.rows:,} expected", _chart_points(item.score)) for item in curve.predicted]
    # Each point of a chart needs a label of its own, so of two with the same one the later stays.
    shown = list(dict(seen[-MOST_SIZES:]).items())
    # A single point makes no line.
    if len(shown) < 2:
        return table
    below = Parts()
    below.lines(
        [f"• With {item.rows:,} rows: about {_predicted(curve, item)}." for item in curve.predicted[-4:]]
    )
    return Chart(
        "Right answers by rows",
        "right",
        shown,
        "rows to train on",
        "% right",
        below=tuple(below),
        otherwise=(table,),
    )


def _chart_points(score: float) -> float:
    return round(100 * score, 1)


def _dollars(curve: Curve, label_usd: Decimal | None) -> list[str]:
    if label_usd is None or hardly_help(curve):
        return []
    a_point = dollars_per_point(curve, label_usd)
    if a_point is None:
        return []
    return [f"Each further point costs {about_usd(a_point)} in labels, at {usd(label_usd)} a row."]


def _price_unclear(curve: Curve, label_usd: Decimal | None, spelling: Spelling) -> list[str]:
    """Why the card doesn't say what a point costs in labels."""
    is_unclear = not more_rows_help(curve)
    if is_unclear and label_usd is not None:
        return [
            "The cost of a further point is unknown, because it is not clear that more rows gain anything."
        ]
    if is_unclear or label_usd is not None:
        return []
    command = spelling.command("curve", curve.dataset, {"label_usd": ["0.5"]})
    return [f"{sentence(command)} shows what a further point costs, with your own cost of a label."]


def _bar(curve: Curve, bar: float | None) -> list[str]:
    """The first predicted size that reaches the bar."""
    # A bar that is reached already needs no more rows.
    if bar is None or (curve.points and curve.points[-1].score >= bar):
        return []
    reached = next((prediction for prediction in curve.predicted if prediction.score >= bar), None)
    if reached:
        return [f"It should reach your {bar_share(bar)} bar with about {reached.rows:,} rows."]
    if curve.predicted:
        return [f"It would not reach your {bar_share(bar)} bar at any of these sizes."]
    return []


def _needs(curve: Curve) -> list[str]:
    """The labels that need rows most; none if more rows would hardly help."""
    if not more_rows_help(curve):
        return []
    labels = []
    for need in curve.needs[:SHOWN_NEEDS]:
        name = code(cut(need.label, 40) or "(empty)")
        labels.append(f"{name} ({need.right:,} of {need.held:,} right)")
    if not labels:
        return []
    return [f"These labels need rows most: {', '.join(labels)}."]


def _all_needs(curve: Curve) -> list[CardBlock]:
    if not curve.needs:
        return []
    lines = []
    for need in curve.needs:
        name = code(cut(need.label, 60) or "(empty)")
        right = "no held-out rows"
        if need.held:
            right = f"{need.right:,} of {need.held:,} held-out rows right"
        lines.append(f"• {name}: {pluralize(need.rows, 'row')}, {right}")
    title = Text("*Label these next*: they have few rows, or are often wrong.")
    return [title, Lines(first_lines(lines, MOST_NEEDS))]


def _next_step(curve: Curve, ahead: MeasuredCandidate | None, *, is_in_slack: bool) -> str:
    name = code(escape(shorten(curve.dataset)))
    if ahead and is_overtaken(curve, ahead):
        better = escape(long_name(ahead.identity))
        return f"Use {better} instead of labelling rows for {escape(long_name(curve.candidate))}."
    if hardly_help(curve):
        return "Work on something else: doubtful labels, the prompt, or another model."
    what_would_tell = next_size(curve)
    if what_would_tell:
        return f"Don't decide by this curve. {what_would_tell}"
    farthest = curve.farthest
    if farthest is None or not curve.points:
        then = TERMINAL_AGAIN
        if is_in_slack:
            then = f"upload the file again as {name}"
        return f"Label more rows and {then}."
    then = TERMINAL_AGAIN
    if is_in_slack:
        then = f"upload them as {name}"
    rows = farthest.rows - curve.points[-1].rows
    return f"If about {_points(farthest)} points are worth {rows:,} more rows, label them and {then}."


def _is_of_one_sample(curve: Curve) -> bool:
    if not curve.points:
        return False
    return max(len(point.draws) for point in curve.points) == 1


def _method(curve: Curve) -> str:
    how = "Trained on parts of the rows, measured on the same held-out rows."
    if curve.is_crossed:
        how = (
            "Too few rows are held out for a curve, so each fifth of all rows was classified by models trained on "
            "parts of the others."
        )
    sentences = [
        how,
        "The fitted line assumes that the odds of a wrong answer fall as a power of the number of rows.",
        "Ranges are 95% bootstrap intervals of the gain; the score itself also depends on which rows are held out.",
    ]
    if _is_of_one_sample(curve):
        sentences.append(
            "Each size was trained once, so the variation between trainings is assumed to be the chance variation of "
            "the held-out rows."
        )
    return " ".join(sentences)
