"""What an estimate takes for granted, each with its value, where it comes from and how to change it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bot.cards.candidates import alternative_name, why_alternative
from bot.cards.words import capitalize
from bot.rules.bills import CACHEABLE_PROMPT, Rates, is_cached, machines_needed
from bot.rules.roi import Inputs, evaluations_usd
from bot.rules.units import HOURS_PER_MONTH, duration, tokens
from trainers.money import rate, usd


@dataclass(frozen=True)
class Assumption:
    """`why` says where the value comes from and how to change it."""

    name: str
    value: str
    why: str


def assumptions(inputs: Inputs) -> tuple[Assumption, ...]:
    """All assumptions of an estimate, in the order in which a reader doubts them."""
    spread = f"{inputs.volume_spread * 100:.0f}%"
    ends = f", cut at the model's end on {inputs.ends}" if inputs.ends else ""
    half_an_hour = " Half an hour of its machine is in it." if _is_hosted(inputs) else ""
    listed = (
        Assumption(
            "volume",
            f"{tokens(inputs.monthly_input_tokens)} input tokens a month, ±{spread}",
            f"You gave the figure; the ±{spread} is our own assumption, not a measurement. Change it with --volume.",
        ),
        _output(inputs),
        _prompt(inputs),
        _price("price today", inputs.now),
        _price("price once tuned", inputs.tuned),
        _alternative(inputs),
        _successor(inputs),
        _falling_price(inputs),
        Assumption(
            "horizon",
            f"{inputs.horizon_months} months{ends}, {inputs.discount:.0%} a year off what comes later",
            "For the net value: a model seldom stays the best choice for longer, and money later is worth less.",
        ),
        _caching(inputs),
        _batch(inputs),
        Assumption(
            "repeated requests",
            f"{inputs.asking.retries:.0%}",
            "The same for every model, so it hardly changes what is saved.",
        ),
        _hosting(inputs),
        machines_assumption(inputs),
        _training(inputs),
        Assumption(
            "runs done again",
            f"{inputs.run_fails:.0%}",
            "Our own assumption, and in the chances only: a run that fails or disappoints is paid once more.",
        ),
        _minutes(inputs),
        Assumption(
            "evaluation",
            usd(evaluations_usd(inputs)),
            "Asking the model before and after training every held-out example, and the model that judges free text, "
            f"where one does; once a run.{half_an_hour}",
        ),
        _retraining(inputs),
        Assumption(
            "monitoring",
            f"{usd(inputs.monitoring_usd)} a month",
            "As you gave it." if inputs.monitoring_usd else "Not given. Set it with --monitoring-usd.",
        ),
        _people(inputs),
        _labels(inputs),
        _quality(inputs),
    )
    return tuple(assumption for assumption in listed if assumption)


def _output(inputs: Inputs) -> Assumption:
    usage, tuned = inputs.usage, inputs.tuned_tokens or inputs.usage.tuned
    ratio = Decimal(usage.output) / usage.prompt_before
    today, after = Decimal(usage.output) / usage.requests, Decimal(tuned.output) / tuned.requests
    value, why = f"{1000 * ratio:,.0f} output tokens for 1,000 of input", "taken to stay as long once tuned"
    if f"{today:.3g}" != f"{after:.3g}":
        value += f"; {today:.3g} a request today, {after:.3g} once tuned"
        why = "each model's answers by its own length"
    return Assumption(
        "output",
        value,
        f"Measured on {usage.requests:,} of your examples, {why}. The volume counts input only, so output "
        "comes on top.",
    )


def _prompt(inputs: Inputs) -> Assumption:
    usage, tuned = inputs.usage, inputs.tuned_tokens or inputs.usage.tuned
    before, after = Decimal(usage.prompt_before) / usage.requests, Decimal(tuned.prompt) / tuned.requests
    if before == after:
        return Assumption(
            "prompt",
            f"{before:.0f} tokens a request, before and after",
            "Measured on your examples. If today's prompt is longer than theirs, more is saved: give its tokens "
            "(--prompt-tokens).",
        )
    return Assumption(
        "prompt",
        f"{before:.0f} tokens a request today, {after:.0f} once tuned ({after / before * 100:.0f}%)",
        "Measured on your examples, or as you gave it: a tuned model needs no list of labels or examples in its "
        "prompt. The input after training is counted in this proportion. Set today's with --prompt-tokens.",
    )


def _price(name: str, rates: Rates) -> Assumption:
    value = f"{rates.model}: input {rate(rates.input)}, output {rate(rates.output)}"
    if not rates.input and not rates.output:
        value = f"{rates.model}: tokens cost nothing, only the machine does"
    if rates.usd_per_hour:
        value += f", {usd(rates.usd_per_hour)} an hour"
    why = f"From {rates.said_by}. Your own price goes into finetune.toml and wins."
    return Assumption(name, value, f"{why} {rates.note}" if rates.note else why)


def _alternative(inputs: Inputs) -> Assumption:
    if inputs.alternative is None:
        return Assumption(
            "compared with",
            f"today's model, {inputs.now.model}",
            "Nothing else has been measured. A cheaper model or a better prompt may do as well: a baseline "
            "measures that.",
        )
    why = capitalize(f"{why_alternative(inputs.alternative)}.")
    return Assumption("compared with", alternative_name(inputs.alternative), why)


def _successor(inputs: Inputs) -> Assumption | None:
    rates = inputs.held_against
    if rates.ends is None:
        return None
    name = f"once {rates.model} has ended"
    if rates.then is None:
        unknown = "no successor is known"
        if rates.successor:
            unknown = f"its successor {rates.successor} has no known price"
        return Assumption(
            name,
            f"nothing is counted from {rates.ends} on: {unknown}",
            'Say `successor`, and the price of that model, in finetune.toml under [prices."MODEL"].',
        )
    then = rates.then
    return Assumption(
        name,
        f"{then.model} from {rates.ends} on: input {rate(then.input)}, output {rate(then.output)}",
        "Its maker names it as successor. Counted with as many tokens; how well it does nobody has counted. "
        'Another one goes into finetune.toml (`successor` under [prices."MODEL"]).',
    )


def _falling_price(inputs: Inputs) -> Assumption:
    fall = inputs.price_fall
    rates = inputs.alternative.rates if inputs.alternative else inputs.now
    if rates.usd_per_hour or not (rates.input or rates.output):
        return Assumption(
            "price of the alternative", "stays", "It is not paid by the token, so no vendor's cut lowers it."
        )
    return Assumption(
        "price of the alternative",
        f"falls by {fall.expected:.0%} a year, between {fall.low:.0%} and {fall.high:.0%}",
        "Our own assumption: prompted models have been getting cheaper, and then less is saved. It counts in the "
        "net value and the chances; a month's saving and the payback are at today's prices.",
    )


def _caching(inputs: Inputs) -> Assumption:
    other = inputs.alternative
    tokens_of, rates = (other.tokens, other.rates) if other else (inputs.usage.today, inputs.now)
    shared = f"{tokens_of.shared / tokens_of.requests:,.0f}"
    if is_cached(tokens_of, rates):
        return Assumption(
            "prompt caching",
            f"{shared} tokens of each request are the same beginning, at the cached price",
            "What the prompt has more than the tuned model's. Counted as always cached: with few requests an "
            "hour it is not, and more is saved than shown.",
        )
    return Assumption(
        "prompt caching",
        "not counted",
        f"A repeated beginning is cheaper from {CACHEABLE_PROMPT:,} tokens on, where the price list says so; "
        f"yours has about {shared}.",
    )


def _batch(inputs: Inputs) -> Assumption:
    share = inputs.asking.batch_share
    why = (
        "What can wait a day is cheaper in a batch, where the price list says so. Set the share with --batch."
    )
    if not share:
        return Assumption("batches", "none", why)
    other = [inputs.alternative.rates] if inputs.alternative else []
    off = {rates.model: rates.batch_discount for rates in (inputs.now, *other, inputs.tuned)}
    text = (
        ", ".join(f"{model} {discount:.0%} off" for model, discount in off.items() if discount)
        or "no list has a discount"
    )
    return Assumption("batches", f"{share:.0%} of the requests: {text}", why)


def _is_hosted(inputs: Inputs) -> bool:
    """A vendor's machine answers, and is paid by the hour."""
    is_ours = inputs.tuned.on_own_machine or inputs.training.usd_per_hour is not None
    return bool(inputs.tuned.usd_per_hour) and not is_ours


def _hosting(inputs: Inputs) -> Assumption | None:
    hourly, asking = inputs.tuned.usd_per_hour, inputs.asking
    if hourly and asking.speed:
        value = f"{rate(round(asking.speed.usd_per_million(hourly), 2))}, by use"
        why = (
            f"{usd(hourly)} an hour at {asking.speed.tokens_per_second:,f} tokens a second while busy, "
            f"{asking.speed.busy:.0%} of its time, as you gave it (--serving-speed, --utilisation)."
        )
    elif hourly and inputs.tuned.idle_window_s is not None:
        value = f"{usd(hourly)} an hour while it is asked"
        why = (
            f"The vendor's machine costs nothing {inputs.tuned.idle_window_s // 60} minutes after a question until the "
            "next one; counted as if each question kept it up for so long."
        )
    elif hourly:
        value = f"{usd(hourly)} an hour for {asking.hosting_hours:.0f} hours a month"
        machine, setting, count = "A machine that is kept up", "usd_per_hour", ""
        if _is_hosted(inputs):
            machine, setting = "The vendor's machine", "serving_usd_per_hour"
            count = " One is counted, at any volume."
        why = (
            f"{machine} costs the same whether it is asked or not.{count} Change {setting} of the model in "
            "finetune.toml, and the hours with --hosting-hours."
        )
    elif inputs.training.usd_per_hour is not None:
        value = "your own machine, counted as free"
        unused = ": without it the speed that you gave changes nothing" if asking.speed else ""
        why = (
            "Electricity, purchase and care are not counted. Set usd_per_hour of the model in finetune.toml"
            f"{unused}."
        )
    elif asking.speed:
        value = "none"
        why = "It is paid by the token: the speed of a machine, which you gave, changes nothing."
    else:
        return None
    return Assumption("hosting", value, why)


def machines_assumption(inputs: Inputs) -> Assumption | None:
    """How many machines serve the volume; None where a vendor serves it."""
    if not inputs.tuned.on_own_machine:
        return None
    tokens_of, capacity = inputs.tuned_tokens or inputs.usage.tuned, inputs.tuned.capacity
    count = machines_needed(tokens_of, inputs.tuned, inputs.requests, inputs.asking)
    if count is None:
        return Assumption(
            "machines",
            "how many it takes is not known",
            "The speed of this machine is not measured: run `finetune calibrate` on it, or give --serving-speed.",
        )
    value = f"{count:,} of this kind"
    if inputs.asking.speed or capacity is None:
        return Assumption("machines", value, "By the speed that you gave (--serving-speed, --utilisation).")
    return Assumption(
        "machines",
        value,
        f"Each reads {capacity.reads:,.0f} and writes {capacity.writes:,.0f} tokens a second while busy, "
        f"{capacity.busy:.0%} of its time (--utilisation). Measured by `finetune calibrate` on prompts of 64 tokens "
        "and answers of 8, 16 at a time, and carried over to this model by its weights; longer prompts take longer.",
    )


def _training(inputs: Inputs) -> Assumption:
    training = inputs.training
    runs = "1 run" if training.runs == 1 else f"{training.runs} runs"
    counted = "One pass over the training part is counted exactly."
    if training.is_estimated:
        counted = "An estimate: this model's own tokenizer is not here, so o200k_base counted one pass."
    return Assumption(
        "training",
        f"{runs} of {training.epochs} × {'about ' if training.is_estimated else ''}{tokens(training.tokens)} tokens",
        f"{counted} Every further try costs the same again (--runs).",
    )


def _minutes(inputs: Inputs) -> Assumption | None:
    minutes = inputs.training.minutes
    if minutes is None:
        return None
    where = (
        "By tokens_per_second in finetune.toml, of an encoder by measurements on two cores of an AMD EPYC; it may take "
        "half or twice as long."
    )
    if inputs.training.speed_measured:
        where = (
            f"From this machine's own speed, measured on {inputs.training.speed_measured} (finetune calibrate); "
            "beside other programs it takes up to twice as long."
        )
    elif inputs.training.usd_per_hour is None:
        where = "Our guess: a hosted service's queue decides."
    elif inputs.training.is_guess:
        where = (
            "A guess by the model's size and what such hardware usually sustains, within a factor of 3. `finetune "
            "calibrate` measures it, but for a base in 4 or 8 bits."
        )
    expected, low, high = (
        duration(amount / 60 / HOURS_PER_MONTH) for amount in (minutes.expected, minutes.low, minutes.high)
    )
    return Assumption(
        "training time",
        f"{expected}, between {low} and {high}",
        f"{where} After a run the real time is shown beside this.",
    )


def _retraining(inputs: Inputs) -> Assumption:
    if inputs.retrain_months is None:
        why = (
            "What people ask changes, and a model that is not trained again gets worse. Set --retrain-months."
        )
        return Assumption("retraining", "none", why)
    value = f"every {inputs.retrain_months} months"
    return Assumption("retraining", value, "As you gave it; training and evaluation again.")


def _people(inputs: Inputs) -> Assumption:
    hours = inputs.people_hours
    if not hours:
        who = "As you gave them." if hours is not None else "Not given. Set them with --hours."
        return Assumption(
            "people's time",
            "0 hours",
            f"{who} Labelling and care are often the largest cost: a week of work changes the answer.",
        )
    return Assumption(
        "people's time",
        f"{hours:f} hours at {usd(inputs.people_usd_per_hour)}",
        "As you gave them (--hours, --rate). The chances reckon with three quarters to twice as long.",
    )


def _labels(inputs: Inputs) -> Assumption:
    if not inputs.labels:
        return Assumption(
            "labels", "none to buy", "The labels that you have are paid for. Set --labels and --label-usd."
        )
    return Assumption("labels", f"{inputs.labels:,} at {usd(inputs.usd_per_label)}", "As you gave them.")


def _quality(inputs: Inputs) -> Assumption:
    quality = inputs.quality
    if quality is None:
        return Assumption(
            "quality",
            "the tuned model is good enough to replace today's",
            "An estimate cannot know that. The run measures it on the held-out examples. What better answers "
            "are worth counts only where both models are measured and you say what a wrong one costs.",
        )
    points = f"{quality.gap * 100:+.1f}".removesuffix(".0")
    return Assumption(
        "quality",
        f"the tuned model is {points} points against the alternative, {usd(quality.usd_per_wrong)} a wrong answer",
        f"Measured on the same {quality.rows:,} held-out rows; what a wrong answer costs, you said.",
    )
