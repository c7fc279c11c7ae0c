"""The assumptions behind an estimate, each with its value, where it comes from and how to change it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bot.cards.common.candidates import alternative_name, why_alternative
from bot.cards.common.words import capitalize, volume_text
from bot.rules.bills import CACHEABLE_PROMPT, Rates, is_cached, machine_time
from bot.rules.roi import Inputs, evaluations_usd
from bot.rules.units import HOURS_PER_MONTH, MonthlyVolume, format_months, format_tokens
from trainers.money import rate, usd


@dataclass(frozen=True)
class Assumption:
    """`why` says where the value comes from and how to change it."""

    name: str
    value: str
    why: str


def assumptions(inputs: Inputs, volume: MonthlyVolume | None) -> tuple[Assumption, ...]:
    """All assumptions of an estimate, the ones that a reader doubts most first."""
    assumed_volume = None
    if volume:
        assumed_volume = _volume(inputs, volume)
    listed = (
        assumed_volume,
        _output(inputs),
        _prompt(inputs),
        _price("price today", inputs.now),
        _price("price once tuned", inputs.tuned),
        _alternative(inputs),
        _successor(inputs),
        _falling_price(inputs),
        _horizon(inputs),
        _caching(inputs),
        _batch(inputs),
        _repeated_requests(inputs),
        _hosting(inputs),
        machines_assumption(inputs),
        _training(inputs),
        _repeated_runs(inputs),
        _minutes(inputs),
        _evaluation(inputs),
        _retraining(inputs),
        _monitoring(inputs),
        _people(inputs),
        _labels(inputs),
        _quality(inputs),
    )
    return tuple(assumption for assumption in listed if assumption)


def _volume(inputs: Inputs, volume: MonthlyVolume) -> Assumption:
    spread = f"{inputs.volume_spread * 100:.0f}%"
    tokens = f"{float(inputs.usage.tokens_per_request):,.0f}"
    return Assumption(
        "volume",
        f"{volume_text(volume)}, ±{spread}",
        f"You gave the {volume.given}; the other number follows from {tokens} input tokens a request with today's "
        f"prompt. The ±{spread} is our assumption, not a measurement. Change it with --volume.",
    )


def _output(inputs: Inputs) -> Assumption:
    usage = inputs.usage
    tuned = inputs.tuned_tokens or usage.tuned
    ratio = Decimal(usage.output) / usage.prompt_before
    today = Decimal(usage.output) / usage.requests
    after = Decimal(tuned.output) / tuned.requests
    value = f"{1000 * ratio:,.0f} output tokens per 1,000 of input"
    why = "assumed to be as long once tuned"
    # Compared as they are shown, so that a number is never told apart from itself.
    if f"{today:.3g}" != f"{after:.3g}":
        value += f"; {today:.3g} a request today, {after:.3g} once tuned"
        why = "with each model's own answer length"
    return Assumption(
        "output",
        value,
        f"Measured on {usage.requests:,} of your rows, {why}. The volume counts input only; output is added to it.",
    )


def _prompt(inputs: Inputs) -> Assumption:
    usage = inputs.usage
    tuned = inputs.tuned_tokens or usage.tuned
    before = Decimal(usage.prompt_before) / usage.requests
    after = Decimal(tuned.prompt) / tuned.requests
    if before == after:
        return Assumption(
            "prompt",
            f"{before:.0f} tokens a request, before and after",
            "Measured on your rows. If today's prompt is longer than theirs, you save more: add its tokens "
            "(--prompt-tokens).",
        )
    return Assumption(
        "prompt",
        f"{before:.0f} tokens a request today, {after:.0f} once tuned ({after / before * 100:.0f}%)",
        "Measured on your rows, or as you gave it: a tuned model needs no list of labels or examples in its prompt. "
        "The input after training shrinks in this proportion. Set today's prompt with --prompt-tokens.",
    )


def _price(name: str, rates: Rates) -> Assumption:
    value = f"{rates.model}: input {rate(rates.input)}, output {rate(rates.output)}"
    # Prices of $0 would read as if the model cost nothing.
    if not rates.input and not rates.output:
        value = f"{rates.model}: tokens are free, only the machine costs money"
    if rates.usd_per_hour:
        value += f", {usd(rates.usd_per_hour)} an hour"
    why = f"From {rates.said_by}. A price in your finetune.toml overrides it."
    if rates.note:
        why = f"{why} {rates.note}"
    return Assumption(name, value, why)


def _alternative(inputs: Inputs) -> Assumption:
    if inputs.alternative is None:
        return Assumption(
            "compared with",
            f"today's model, {inputs.now.model}",
            "Nothing else has been measured. A cheaper model or a better prompt may do as well; a baseline would "
            "show it.",
        )
    why = capitalize(f"{why_alternative(inputs.alternative)}.")
    return Assumption("compared with", alternative_name(inputs.alternative), why)


def _successor(inputs: Inputs) -> Assumption | None:
    rates = inputs.alternative_rates
    if rates.ends is None:
        return None
    name = f"once {rates.model} has ended"
    if rates.after_end is None:
        unknown = "no successor is known"
        if rates.successor:
            unknown = f"the price of its successor {rates.successor} is unknown"
        return Assumption(
            name,
            f"no saving is counted from {rates.ends}, because {unknown}",
            'Set successor, and the price of that model, in finetune.toml under [prices."MODEL"].',
        )
    after_end = rates.after_end
    return Assumption(
        name,
        f"{after_end.model} from {rates.ends}: input {rate(after_end.input)}, output {rate(after_end.output)}",
        "Its maker names it as the successor. It is counted with the same number of tokens; its quality is not "
        'measured. To name another one, set successor in finetune.toml under [prices."MODEL"].',
    )


def _falling_price(inputs: Inputs) -> Assumption:
    fall = inputs.price_fall
    if not inputs.yearly_price_fall:
        return Assumption(
            "price of the alternative",
            "constant",
            "It is not paid per token, so vendors' price cuts don't lower it.",
        )
    return Assumption(
        "price of the alternative",
        f"falls by {fall.expected:.0%} a year (between {fall.low:.0%} and {fall.high:.0%})",
        "Our assumption: prompted models have been getting cheaper, which reduces the saving. Used in the net value "
        "and the simulations; the monthly saving and the payback time use today's prices.",
    )


def _horizon(inputs: Inputs) -> Assumption:
    ends = ""
    if inputs.ends:
        ends = f", or until the model ends on {inputs.ends}"
    return Assumption(
        "horizon",
        f"{inputs.horizon_months} months{ends}, discounted by {inputs.discount:.0%} a year",
        "Used for the net value: a model seldom stays the best choice for longer, and later money is worth less.",
    )


def _caching(inputs: Inputs) -> Assumption:
    other = inputs.alternative
    tokens_of, rates = (other.tokens, other.rates) if other else (inputs.usage.today, inputs.now)
    shared = f"{tokens_of.shared / tokens_of.requests:,.0f}"
    if is_cached(tokens_of, rates):
        return Assumption(
            "prompt caching",
            f"{shared} tokens at the start of each request are the same, at the cached price",
            "This is the part of the prompt that the tuned model doesn't need. It is counted as always cached; with "
            "few requests an hour it is not, and you save more than shown.",
        )
    return Assumption(
        "prompt caching",
        "not counted",
        f"Some vendors charge less for a repeated beginning of at least {CACHEABLE_PROMPT:,} tokens; "
        f"yours has about {shared}.",
    )


def _batch(inputs: Inputs) -> Assumption:
    share = inputs.traffic.batch_share
    why = "Some vendors charge less for requests that can wait a day. Set their share with --batch."
    if not share:
        return Assumption("batches", "none", why)
    other = [inputs.alternative.rates] if inputs.alternative else []
    off = {rates.model: rates.batch_discount for rates in (inputs.now, *other, inputs.tuned)}
    text = (
        ", ".join(f"{model} {discount:.0%} off" for model, discount in off.items() if discount)
        or "no price list has a discount"
    )
    return Assumption("batches", f"{share:.0%} of the requests: {text}", why)


def _repeated_requests(inputs: Inputs) -> Assumption:
    return Assumption(
        "repeated requests",
        f"{inputs.traffic.retries:.0%}",
        "The same for every model, so it hardly changes the saving.",
    )


def _is_hosted(inputs: Inputs) -> bool:
    """True if the tuned model runs on a vendor's machine that is billed by the hour."""
    is_ours = inputs.tuned.on_own_machine or inputs.training.usd_per_hour is not None
    return bool(inputs.tuned.usd_per_hour) and not is_ours


def _hosting(inputs: Inputs) -> Assumption | None:
    hourly = inputs.tuned.usd_per_hour
    traffic = inputs.traffic
    capacity = inputs.tuned.capacity
    is_given = capacity is not None and capacity.basis == "given"
    if hourly and inputs.tuned.idle_window_s is not None:
        value = f"{usd(hourly)} an hour while it is in use"
        why = (
            f"The vendor's machine costs nothing once it has been idle for {inputs.tuned.idle_window_s // 60} minutes. "
            "Counted with questions at random times: it is up for most of the month from a few hundred questions a day "
            "on, and never for more than all of it."
        )
    elif hourly:
        value = f"{usd(hourly)} an hour for {traffic.hosting_hours:.0f} hours a month"
        machine = "A running machine"
        setting = "usd_per_hour"
        if _is_hosted(inputs):
            machine = "The vendor's machine"
            setting = "serving_usd_per_hour"
        why = (
            f"{machine} costs the same whether it is used or not. Change {setting} of the model in "
            "finetune.toml, and the hours with --hosting-hours."
        )
    elif inputs.tuned.on_own_machine or inputs.training.usd_per_hour is not None:
        value = "your own machine, counted as free"
        why = "Electricity, purchase and maintenance are not counted. Set usd_per_hour of the model in finetune.toml."
    elif is_given:
        # Without this line, the speed that somebody gave would seem to be counted.
        value = "none"
        why = "It is paid per token, so the machine speed that you gave has no effect."
    else:
        return None
    return Assumption("hosting", value, why)


def machines_assumption(inputs: Inputs) -> Assumption | None:
    """How many machines the volume needs; None if the tuned model is paid by the token."""
    tokens_of = inputs.tuned_tokens or inputs.usage.tuned
    machines = machine_time(tokens_of, inputs.tuned, inputs.requests, inputs.traffic)
    capacity = inputs.tuned.capacity
    if machines is None:
        return None
    if capacity is None:
        ours = "The speed of this machine is not measured. Run `finetune calibrate` on it, or add --serving-speed."
        vendors = "The speed of the vendor's machine is unknown. Ask the vendor, and add --serving-speed."
        return Assumption("machines", "unknown", vendors if _is_hosted(inputs) else ours)
    value = f"{machines.count():,} of this kind"
    speed = (
        f"Each reads {capacity.reads:,.0f} and writes {capacity.writes:,.0f} tokens a second, busy "
        f"{capacity.busy:.0%} of the time (--utilisation)."
    )
    match capacity.basis:
        case "given":
            why = "From the speed that you gave (--serving-speed, --utilisation)."
        case "guessed":
            low, high = machines.count_range
            value = f"about {value}, between {low:,} and {high:,}"
            why = (
                f"{speed} Guessed from the model's size and an H100's speed, right within a factor of "
                f"{capacity.spread:g}. Add what the vendor tells you (--serving-speed)."
            )
        case "measured":
            why = (
                f"{speed} Measured by `finetune calibrate` with prompts of 64 tokens and answers of 8, 16 at a time, "
                "and scaled to the size of this model; longer prompts take longer."
            )
    return Assumption("machines", value, why)


def _training(inputs: Inputs) -> Assumption:
    training = inputs.training
    runs = "1 run" if training.runs == 1 else f"{training.runs} runs"
    counted = "The tokens of one pass over the training rows are counted exactly."
    if training.is_estimated:
        counted = "Estimated with the tokenizer o200k_base, since this model's own is not available here."
    about = "about " if training.is_estimated else ""
    return Assumption(
        "training",
        f"{runs} of {training.epochs} × {about}{format_tokens(training.tokens)} tokens",
        f"{counted} Each further run costs the same again (--runs).",
    )


def _repeated_runs(inputs: Inputs) -> Assumption:
    return Assumption(
        "repeated runs",
        f"{inputs.run_fails:.0%}",
        "Our assumption, used in the simulations only: a run that fails or disappoints is paid for again.",
    )


def _minutes(inputs: Inputs) -> Assumption | None:
    minutes = inputs.training.minutes
    if minutes is None:
        return None
    where = (
        "From tokens_per_second in finetune.toml, or for an encoder from measurements on two cores of an AMD EPYC. It "
        "may take half or twice as long, or as long as the model's size suggests."
    )
    if inputs.training.speed_measured:
        where = (
            f"From this machine's own speed, measured on {inputs.training.speed_measured} (finetune calibrate). "
            "Beside other programs it may take twice as long."
        )
    elif inputs.training.usd_per_hour is None:
        where = "Our guess; it depends on the hosted service's queue."
    elif inputs.training.is_guess:
        where = (
            "Guessed from the model's size and typical hardware, right within a factor of 3. `finetune calibrate` "
            "measures it, except for a base in 4 or 8 bits."
        )
    expected, low, high = (
        format_months(amount / 60 / HOURS_PER_MONTH)
        for amount in (minutes.expected, minutes.low, minutes.high)
    )
    return Assumption(
        "training time",
        f"{expected}, between {low} and {high}",
        f"{where} A run's result shows the actual time beside this.",
    )


def _evaluation(inputs: Inputs) -> Assumption:
    half_an_hour = ""
    if _is_hosted(inputs):
        half_an_hour = " Includes half an hour of the model's machine."
    return Assumption(
        "evaluation",
        usd(evaluations_usd(inputs)),
        "Per run: every held-out row is asked of the model before and after training, and of the judge if a model "
        f"judges free text.{half_an_hour}",
    )


def _retraining(inputs: Inputs) -> Assumption:
    if inputs.retrain_months is None:
        why = "Questions change over time, and a model that is never retrained gets worse. Set --retrain."
        return Assumption("retraining", "none", why)
    value = f"every {inputs.retrain_months} months"
    return Assumption("retraining", value, "As you gave it; each time costs training and evaluation again.")


def _monitoring(inputs: Inputs) -> Assumption:
    why = "Not given. Set it with --monitoring-usd."
    if inputs.monitoring_usd:
        why = "As you gave it."
    return Assumption("monitoring", f"{usd(inputs.monitoring_usd)} a month", why)


def _people(inputs: Inputs) -> Assumption:
    hours = inputs.people_hours
    if not hours:
        # 0 hours that somebody gave are an answer, unlike no hours.
        who = "As you gave them." if hours is not None else "Not given. Set them with --hours."
        return Assumption(
            "staff time",
            "0 hours",
            f"{who} Labelling and maintenance are often the largest cost: a week of work changes the answer.",
        )
    return Assumption(
        "staff time",
        f"{hours:f} hours at {usd(inputs.people_usd_per_hour)}",
        "As you gave them (--hours, --rate). The simulations use 75% to 200% of these hours.",
    )


def _labels(inputs: Inputs) -> Assumption:
    if not inputs.labels:
        return Assumption(
            "labels",
            "none to buy",
            "The labels that you have cost nothing more. Set --labels and --label-usd.",
        )
    why = (
        "As you gave them."
        if inputs.usd_per_label
        else "They count as free. Set the price of one with --label-usd."
    )
    return Assumption("labels", f"{inputs.labels:,} at {usd(inputs.usd_per_label)}", why)


def _quality(inputs: Inputs) -> Assumption:
    quality = inputs.quality
    if quality is None:
        return Assumption(
            "quality",
            "the tuned model is good enough to replace today's",
            "An estimate cannot know that; the run measures it on the held-out rows. The value of better answers "
            "is counted only if both models are measured and you add what a wrong answer costs.",
        )
    points = f"{quality.gap * 100:+.1f}".removesuffix(".0")
    return Assumption(
        "quality",
        f"tuned model {points} points against the alternative, {usd(quality.usd_per_wrong)} per wrong answer",
        f"Measured on the same {quality.rows:,} held-out rows. You gave what a wrong answer costs.",
    )
