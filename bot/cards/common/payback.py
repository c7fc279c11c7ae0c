"""Sentences about whether a fine-tune pays: the saving, the payback time, how likely it is, and what is uncertain."""

from __future__ import annotations

from decimal import Decimal

from bot.cards.common.words import about_usd, capitalize, enough_text
from bot.rules.forecast import LIKELY, Outlook, Swing
from bot.rules.payback import LEAST_HOURS, enough_volume, is_against_today
from bot.rules.reasons import Payback
from bot.rules.roi import Estimate
from bot.rules.units import HOURS_PER_MONTH, format_months
from trainers.money import usd


def payback_condition(*, is_good: bool, is_time_said: bool) -> str:
    """What a saving depends on: ', if it is good enough, ignoring staff time'. '' if the model is measured to be good
    enough and staff time is counted."""
    return f"{'' if is_good else ', if it is good enough'}{'' if is_time_said else ', ignoring staff time'}"


def hours_caveat(hours: Decimal | None, back: str = "") -> str:
    """The hours of staff time with which it is no longer likely to pay back; '' if `hours` is None. `back` says what
    the chance is of, if the sentence before gave the chance of something else."""
    return f"; with more than {hours_text(hours)} of staff time, {back}in under {LIKELY:.0%}" if hours else ""


def hours_text(hours: Decimal) -> str:
    """'4.2 hours', '35 minutes'."""
    if hours >= 10:
        return f"{hours:,.0f} hours"
    return f"{hours:.2g} hours" if hours >= 2 else format_months(hours / HOURS_PER_MONTH)


def monthly_saving_text(estimate: Estimate) -> str:
    """'about $23 a month', with 'until DATE' if the tuned model or the one that it is compared with ends."""
    until = f" until {estimate.saving_ends}" if estimate.saving_ends else ""
    return f"{about_usd(estimate.saving_month, per='a month')}{until}"


def share_of_draws(p: float, draws: int | None = None) -> str:
    """'87% of 10,000 simulations', 'all simulations'. Never 0% or 100%, which sound like certainty."""
    drawn = f"{draws:,} simulations" if draws else "simulations"
    if p == 1:
        return f"all {drawn}"
    if p == 0:
        return f"none of {drawn}" if draws else "no simulation"
    if p < 0.005:
        return f"under 1% of {drawn}"
    return f"over 99% of {drawn}" if p >= 0.995 else f"{p:.0%} of {drawn}"


def swing_text(swing: Swing) -> str:
    return (
        f"{swing.name} from {swing.low_value} to {swing.high_value} moves the net value "
        f"from {usd(swing.at_low)} to {usd(swing.at_high)}"
    )


def pays_text(pays: Payback) -> str:
    estimate, outlook = pays.estimate, pays.outlook
    chance = "" if outlook is None else f" {_chance(pays, outlook)}"
    text = f"{_expected(estimate, outlook)}{chance}"
    target = format_months(estimate.payback_target_months)
    match pays.caveat:
        case "":
            return text
        case "unlikely":
            # Where a larger volume would do; a loss has said so already.
            enough = enough_volume(estimate, outlook)
            is_more = enough is not None and enough > estimate.monthly_input_tokens
            if estimate.payback_months is None:
                return text
            late = f"It pays back in {format_months(estimate.payback_months)}; the target is {target}."
            late = f"{late} It saves {monthly_saving_text(estimate)}.{chance}"
            return f"{late} {_needed(estimate, outlook)}" if is_more else late
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


def _loses_later(estimate: Estimate, outlook: Outlook | None) -> str:
    """The loss over the horizon, its cause, and what is saved until then."""
    over = format_months(estimate.horizon_months)
    points = outlook.net_points if outlook else None
    loss = f"Over {over} it {net_value_text(*points) if points else 'loses money'}"
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
    is_soon = months * HOURS_PER_MONTH < 24
    return "within a day" if is_soon else f"in {format_months(months)}"


def net_value_text(low: Decimal, middle: Decimal, high: Decimal) -> str:
    """'gains about $2,900 ($480 to $5,900)', 'loses about $350 ($220 to $450)', or, if it may be either, 'gains about
    $100 (a loss of $50 to a gain of $300)'. The amounts are the 5%, 50% and 95% points of the simulations."""
    if low >= 0:
        return f"gains {about_usd(middle, low, high)}"
    if high <= 0:
        return f"loses {about_usd(-middle, -high, -low)}"
    verb = "gains" if middle >= 0 else "loses"
    between = f"a loss of {_amount(-low)} to a gain of {_amount(high)}"
    return f"{verb} {about_usd(abs(middle))} ({between})"


def _amount(amount: Decimal) -> str:
    return about_usd(amount).removeprefix("about ")


def _expected(estimate: Estimate, outlook: Outlook | None) -> str:
    if estimate.payback_months is not None:
        return (
            f"It saves {monthly_saving_text(estimate)} and pays back {payback_text(estimate.payback_months)}."
        )
    saves = f"It saves {usd(estimate.saving_month)} a month"
    if estimate.saving_month > 0 and estimate.succession:
        model, ends, successor = (
            estimate.succession.model,
            estimate.succession.ends,
            estimate.succession.successor,
        )
        if estimate.succession.ends_too:
            once = usd(estimate.one_off_usd)
            late = f"{saves}, which does not pay back the one-off {once} before both models end on {ends}"
            return f"{late}. {_needed(estimate, outlook)}"
        takes_over = "" if estimate.succession.saving_month is None else f" and {successor} replaces it"
        return f"{saves}, too little to pay back before {model} ends on {ends}{takes_over}."
    if estimate.saving_month > 0 and estimate.months_left is not None:
        once, left = usd(estimate.one_off_usd), format_months(estimate.months_left)
        return (
            f"{saves}, which does not pay back the one-off {once} in the {left} that the model has left. "
            f"{_needed(estimate, outlook)}"
        )
    # A loss is measured against the same alternative as a saving.
    which, errors = alternative_in_short(estimate), estimate.errors_avoided_usd
    before, after = estimate.monthly_alternative.total, estimate.monthly_after.total
    if before == after and not errors:
        both = usd(after) if after else "nothing"
        return f"It saves nothing: {which} costs {both} a month, and so would the tuned model."
    worse = f" and {usd(-errors)} in wrong answers" if errors < 0 else ""
    return (
        f"{capitalize(which)} costs {usd(before) if before else 'nothing'} a month, "
        f"the tuned model would cost {usd(after)}{worse}. {_needed(estimate, outlook)}"
    )


def _chance(pays: Payback, outlook: Outlook) -> str:
    """How likely it pays back; for a run that costs nothing, how likely it saves money at all."""
    rests_on = payback_condition(is_good=pays.is_good, is_time_said=outlook.is_time_said)
    happens = "saves money"
    if pays.estimate.one_off_usd:
        happens = f"pays back within {format_months(outlook.target_months)}"
    spread = _spread(outlook) if pays.estimate.one_off_usd else ""
    return f"It {happens} in {share_of_draws(outlook.p_payback, outlook.draws)}{rests_on}{spread}."


def _spread(outlook: Outlook) -> str:
    early, late = outlook.payback_months.p5, outlook.payback_months.p95
    if early is None or early == late:
        return ""
    if not early:
        return "" if late is None else f"; 95% pay back within {format_months(late)}"
    return f"; 90% lie between {format_months(early)} and {'never' if late is None else format_months(late)}"


def alternative_in_short(estimate: Estimate) -> str:
    return "today's model" if is_against_today(estimate) else "the cheapest alternative that is good enough"


def _needed(estimate: Estimate, outlook: Outlook | None) -> str:
    enough = enough_volume(estimate, outlook)
    if enough is None:
        return "No volume changes that."
    likely = f" in {LIKELY:.0%} of simulations" if outlook else ""
    target = format_months(estimate.payback_target_months)
    return f"From {enough_text(enough, estimate.tokens_per_request)} on, it would pay back within {target}{likely}."
