"""Is more data worth it? The learning curve in words: what the next rows bring, what they cost, which rows
to label."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from bot.cards.blocks import (
    CardBlock,
    Chart,
    Headline,
    Lines,
    Message,
    Note,
    Table,
    Text,
    code,
    cut,
    escape,
    sentence,
)
from bot.cards.candidates import arm_name, bar_share
from bot.cards.commands import SLACK, Spelling
from bot.cards.words import percent, pluralize, shorten
from storage.records import Measurement
from trainers.evaluation.results import Curve, Gain, Prediction
from trainers.money import usd

SHOWN_NEEDS, SHOWN_SIZES = 8, 20
MINUS = "\N{MINUS SIGN}"
HARDLY_PER_100 = 0.1  # points, where no size was asked about


def progress_card(dataset: str, target: str | None = None, note: str | None = None) -> Message:
    whose = f" of {shorten(target)}" if target else ""
    text = f"Working out the learning curve{escape(whose)} on {escape(shorten(dataset))} …"
    return Message(text, (Text(text), *([Note(escape(cut(note, 900)))] if note else [])))


def failure_card(dataset: str, why: str) -> Message:
    """`why` is ours and may hold mrkdwn."""
    headline = f"No learning curve of {shorten(dataset)}"
    return Message(f"{escape(headline)}. {why}", (Headline(headline), Text(why)))


def card(
    curve: Curve,
    *,
    label_usd: Decimal | None = None,
    bar: float | None = None,
    beside: Curve | None = None,
    spelling: Spelling = SLACK,
) -> Message:
    """`label_usd` is what one labelled row costs, where a team has said so. `beside`: the classical rung's curve on
    the same rows."""
    text = headline(curve)
    version = f" version {curve.version}" if curve.version > 1 else ""
    subject = f"{escape(shorten(curve.dataset))}{version}, {escape(arm_name(curve.arm))}"
    top = (Headline(text), Note(subject))
    end = (
        *_needs(curve),
        Text(f"*Next*: {_next_step(curve)}"),
        Note(_method(curve)),
    )
    bullets = [*_dollars(curve, label_usd, spelling), *_bar(curve, bar), *_beside(curve, beside)]
    if not curve.points:
        return Message(escape(text), (*top, *_list(bullets), *end))
    last = curve.predicted[-1] if curve.predicted else None
    predicted = f"With {last.rows:,} rows: about {_predicted(last)}" if last else ""
    return Message(escape(f"{text}. {predicted}".strip()), (*top, _chart(curve), *_list(bullets), *end))


def finished_notice(measurement: Measurement, curve: Curve) -> str:
    """Notifies who asked: the result takes the place of the card, and an edit notifies nobody."""
    return f"<@{measurement.requested_by}> m{measurement.id} is done. {escape(headline(curve))}."


def alt_text(curve: Curve) -> str:
    return f"Right answers by rows to train on, {arm_name(curve.arm, 40)}, {shorten(curve.dataset)}"


def headline(curve: Curve) -> str:
    """The answer in one sentence, as plain text."""
    farthest = curve.farthest
    if _is_flat(curve):
        size = f", with {farthest.rows:,} rows either" if farthest else ""
        return f"More rows like these would hardly help{size}"
    if farthest is None:
        # One digit that counts: there is no band for it.
        return f"The next 100 rows would bring about {max(curve.points_per_100, 0.0):.1g} points"
    if not farthest.is_told:
        return f"Can't tell yet what more rows bring: {farthest.rows:,} would bring {signed_gain(farthest)} points"
    return f"Growing to {farthest.rows:,} rows would bring about {_points(farthest)} points ({signed_gain(farthest)})"


def signed_gain(gain: Gain) -> str:
    """The band of a gain, with signs: '+0.4 to +2.1'."""
    ends = (round(end, gain.digits) for end in (gain.low, gain.high))
    return " to ".join(f"{end:+.{gain.digits}f}".replace("-", MINUS) if end else "0" for end in ends)


def next_size(curve: Curve) -> str | None:
    """What would tell, where it can't be told yet whether more rows bring anything."""
    farthest = curve.farthest
    if farthest is None or farthest.is_told or farthest.is_hardly_any:
        return None
    if curve.next_useful is None:
        return "No number of rows like these would show a gain on this holdout: hold out more rows first."
    return f"The next size that would show a gain is about {curve.next_useful:,} rows."


def _points(gain: Gain) -> str:
    return f"{gain.points:.{gain.digits}f}"


def _is_flat(curve: Curve) -> bool:
    farthest = curve.farthest
    return farthest.is_hardly_any if farthest else curve.points_per_100 < HARDLY_PER_100


def _is_told(curve: Curve) -> bool:
    farthest = curve.farthest
    return farthest is None or farthest.is_told


def _predicted(prediction: Prediction) -> str:
    return f"{percent(prediction.score)} ({100 * prediction.low:.1f}–{100 * prediction.high:.1f}%)"


def _table(curve: Curve) -> list[tuple[str, str, str]]:
    measured = [
        (f"{point.rows:,}", percent(point.score), f"measured, {pluralize(len(point.draws), 'draw')}")
        for point in curve.points
    ]
    expected = [
        (
            f"{prediction.rows:,}",
            percent(prediction.score),
            f"expected, {100 * prediction.low:.1f} to {100 * prediction.high:.1f}%",
        )
        for prediction in curve.predicted
    ]
    return [("Rows", "Right", ""), *measured[-SHOWN_SIZES:], *expected[-SHOWN_SIZES:]]


def _chart(curve: Curve) -> CardBlock:
    table = Table(_table(curve))
    seen = [(f"{point.rows:,}", round(100 * point.score, 1)) for point in curve.points]
    seen += [
        (f"{prediction.rows:,} expected", round(100 * prediction.score, 1)) for prediction in curve.predicted
    ]
    shown = list(dict(seen[-SHOWN_SIZES:]).items())
    if len(shown) < 2:
        return table
    ranges = [f"• With {item.rows:,} rows: about {_predicted(item)}." for item in curve.predicted[-4:]]
    below = (Lines(ranges),) if ranges else ()
    return Chart(
        "Right answers by rows", "right", shown, "rows to train on", "% right", below, otherwise=(table,)
    )


def _list(lines: Sequence[str]) -> list[CardBlock]:
    return [Lines([f"• {item}" for item in lines])] if lines else []


def _dollars(curve: Curve, label_usd: Decimal | None, spelling: Spelling) -> list[str]:
    if _is_flat(curve) or not _is_told(curve):
        unclear = "What a point more costs in labels can't be told: it is not clear that more rows bring any."
        return [] if label_usd is None else [unclear]
    if label_usd is None:
        target = [curve.arm.model] if curve.arm.model else []
        command = spelling.command("curve", curve.dataset, {"target": target, "label_usd": ["0.5"]})
        return [f"{sentence(command)} says what a point costs, with what a label costs you."]
    a_point = dollars_per_point(curve, label_usd)
    if a_point is None:
        return []
    return [f"One point more costs about {usd(a_point)} in labels, at {usd(label_usd)} a row."]


def dollars_per_point(curve: Curve, label_usd: Decimal) -> Decimal | None:
    """What a point costs in labels over the next 100 rows, to two digits; None where it can't be told that they bring
    something."""
    if curve.points_per_100 <= 0 or not _is_told(curve):
        return None
    return Decimal(f"{100 * label_usd / Decimal(str(curve.points_per_100)):.1e}")


def _beside(curve: Curve, beside: Curve | None) -> list[str]:
    """The free alternative on the same rows: as high, and as steep?"""
    if beside is None or not beside.points or not curve.points:
        return []
    last, farthest = beside.points[-1], beside.farthest
    more = (
        f", and about {_points(farthest)} points more with {farthest.rows:,}"
        if farthest and farthest.is_told
        else ""
    )
    return [
        f"The classical rung, which is free, gets {percent(last.score)} of the same held-out rows right with "
        f"{last.rows:,} rows{more}."
    ]


def _bar(curve: Curve, bar: float | None) -> list[str]:
    """The first predicted size that gets to the bar."""
    if bar is None or (curve.points and curve.points[-1].score >= bar):
        return []
    reached = next((prediction for prediction in curve.predicted if prediction.score >= bar), None)
    if reached:
        return [f"{bar_share(bar)} is to be expected from about {reached.rows:,} rows on."]
    return [f"{bar_share(bar)} is not reached at any of these sizes."] if curve.predicted else []


def _needs(curve: Curve) -> list[CardBlock]:
    if not curve.needs:
        return []
    lines = []
    for need in curve.needs[:SHOWN_NEEDS]:
        right = f"{need.right:,} of {need.held:,} held-out rows right" if need.held else "none held out"
        lines.append(f"• {code(cut(need.label, 60) or '(empty)')}: {pluralize(need.rows, 'row')}, {right}")
    hidden = len(curve.needs) - len(lines)
    more = [f"… and {hidden:,} more"] if hidden > 0 else []
    return [Text("*Label these next*: they have few rows, or are often wrong."), Lines([*lines, *more])]


def _next_step(curve: Curve) -> str:
    name = escape(shorten(curve.dataset))
    if _is_flat(curve):
        return "Spend the time on other things: labels that are in doubt, the prompt, or another model."
    what_would_tell = next_size(curve)
    if what_would_tell:
        return f"Decide by something else than this curve. {what_would_tell}"
    return f"Label more rows, those above first, and upload the file again as {code(name)}: it becomes a new version."


def _method(curve: Curve) -> str:
    tuned = curve.arm.rung == "tuned"
    once = curve.points and max(len(point.draws) for point in curve.points) == 1
    other = "" if tuned else " A fine-tuned model's curve has its own height; its slope is often alike."
    alone = (
        " Each size was trained once: how much two trainings differ was not measured, but taken to be what "
        "chance does to each held-out row."
    )
    how = (
        "Too few rows are held out for a curve, so each fifth of all rows was asked by classifiers trained on parts of "
        "the others"
        if curve.is_crossed
        else "Trained on parts of the rows, measured on the same held-out ones"
    )
    return (
        f"{how}. The line through the points says that the odds of being wrong fall as a power of the rows; the range "
        f"is a bootstrap's (95%).{other}{alone if once else ''}"
    )
