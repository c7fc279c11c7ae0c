"""What an estimate takes for granted, each with its value, where it comes from and how to change it."""

from __future__ import annotations

from decimal import Decimal

from bot.decisions.amounts import HOURS_PER_MONTH, duration, tokens
from bot.decisions.roi import Assumption, Inputs, Rates
from trainers.money import rate, usd

# From this length on several hosted services bill a repeated prefix at a lower price.
CACHEABLE_PROMPT = 1024


def assumptions(inputs: Inputs) -> tuple[Assumption, ...]:
    """In the order in which a reader doubts them."""
    found = (
        _volume(inputs),
        _output(inputs),
        _prompt(inputs),
        _price("price today", inputs.now),
        _price("price once tuned", inputs.tuned),
        _stable_prices(inputs),
        _caching(inputs),
        _hosting(inputs),
        _training(inputs),
        _minutes(inputs),
        _evaluation(inputs),
        _people(inputs),
        _quality(),
    )
    return tuple(assumption for assumption in found if assumption)


def _volume(inputs: Inputs) -> Assumption:
    spread = f"{inputs.volume_spread * 100:.0f}%"
    return Assumption(
        "volume",
        f"{tokens(inputs.monthly_input_tokens)} input tokens a month, ±{spread}",
        f"You said the figure; the ±{spread} is a habit of ours, not a measurement. Change it with volume=.",
    )


def _output(inputs: Inputs) -> Assumption:
    usage = inputs.usage
    ratio = Decimal(usage.output) / usage.prompt_before
    return Assumption(
        "output",
        f"{ratio:.3g} output tokens for each input token",
        f"Measured on {usage.requests:,} of your examples, and taken to stay as long once tuned. The volume "
        "counts input only, so output comes on top.",
    )


def _prompt(inputs: Inputs) -> Assumption:
    usage = inputs.usage
    before, after = (Decimal(total) / usage.requests for total in (usage.prompt_before, usage.prompt_after))
    if usage.prompt_before == usage.prompt_after:
        return Assumption(
            "prompt",
            f"{before:.0f} tokens a request, before and after",
            "Measured on your examples. Should today's prompt be longer than theirs, more is saved.",
        )
    share = Decimal(usage.prompt_after) / usage.prompt_before * 100
    return Assumption(
        "prompt",
        f"{before:.0f} tokens a request today, {after:.0f} once tuned ({share:.0f}%)",
        "Measured on your examples: a tuned model needs no list of labels or examples in its prompt. "
        "The input after training is counted in this proportion.",
    )


def _price(name: str, rates: Rates) -> Assumption:
    value = f"{rates.model}: input {rate(rates.input)}, output {rate(rates.output)}"
    if not rates.input and not rates.output:
        value = f"{rates.model}: tokens cost nothing, only the machine does"
    if rates.usd_per_hour:
        value += f", {usd(rates.usd_per_hour)} an hour"
    why = f"From {rates.said_by}. Your own price goes into finetune.toml and wins."
    return Assumption(name, value, f"{why} {rates.note}" if rates.note else why)


def _stable_prices(inputs: Inputs) -> Assumption:
    until = f"until the model ends on {inputs.ends}" if inputs.ends else "for as long as you look ahead"
    return Assumption(
        "prices stay",
        f"unchanged {until}",
        "Prices of prompted models have been falling: if today's model gets cheaper, less is saved.",
    )


def _caching(inputs: Inputs) -> Assumption:
    why = "Repeated beginnings of a prompt can be cheaper; we count every input token at the full price."
    if inputs.usage.prompt_before >= CACHEABLE_PROMPT * inputs.usage.requests:
        why += " Your prompt today is long enough for that: you may be paying less than shown, and save less."
    return Assumption("prompt caching", "not counted", why)


def _hosting(inputs: Inputs) -> Assumption | None:
    hourly = inputs.tuned.usd_per_hour
    if hourly:
        return Assumption(
            "hosting",
            f"{usd(hourly)} an hour for {inputs.hosting_hours:.0f} hours a month",
            "A machine that is kept up costs the same whether it is asked or not. Change usd_per_hour "
            "of the model in finetune.toml.",
        )
    if inputs.training.usd_per_hour is not None:
        return Assumption(
            "hosting",
            "your own machine, counted as free",
            "Electricity, purchase and care are not counted. Set usd_per_hour of the model in finetune.toml.",
        )
    return None


def _training(inputs: Inputs) -> Assumption:
    training = inputs.training
    runs = "1 run" if training.runs == 1 else f"{training.runs} runs"
    return Assumption(
        "training",
        f"{runs} of {training.epochs} × {tokens(training.tokens)} tokens",
        "One pass over the training part is counted exactly. Every further try costs the same again.",
    )


def _minutes(inputs: Inputs) -> Assumption | None:
    minutes = inputs.training.minutes
    if minutes is None:
        return None
    where = "From a speed measured on another machine; yours may take half or twice as long."
    if inputs.training.usd_per_hour is None:
        where = "Our guess: a hosted service's queue decides."
    return Assumption(
        "training time",
        f"{_clock(minutes.expected)}, between {_clock(minutes.low)} and {_clock(minutes.high)}",
        f"{where} After a run the real time is shown beside this.",
    )


def _clock(minutes: Decimal) -> str:
    return duration(minutes / 60 / HOURS_PER_MONTH)


def _evaluation(inputs: Inputs) -> Assumption:
    return Assumption(
        "evaluation",
        usd(inputs.evaluation_usd),
        "Asking the model before and after training every held-out example once.",
    )


def _people(inputs: Inputs) -> Assumption:
    if not inputs.people_hours:
        return Assumption(
            "people's time",
            "0 hours",
            "Nobody told us. Labelling and care are often the largest cost: a week of work changes the answer.",
        )
    return Assumption(
        "people's time",
        f"{inputs.people_hours:f} hours at {usd(inputs.people_usd_per_hour)}",
        "As you said.",
    )


def _quality() -> Assumption:
    return Assumption(
        "quality",
        "the tuned model is good enough to replace today's",
        "An estimate cannot know that. The run measures it on the held-out examples.",
    )


def payback(months: Decimal | None) -> str:
    """What stands after "Pays back in"."""
    if months is None:
        return "never at this volume"
    return duration(months) if months else "no time: it costs nothing to train"
