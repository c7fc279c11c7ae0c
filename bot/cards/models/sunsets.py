"""Models that end: the card that warns a team in time and offers to retrain elsewhere, and the list of all models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from bot.cards.common.blocks import (
    Block,
    Message,
    Table,
    Text,
    button,
    code,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.words import about_usd, at_most, capitalize, counted, pluralize, shorten
from bot.cards.datasets import datasets
from bot.cards.decisions.estimates import verdict_summary
from bot.rules.estimates import EstimateSummary
from bot.values.sunsets import ModelUse, UseKind, ending_soon
from trainers.money import to_micros

RETUNE = "retune_elsewhere"
KINDS: dict[UseKind, str] = {
    "in use": "in use",
    "fallback": "fallback of",
    "planned": "planned",
    "today's": "prompted today",
    "target": "can be trained",
    "closed target": "can't be trained now",
    "price": "has a price of yours",
}


@dataclass(frozen=True)
class Sunset:
    """A model's end with what its card shows. `costs_usd` and `successor_usd` are monthly costs now and with its
    successor, None if unknown. `gone_from` is the provider that no longer lists the model. `retuned` is the estimate of
    training on `target` instead."""

    use: ModelUse
    today: date
    version: int
    n_holdout: int
    gone_from: str | None = None
    costs_usd: Decimal | None = None
    successor_usd: Decimal | None = None
    retuned: EstimateSummary | None = None
    target: str | None = None


def card(sunset: Sunset) -> Message:
    """The end date, the costs, and a button that plans a training elsewhere for approval."""
    subject = escape(_subject(sunset.use))
    parts = Parts()
    parts.note(subject)
    parts.facts([(escape(name), escape(value)) for name, value in _facts(sunset)])
    parts.text(_next(sunset))
    parts.buttons(*_buttons(sunset))
    return parts.titled(_headline(sunset), notice=subject)


def line(use: ModelUse, today: date) -> str:
    """A model's end in a list."""
    model = escape(shorten(use.model, 60))
    text = f"• {model}, {_role(use)}: {_when(use, today)}"
    if use.successor:
        text += f", then {escape(use.successor)}"
    return text


def listing(uses: Sequence[ModelUse], today: date, shown_by: str = "") -> Message:
    """The models that are used or configured, the earliest end first. Those in use are also listed in words. If a
    command that shows all of them is named (`shown_by`), configured models that have ended, or have no known end, are
    only counted."""
    if not uses:
        return Message("No models are configured", (Text("No models are in use or configured yet."),))
    shown = list(uses)
    if shown_by:
        shown = [use for use in uses if _is_worth_a_line(use, today)]
    # Models without a known end come last.
    ordered = sorted(shown, key=lambda use: (use.ends or date.max, use.model, use.dataset))
    with_an_end = [use for use in uses if use.ends]
    title = f"{len(with_an_end):,} of {pluralize(len(uses), 'model')} have a known end date"
    in_use = [use for use in uses if use.dataset]

    parts = Parts()
    parts.lines([line(use, today) for use in ending_soon(in_use, today)])
    if ordered:
        rows = [_list_row(use, today) for use in ordered]
        parts.add(Table([("Model", "used", "ends", "then", "source"), *rows], "Ends of models"))
    if len(shown) < len(uses):
        hidden = [use for use in uses if use not in shown]
        names = _hidden_text(hidden, today)
        parts.text(f"{names}: {shown_by}")
    return parts.titled(title)


def _is_worth_a_line(use: ModelUse, today: date) -> bool:
    """True for what a dataset relies on, and for configured models whose end is still to come."""
    if use.dataset:
        return True
    return use.ends is not None and not use.has_ended(today)


def _list_row(use: ModelUse, today: date) -> tuple[str, ...]:
    role = f"{KINDS[use.kind]} {use.dataset}".strip()
    if use.kind == "target" and use.has_ended(today):
        role = KINDS["closed target"]
    return (
        shorten(use.model, 40),
        role,
        str(use.ends or "–"),
        use.successor or "–",
        use.said_by or "not listed",
    )


def _hidden_text(hidden: Sequence[ModelUse], today: date) -> str:
    n_ended = sum(use.has_ended(today) for use in hidden)
    n_endless = len(hidden) - n_ended
    ended = f"{n_ended:,} configured that ended"
    endless = f"{n_endless:,} configured without a known end"
    return counted((n_ended, ended), (n_endless, endless))


def _headline(sunset: Sunset) -> str:
    _, _, model = sunset.use.model.rpartition("/")
    name = shorten(model, 40)
    if sunset.gone_from:
        return f"{name} is no longer offered by {sunset.gone_from}"
    return f"{name} {_when(sunset.use, sunset.today)}"


def _when(use: ModelUse, today: date) -> str:
    days = use.days_left(today)
    if days is None:
        return "has no known end date"
    if days <= 0:
        return f"ended on {use.ends}"
    return f"ends in {pluralize(days, 'day')}, on {use.ends}"


def _role(use: ModelUse) -> str:
    """How the model is used, as mrkdwn: 'prompted today for tickets'."""
    name = escape(use.name or "")
    dataset = escape(use.dataset)
    match use.kind:
        case "in use":
            of = "asked by"
            if use.is_tuned:
                of = "the base of"
            return f"{of} {name}, in use for {dataset}"
        case "fallback":
            return f"asked by {name}, the fallback for {dataset}"
        case "planned":
            return f"which {name} on {dataset} plans to train"
        case _:
            return f"{KINDS[use.kind]} for {dataset}"


def _subject(use: ModelUse) -> str:
    name = use.name or ""
    match use.kind:
        case "in use" if use.is_tuned:
            text = f"{name}, in use for {use.dataset}, was trained on it and ends with it"
        case "in use":
            text = f"{capitalize(name)}, in use for {use.dataset}, asks it and ends with it"
        case "fallback":
            text = f"{capitalize(name)}, the fallback for {use.dataset}, asks it and ends with it"
        case "planned":
            text = f"{capitalize(name)} on {use.dataset} plans to train it"
        case _:
            text = f"Today's model for {use.dataset}"
    if use.said_by:
        return f"{text}. Source: {use.said_by}"
    return f"{text}."


def _facts(sunset: Sunset) -> list[tuple[str, str]]:
    """The monthly costs, from the last estimate."""
    use = sunset.use
    if use.kind == "fallback":  # which costs something only now and then
        return []
    estimate = None
    if sunset.retuned is not None:
        estimate = sunset.retuned.estimate
    pairs = []
    if sunset.costs_usd is not None:
        pairs.append(("Current cost", about_usd(sunset.costs_usd, per="a month")))
    # Without its tuned model, the team would prompt the model of its last estimate again.
    is_trained = use.is_tuned or use.kind == "planned"
    if is_trained and estimate:
        prompted = about_usd(estimate.monthly_before.total, per="a month")
        pairs.append(("Prompted model instead", prompted))
    elif use.successor:
        with_it = "monthly cost unknown"
        if sunset.successor_usd is not None:
            with_it = about_usd(sunset.successor_usd, per="a month")
        pairs.append((f"Its successor, {shorten(use.successor, 30)}", with_it))
    if sunset.target and sunset.retuned:
        target = shorten(sunset.target, 40)
        pairs.append((f"Retrained on {target}", _cost(sunset.retuned)))
    return pairs


def _cost(retuned: EstimateSummary) -> str:
    training = retuned.training
    is_free_to_train = training is not None and not training.usd.high
    if training is None:
        once = "training price unknown"
    elif is_free_to_train:
        once = "free to train"
    else:
        once = f"{at_most(to_micros(training.usd.high))} once"

    if retuned.estimate is None:
        return once
    monthly = retuned.estimate.monthly_after.total
    if not monthly and is_free_to_train:
        return "no charge"
    return f"{about_usd(monthly, per='a month')}; {once}"


def _next(sunset: Sunset) -> str:
    if sunset.use.kind == "fallback":
        command = code(f"/finetune fallback {sunset.use.dataset} CANDIDATE")
        return f"*Next*: {command} has something else that was measured answer when what is in use can't."
    if sunset.retuned is None or sunset.target is None:
        return (
            "*No lasting model can be trained here.* Add a base model under `[trainer.models]` in finetune.toml: "
            "your own machine trains it, and its weights stay yours."
        )
    cheaper = ""
    if _is_successor_cheaper(sunset):
        name = escape(shorten(str(sunset.use.successor), 30))
        cheaper = f"*Next*: measure whether {name} is good enough, since it would cost less.\n"
    verdict = sunset.retuned.verdict
    summary = escape(verdict_summary(verdict.kind, verdict.rule))
    dataset = escape(shorten(sunset.use.dataset))
    target = escape(shorten(sunset.target, 60))
    held_out = pluralize(sunset.n_holdout, "held-out row")
    return (
        f"{cheaper}*{_retune(sunset.retuned)}* plans a run on {dataset}, version {sunset.version}, with {target}, "
        f"measured on the same {held_out}. Nothing is spent before approval. Estimate: “{summary}”."
    )


def _is_successor_cheaper(sunset: Sunset) -> bool:
    if sunset.use.successor is None or sunset.successor_usd is None:
        return False
    if sunset.retuned is None or sunset.retuned.estimate is None:
        return False
    return sunset.successor_usd < sunset.retuned.estimate.monthly_after.total


def _buttons(sunset: Sunset) -> list[Block]:
    """The next step first: measuring, if the successor costs less or the verdict is against training."""
    measure = button("Measure alternatives", datasets.MEASURE, sunset.use.dataset)
    if sunset.use.kind == "fallback":
        return [measure]
    estimate = button("Estimate", datasets.ESTIMATE, sunset.use.dataset)
    if sunset.retuned is None or sunset.target is None:
        return [measure, estimate]
    value = f"{sunset.use.dataset} {sunset.target}"
    words = _retune(sunset.retuned)
    if sunset.retuned.verdict.kind == "no_go" or _is_successor_cheaper(sunset):
        return [{**measure, "style": "primary"}, button(words, RETUNE, value), estimate]
    return [button(words, RETUNE, value, style="primary"), measure, estimate]


def _retune(retuned: EstimateSummary) -> str:
    if retuned.verdict.kind == "no_go":
        return "Retrain anyway"
    return "Retrain elsewhere"
