"""The rules on money: does it pay back in time, how likely, and which input would have to be known better to
say so?"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from bot.rules.candidates import percent
from bot.rules.facts import LONGEST_PAYBACK_MONTHS, Facts, Reason, Step, answer_step, baseline_command
from bot.rules.forecast import LIKELY, UNLIKELY, Outlook
from bot.rules.roi import Estimate, Succession
from bot.rules.sensitivity import UNSAID_HOURS, Swing
from bot.rules.units import HOURS_PER_MONTH, duration, tokens
from trainers.money import usd


def payback_condition(*, is_good: bool, is_time_said: bool) -> str:
    """', if it is good enough and takes no one's time'; '' where it is measured to be, and the time is counted."""
    parts = [] if is_good else ["is good enough"]
    parts += [] if is_time_said else ["takes no one's time"]
    return f", if it {' and '.join(parts)}" if parts else ""


def hours_caveat(hours: Decimal | None, back: str = "") -> str:
    """What follows where people's time is not counted: how much of it would end the likelihood. `back`: to be back by
    then, where the chance before was one of something else."""
    return f"; with more than {hours_text(hours)} of it, {back}in under {LIKELY:.0%}" if hours else ""


def hours_text(hours: Decimal) -> str:
    """'4.2 hours', '35 minutes'."""
    return f"{hours:,.0f} hours" if hours >= 10 else _few(hours)


def _few(hours: Decimal) -> str:
    return f"{hours:.2g} hours" if hours >= 2 else duration(hours / HOURS_PER_MONTH)


# The rules on money: does it pay back in time, and which input would one have to know better to say so?


QUALITY = "If better answers, not savings, are the aim, say so (task=quality)."
STAY = Step(f"Stay with today's model. {QUALITY}")
CHEAPER = Step(f"Use what is cheaper. {QUALITY}")
# Our own: reading this, approving and putting to work take somebody so long at least.
LEAST_HOURS = Decimal("0.25")
SAY = "What it saves is not known: say current= (today's model) and volume=."

# How an input of the tornado is pinned down, by its name there.
PINNED_DOWN: Mapping[str, str] = {
    "volume": "Count last month's input tokens on the vendor's bill and say them (volume=)",
    "people's time": "Agree on the hours of people's time that it takes, and say them",
    "price of the alternative": "Look whether a cheaper model does as well today",
    "training runs": "Train on a part of the rows first: it shows whether one run is enough",
    "training time": "Train on a part of the rows first: it shows how long a run takes",
    "quality": "Hold out more labelled rows and measure both again",
}


def about_money(facts: Facts) -> tuple[Reason, ...]:
    """A saving that is not known is an open question. Silent of a model that has ended, and where money is not the
    aim and what it costs is not known either."""
    made = facts.estimate
    if not facts.is_for_money:
        return _as_a_price(facts)
    if made is None:
        return tuple(_gap(gap, facts.training_usd) for gap in facts.gaps or (SAY,))
    if made.months_left == 0:
        return ()  # the rule on the end date has said it
    if made.monthly_input_tokens == 0:
        text = "At a volume of 0 tokens a month there is nothing to save."
        return (
            Reason(
                "cost",
                "no_go",
                text,
                step=answer_step("Say how many input tokens a month it will be (volume=)."),
            ),
        )
    if facts.outlook is not None:
        return (_unless_only_way(_by_chance(made, facts.outlook, facts), facts),)
    return (_unless_only_way(_by_the_expected(made), facts),)


def within_time(months: Decimal) -> str:
    return f"in {duration(months)}" if months else "at once"


def monthly_saving_text(made: Estimate) -> str:
    """'$23.00 a month', and until when, where what it is held against ends."""
    until = f" until {made.succession.ends}" if made.succession else ""
    return f"{usd(made.saving_month)} a month{until}"


def _gap(gap: str, training_usd: Decimal | None) -> Reason:
    free = "A run costs nothing but your own machine's time. " if training_usd == 0 else ""
    return Reason("cost", "unknown", f"{free}{gap}", step=answer_step(gap))


def _as_a_price(facts: Facts) -> tuple[Reason, ...]:
    """What better or faster answers cost: said, and left to those who want them."""
    made = facts.estimate
    if made is None or made.months_left == 0:
        return ()
    aim = "faster answers" if facts.task_kind == "latency" else "better answers"
    does = "saves" if made.saving_month >= 0 else "costs another"
    text = (
        f"Against {_against(made)}, the tuned model {does} {usd(abs(made.saving_month))} a month. Your aim is {aim}, "
        "so this decides nothing."
    )
    return (Reason("price", "unknown", text, weighs=False),)


def _unless_only_way(by_money: Reason, facts: Facts) -> Reason:
    """Where nothing else is shown to meet the bar, what it costs is no reason against the one way that does, until
    somebody has said what a wrong answer costs."""
    evidence, made = facts.evidence, facts.estimate
    others_meet = any(rung.standing == "meets" for rung in evidence.alternatives)
    is_priced = made is not None and made.errors_avoided_usd != 0
    if by_money.kind != "no_go" or not evidence.is_good or others_meet or is_priced:
        return by_money
    text = f"{by_money.text} Yet only the tuned model is shown to meet the bar of {percent(evidence.bar)}."
    say = answer_step(f"Say what a wrong answer costs (wrong_usd=). {QUALITY}")
    if not facts.is_today_measured:
        say = Step(
            f"Measure today's model: {baseline_command(facts.dataset, models=facts.to_measure)}.", usd=None
        )
    return Reason("only way", "unknown", text, step=say)


def _by_chance(made: Estimate, outlook: Outlook, facts: Facts) -> Reason:
    p, rule, dataset = outlook.p_payback, "cost" if made.payback_months is None else "payback", facts.dataset
    rests_on = payback_condition(is_good=facts.evidence.is_good, is_time_said=outlook.is_time_said)
    text = f"{_expected(made, outlook)} {_chance(made, outlook, rests_on)}"
    if p >= LIKELY:
        return _likely(made, outlook, dataset, Reason(rule, "go", text))
    if p <= UNLIKELY:
        return Reason(rule, "no_go", text + _needed_more(made, outlook), step=_stay(made))
    return Reason(rule, "unknown", text, step=_pin_down(outlook, dataset))


def _likely(made: Estimate, outlook: Outlook, dataset: str, likely: Reason) -> Reason:
    """It pays back in time. That is not yet worth it where the saving is gone soon after, as the alternative's price
    falls, nor where a week of work that nobody counted would change the answer."""
    net = outlook.npv.p50
    hours = made.bearable_hours if outlook.bearable_hours is None else outlook.bearable_hours
    if net is not None and net < 0:
        over = duration(outlook.horizon_months)
        text = (
            f"Over {over} it loses {usd(-net)} at the median, as the alternative gets cheaper. {likely.text}"
        )
        look = answer_step(f"{PINNED_DOWN['price of the alternative']} ({baseline_command(dataset)}).")
        return Reason("net value", "unknown", text, step=look)
    if hours is None or hours >= UNSAID_HOURS:
        return likely
    if hours < LEAST_HOURS:
        least = f"{hours_text(LEAST_HOURS)} of somebody's time"
        text = f"Too little is at stake: {least} would cost more than it saves in {_target(made)}."
        return Reason("people's time", "no_go", text, step=_stay(made))
    text = (
        f"Nobody has said how much of people's time it takes: with more than {hours_text(hours)} of it, "
        "it would no longer "
        f"be likely to pay back within {_target(made)}. {likely.text}"
    )
    say = answer_step("Say the hours of people's time that it takes (hours=).")
    return Reason("people's time", "unknown", text, step=say)


def _by_the_expected(made: Estimate) -> Reason:
    """Where nothing was simulated: one sum, and how long it takes."""
    text, months = _expected(made, None), made.payback_months
    if months is None:
        return Reason("cost", "no_go", text, step=_stay(made))
    if made.months_left is not None and months > made.months_left:
        gone = f"{text} The model is gone before that, in {duration(made.months_left)}."
        return Reason("payback", "no_go", gone, step=STAY)
    if months > LONGEST_PAYBACK_MONTHS:
        return Reason(
            "payback", "no_go", f"{text} That is longer than a year. {_needed(made, None)}", step=STAY
        )
    if months > made.payback_target_months:
        longer = f"{text} That is longer than {_target(made)}."
        return Reason("payback", "unknown", longer, step=answer_step(f"{PINNED_DOWN['volume']}."))
    return Reason("payback", "go", text)


def _expected(made: Estimate, outlook: Outlook | None) -> str:
    if made.payback_months is None and made.saving_month > 0 and made.succession:
        return f"It saves {usd(made.saving_month)} a month, too little to pay back {_before_the_end(made.succession)}"
    if made.payback_months is None and made.saving_month > 0 and made.months_left is not None:
        once, left = usd(made.one_off_usd), duration(made.months_left)
        text = f"It saves {usd(made.saving_month)} a month, which does not bring back the {once} that it takes once"
        return f"{text} in the {left} that the model has left. {_needed(made, outlook)}"
    if made.payback_months is None:
        return _a_loss(made, outlook)
    return f"It saves {monthly_saving_text(made)} and pays back {within_time(made.payback_months)}."


def _before_the_end(succession: Succession) -> str:
    end = f"before {succession.model} ends on {succession.ends}"
    return (
        f"{end}." if succession.saving_month is None else f"{end} and {succession.successor} takes its place."
    )


def _chance(made: Estimate, outlook: Outlook, rests_on: str) -> str:
    """What costs nothing has nothing to pay back: there the draws say whether it saves at all."""
    drawn = f"In {share_of_draws(outlook.p_payback, outlook.draws)} over what is uncertain it"
    if not made.one_off_usd:
        return f"{drawn} saves money{rests_on}."
    return f"{drawn} pays back within {duration(outlook.target_months)}{rests_on}{_spread(outlook)}."


def share_of_draws(p: float, draws: int | None = None) -> str:
    """'87% of 10,000 draws', 'all draws'. Never 0% or 100%, which sound like certainty."""
    drawn = f"{draws:,} draws" if draws else "draws"
    if p == 1:
        return f"all {drawn}"
    if p == 0:
        return f"none of {drawn}" if draws else "no draw"
    if p < 0.005:
        return f"under 1% of {drawn}"
    return f"over 99% of {drawn}" if p >= 0.995 else f"{p:.0%} of {drawn}"


def _spread(outlook: Outlook) -> str:
    early, late = outlook.payback_months.p5, outlook.payback_months.p95
    if early is None or early == late:
        return ""
    if not early:
        return "" if late is None else f", and in 19 of 20 within {duration(late)}"
    return f"; 9 in 10 lie between {duration(early)} and {'never' if late is None else duration(late)}"


def _stay(made: Estimate) -> Step:
    return STAY if _is_today(made) else CHEAPER


def _is_today(made: Estimate) -> bool:
    return made.monthly_alternative == made.monthly_before


def _against(made: Estimate) -> str:
    return "today's model" if _is_today(made) else "the cheapest way that is good enough"


def _a_loss(made: Estimate, outlook: Outlook | None) -> str:
    """Held against the same as the saving is."""
    which = _against(made)
    if made.monthly_alternative.total == made.monthly_after.total and not made.errors_avoided_usd:
        both = _amount(made.monthly_after.total)
        return f"Nothing is saved: {which} costs {both} a month, and so would the tuned one."
    worse = f" and {usd(-made.errors_avoided_usd)} in wrong answers" if made.errors_avoided_usd < 0 else ""
    return (
        f"On cost it is a loss: {which} costs {_amount(made.monthly_alternative.total)} a month, "
        f"the tuned one would cost {usd(made.monthly_after.total)}{worse}. {_needed(made, outlook)}"
    )


def _amount(amount: Decimal) -> str:
    return usd(amount) if amount else "nothing"


def enough_volume(made: Estimate, outlook: Outlook | None) -> int | None:
    """Input tokens a month that make it likely to pay back in time; without draws, those that are expected to."""
    return outlook.likely_from if outlook else made.break_even_tokens_per_month


def _needed(made: Estimate, outlook: Outlook | None) -> str:
    enough = enough_volume(made, outlook)
    if enough is None:
        return "No volume changes that."
    likely = f" in {LIKELY:.0%} of draws" if outlook else ""
    return f"It would pay back within {_target(made)}{likely} from {tokens(enough)} input tokens a month on."


def _needed_more(made: Estimate, outlook: Outlook) -> str:
    """Where a larger volume would do; a loss has said so already."""
    enough = enough_volume(made, outlook)
    is_more = enough is not None and enough > made.monthly_input_tokens
    return f" {_needed(made, outlook)}" if is_more and made.payback_months is not None else ""


def _target(made: Estimate) -> str:
    return duration(made.payback_target_months)


def _pin_down(outlook: Outlook, dataset: str) -> Step:
    widest = max(outlook.tornado, key=lambda swing: swing.width, default=None)
    if widest is None:
        return answer_step(f"{PINNED_DOWN['volume']}.")
    how = PINNED_DOWN.get(widest.name, f"Find out more about {widest.name}")
    measure = f" ({baseline_command(dataset)})" if widest.name == "price of the alternative" else ""
    return answer_step(f"{how}{measure}: it matters most ({_swing(widest)}).")


def _swing(swing: Swing) -> str:
    return (
        f"{swing.name} from {swing.low_value} to {swing.high_value} moves the net value "
        f"from {usd(swing.at_low)} to {usd(swing.at_high)}"
    )
