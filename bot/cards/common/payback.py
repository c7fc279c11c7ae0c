"""Sentences about whether a fine-tune pays: the saving, the payback time, how likely it is, and what is uncertain."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from bot.cards.common.general import Attachment
from bot.cards.common.words import about_usd, capitalize, enough_text, shorten
from bot.rules.advice import LEAST_HOURS, enough_volume, is_against_today
from bot.rules.forecast import LIKELY, Month, Outlook
from bot.rules.reasons import Payback
from bot.rules.roi import Estimate
from bot.rules.swings import Swing
from bot.rules.units import HOURS_PER_MONTH, format_months
from trainers.money import usd

LEAST_MONTHS = 0.05  # less would be shown as 0.0


def payback_condition(*, is_good: bool, is_time_said: bool) -> str:
    """What a saving depends on: ', if it is good enough, ignoring staff time'. '' if the model is measured to be good
    enough and staff time is counted."""
    condition = ""
    if not is_good:
        condition += ", if it is good enough"
    if not is_time_said:
        condition += ", ignoring staff time"
    return condition


def hours_caveat(hours: Decimal | None, back: str = "") -> str:
    """The hours of staff time with which it is no longer likely to pay back; '' if `hours` is None. `back` says what
    the chance is of, if the sentence before gave the chance of something else."""
    if not hours:
        return ""
    return f"; with more than {hours_text(hours)} of staff time, {back}in under {LIKELY:.0%}"


def hours_text(hours: Decimal) -> str:
    """'4.2 hours', '35 minutes'."""
    # Two significant digits; more would feign a precision that no plan for staff time has.
    if hours >= 10:
        return f"{hours:,.0f} hours"
    if hours >= 2:
        return f"{hours:.2g} hours"
    return format_months(hours / HOURS_PER_MONTH)


def monthly_saving_text(estimate: Estimate) -> str:
    """'about $23 a month', with 'until DATE' if the tuned model or the one that it is compared with ends."""
    saving = about_usd(estimate.saving_month, per="a month")
    if estimate.saving_ends:
        saving += f" until {estimate.saving_ends}"
    return saving


def share_of_draws(p: float, draws: int | None = None) -> str:
    """'87% of 10,000 simulations', 'all simulations'. Never 0% or 100%, which sound like certainty."""
    drawn = "simulations"
    if draws:
        drawn = f"{draws:,} simulations"
    if p == 1:
        return f"all {drawn}"
    if p == 0 and not draws:
        return "no simulation"
    if p == 0:
        return f"none of {drawn}"
    # From here on, rounding alone would give 0% or 100%.
    if p < 0.005:
        return f"under 1% of {drawn}"
    if p >= 0.995:
        return f"over 99% of {drawn}"
    return f"{p:.0%} of {drawn}"


def swing_text(swing: Swing) -> str:
    return (
        f"{swing.name} from {swing.low_value} to {swing.high_value} moves the net value "
        f"from {usd(swing.at_low)} to {usd(swing.at_high)}"
    )


def pays_text(pays: Payback) -> str:
    estimate = pays.estimate
    outlook = pays.outlook
    text = _expected(estimate, outlook)
    if outlook:
        text += f" {_chance(pays, outlook)}"
    target = format_months(estimate.payback_target_months)
    match pays.caveat:
        case "":
            return text
        case "unlikely" if estimate.payback_months is None:
            # A loss has said already which volume would do.
            return text
        case "unlikely":
            return _too_late(pays, target)
        case "loses later":
            return _loses_later(estimate, outlook)
        case "too little at stake":
            least = f"{hours_text(LEAST_HOURS)} of staff time"
            return (
                f"Too little is at stake: {target} of savings minus the one-off cost are worth under {least}."
            )
        case "hours are not said":
            return (
                "The staff time that it takes is not counted yet. With more than "
                f"{hours_text(pays.hours)} of it, payback within {target} would no longer be likely. {text}"
            )
        case "longer than a year":
            return f"{text} That is longer than a year. {_needed(estimate, None)}"
        case "longer than the target":
            return f"{text} That is longer than {target}."


def _too_late(pays: Payback, target: str) -> str:
    """When it pays back, how likely that is in time, and which volume would be enough, if a larger one is."""
    estimate = pays.estimate
    sentences = [
        f"It pays back in {format_months(estimate.payback_months or Decimal(0))}; the target is {target}.",
        f"It saves {monthly_saving_text(estimate)}.",
    ]
    if pays.outlook:
        sentences.append(_chance(pays, pays.outlook))
    enough = enough_volume(estimate, pays.outlook)
    if enough is not None and enough > estimate.monthly_input_tokens:
        sentences.append(_needed(estimate, pays.outlook))
    return " ".join(sentences)


def _loses_later(estimate: Estimate, outlook: Outlook | None) -> str:
    """The loss over the horizon, its cause, and what is saved until then."""
    over = format_months(estimate.horizon_months)
    loss = f"Over {over} it loses money"
    if outlook and outlook.net_points:
        # Some simulations may end in a gain, which the range then shows.
        loss = f"Over {over} it {net_value_text(*outlook.net_points)}"
    saves = f"It saves {monthly_saving_text(estimate)}"
    succession = estimate.succession
    if estimate.loss_cause == "successor" and succession and succession.saving_month is not None:
        then = f"{succession.model} ends on {succession.ends} and its successor {succession.successor}"
        if succession.saving_month < 0:
            return (
                f"{loss}, because {then} costs {about_usd(-succession.saving_month)} a month less. {saves}."
            )
        return (
            f"{loss}, because {then} costs only {about_usd(succession.saving_month)} a month more. {saves}."
        )
    if estimate.loss_cause == "price fall":
        return f"{loss}, because the price of {alternative_in_short(estimate)} falls. {saves} at first."
    return f"{loss}. {saves}, less than it costs once."


def payback_text(months: Decimal | None) -> str:
    """The value of the fact "Pays back"."""
    if months is None:
        return "never at this volume"
    if not months:
        return "at once"
    if _is_within_a_day(months):
        return "within a day"
    return f"in {format_months(months)}"


def short_payback_text(months: Decimal | None, outlook: Outlook | None) -> str:
    """Like `payback_text`, with its range unless it is a day at most."""
    text = payback_text(months)
    if months is None or (months and _is_within_a_day(months)):
        return text
    return f"{text}{payback_range_text(outlook)}"


def payback_range_text(outlook: Outlook | None) -> str:
    """' (36 days to 3.2 months)', the range of 90% of the simulations; '' without simulations or a range."""
    if outlook is None:
        return ""
    early = outlook.payback_months.p5
    late = outlook.payback_months.p95
    if early is None or early == late:
        return ""
    soonest = "at once"
    if early:
        soonest = format_months(early)
    latest = "never"
    if late is not None:
        latest = format_months(late)
    return f" ({soonest} to {latest})"


def _is_within_a_day(months: Decimal) -> bool:
    return months * HOURS_PER_MONTH < 24


def net_value_text(low: Decimal, middle: Decimal, high: Decimal) -> str:
    """'gains about $2,900 ($480 to $5,900)', 'loses about $350 ($220 to $450)', or, if it may be either, 'gains about
    $100 (a loss of $50 to a gain of $300)'. The amounts are the 5%, 50% and 95% points of the simulations."""
    if low >= 0:
        return f"gains {about_usd(middle, low, high)}"
    if high <= 0:
        return f"loses {about_usd(-middle, -high, -low)}"
    between = f"a loss of {_amount(-low)} to a gain of {_amount(high)}"
    if middle >= 0:
        return f"gains {about_usd(middle)} ({between})"
    return f"loses {about_usd(-middle)} ({between})"


def net_value_name(months: Decimal, price_fall: Decimal) -> str:
    """'Over 12 months, if prices fall 30% a year'. The fall is the reason why the net value is less than the monthly
    saving times the months."""
    name = f"Over {format_months(months)}"
    if price_fall:
        name += f", if prices fall {price_fall:.0%} a year"
    return name


def _amount(amount: Decimal) -> str:
    return about_usd(amount).removeprefix("about ")


def _expected(estimate: Estimate, outlook: Outlook | None) -> str:
    if estimate.payback_months is not None:
        return (
            f"It saves {monthly_saving_text(estimate)} and pays back {payback_text(estimate.payback_months)}."
        )
    saves = f"It saves {usd(estimate.saving_month)} a month"
    once = usd(estimate.one_off_usd)
    succession = estimate.succession
    if estimate.saving_month > 0 and succession and succession.ends_too:
        late = (
            f"{saves}, which does not pay back the one-off {once} before both models end on {succession.ends}"
        )
        return f"{late}. {_needed(estimate, outlook)}"
    if estimate.saving_month > 0 and succession:
        end = f"{succession.model} ends on {succession.ends}"
        if succession.saving_month is not None:
            end += f" and {succession.successor} replaces it"
        return f"{saves}, too little to pay back before {end}."
    if estimate.saving_month > 0 and estimate.months_left is not None:
        left = format_months(estimate.months_left)
        return (
            f"{saves}, which does not pay back the one-off {once} in the {left} that the model has left. "
            f"{_needed(estimate, outlook)}"
        )
    return _loss(estimate, outlook)


def _loss(estimate: Estimate, outlook: Outlook | None) -> str:
    """Both bills, measured against the same alternative as a saving would be."""
    other = alternative_in_short(estimate)
    errors = estimate.errors_avoided_usd
    before = estimate.monthly_alternative.total
    after = estimate.monthly_after.total
    other_costs = "nothing"
    if before:
        other_costs = usd(before)
    if before == after and not errors:
        return f"It saves nothing: {other} costs {other_costs} a month, and so would the tuned model."
    tuned_costs = usd(after)
    if errors < 0:
        tuned_costs += f" and {usd(-errors)} in wrong answers"
    bills = f"{capitalize(other)} costs {other_costs} a month, the tuned model would cost {tuned_costs}"
    return f"{bills}. {_needed(estimate, outlook)}"


def _chance(pays: Payback, outlook: Outlook) -> str:
    """How likely it pays back; for a run that costs nothing, how likely it saves money at all."""
    rests_on = payback_condition(is_good=pays.is_good, is_time_said=outlook.is_time_said)
    share = f"{share_of_draws(outlook.p_payback, outlook.draws)}{rests_on}"
    if not pays.estimate.one_off_usd:
        return f"It saves money in {share}."
    return f"It pays back within {format_months(outlook.target_months)} in {share}{_spread(outlook)}."


def _spread(outlook: Outlook) -> str:
    early = outlook.payback_months.p5
    late = outlook.payback_months.p95
    if early is None or early == late:
        return ""
    if late is None:
        if not early:
            # From "at once" to "never" says nothing.
            return ""
        return f"; 90% lie between {format_months(early)} and never"
    if _is_within_a_day(late):
        return "; 95% pay back within a day"
    if early:
        return f"; 90% lie between {format_months(early)} and {format_months(late)}"
    return f"; 95% pay back within {format_months(late)}"


def alternative_in_short(estimate: Estimate) -> str:
    if is_against_today(estimate):
        return "today's model"
    return "the cheapest alternative that is good enough"


def _needed(estimate: Estimate, outlook: Outlook | None) -> str:
    enough = enough_volume(estimate, outlook)
    if enough is None:
        return "No volume changes that."
    volume = enough_text(enough, estimate.tokens_per_request)
    target = format_months(estimate.payback_target_months)
    pays = f"From {volume} on, it would pay back within {target}"
    if outlook:
        pays += f" in {LIKELY:.0%} of simulations"
    return f"{pays}."


def forecast_chart(path: Path, dataset: str, outlook: Outlook | None = None) -> Attachment:
    """The chart of savings minus costs, with when and how likely it pays back, unless the outlook is not known here."""
    title = f"Savings minus costs, month by month, {shorten(dataset)}"
    if outlook is None:
        return Attachment(path, title)
    return Attachment(path, title, f"{payback_title(outlook.months)}. {cash_flow_note(outlook)}")


def payback_title(months: Sequence[Month]) -> str:
    """When the median draw pays back, as a title of the forecast's chart."""
    at = break_even(months)
    last = months[-1]
    if at is None and last.p50 < 0:
        return f"Not paid back within {format_months(last.month)} at the median"
    if at is None:
        return "Saves from the first day on"
    if at < LEAST_MONTHS:
        return "Pays back at once"
    return f"Pays back after {at:.1f} months at the median"


def cash_flow_note(outlook: Outlook) -> str:
    """How likely it pays back, or saves money."""
    does = f"Back within {format_months(outlook.target_months)}"
    start = outlook.months[0]
    is_free = not start.p5 and not start.p95
    if is_free:
        # Nothing was spent that could come back.
        does = "Saves money"
    likely = share_of_draws(outlook.p_payback, outlook.draws)
    timed = payback_condition(is_good=True, is_time_said=outlook.is_time_said)
    return f"{does} in {likely}{timed}"


def break_even(months: Sequence[Month]) -> float | None:
    """Returns the month in which the median draw reaches zero for good, None if it never does, or is never below
    zero."""
    crossing = None
    for before, after in pairwise(months):
        if before.p50 < 0 <= after.p50:
            share = float(-before.p50 / (after.p50 - before.p50))
            crossing = float(before.month) + share * float(after.month - before.month)
    if months[-1].p50 < 0:
        # A successor's price may turn the saving into a loss again.
        return None
    return crossing
