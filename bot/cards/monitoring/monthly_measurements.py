"""The line of a week's card about the measurement of what is in use that is due this month: why it hasn't begun, or
today's score beside the earlier one, and whether the difference is more than chance."""

from __future__ import annotations

from bot.cards.common.blocks import code
from bot.cards.common.candidates import quality
from bot.cards.common.words import about_usd, charge, p_value, pluralize
from bot.rules.monitoring.repetitions import Change
from bot.values.monitoring import MonthlyScore, RepeatedScore
from trainers.money import from_micros


def month_text(month: MonthlyScore) -> str:
    if month.measured is not None:
        return _measured_text(month.measured)
    if month.hindrance == "freeze":
        return "*This month's measurement* waits until the freeze is lifted."
    if month.hindrance == "refused":
        return f"*This month's measurement* can't begin. {month.refusal}"
    rows = pluralize(month.rows, "held-out row")
    if month.hindrance is None:
        return f"*This month's measurement* asks what is in use about the {rows}; it begins within the hour."
    text = (
        f"*Measure again?* {code('usd_per_month')} under {code('[policy.watch]')} doesn't leave enough for this "
        f"month's measurement of what is in use on the {rows}"
    )
    if month.cost_micros is None:
        return f"{text}. Its card says what it costs before anything is spent."
    return f"{text}, which costs {about_usd(from_micros(month.cost_micros))}."


def _measured_text(measured: RepeatedScore) -> str:
    if not measured.is_over and measured.is_waiting:
        return f"*This month's measurement*, {measured.name}, has not begun: its card says what it waits for."
    if not measured.is_over:
        return f"*What is in use is being measured again*: {measured.name}."
    if measured.score is None:
        return f"*This month's measurement*, {measured.name}, ended without a result."
    text = f"*Measured again* in {measured.name}"
    if measured.is_unasked:
        text += f" for {charge(measured.micros)}, without asking"
    text += f": {quality(measured.score)} of the held-out rows"
    if measured.before is None:
        return f"{text}. The earlier measurement is gone, so nothing compares."
    text += f"; {quality(measured.before)} in {measured.before_name}."
    if measured.change is None:
        return f"{text} The two can't be compared: they share no rows, or were scored in different ways."
    return f"{text} {_change_text(measured.change)}"


def _change_text(change: Change) -> str:
    on = f"on the {pluralize(change.rows, 'row')} that both answered"
    if not change.is_shown:
        return f"The difference {on} may be chance ({p_value(change.p)})."
    better = "better"
    if change.difference < 0:
        better = "worse"
    text = f"*Answers are {better}* {on}, by more than chance ({p_value(change.p)})"
    if change.is_same_question:
        return f"{text}: the model may have been changed under its name."
    return f"{text}, but the instructions or training rows are other ones than then."
