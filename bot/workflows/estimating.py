"""Gathers what an estimate needs (report, prices, the target's row) and lets the pure rules decide.

Used by Slack and by the terminal alike: it holds no store and no trainer.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from bot.decisions.advice import Facts, Verdict, advise
from bot.decisions.amounts import tokens
from bot.decisions.planning import hyperparameters_for
from bot.decisions.roi import Assumption, Estimate, Shape, Today, Training, estimate
from bot.results import Refusal
from bot.settings import Settings
from trainers.creation import sent_hyperparameters
from trainers.dataset import Report
from trainers.money import rate, usd
from trainers.pricing import PriceRow, UnknownPrice, prompted_price, tuned_price
from trainers.providers import ModelRow, ProviderRow, model_verdict
from trainers.types import Hyperparameter, Price

HOSTED_SECONDS = (600, 1800, 7200)
SPREAD = Decimal(2)


@dataclass(frozen=True)
class Question:
    """What a person wants to know. `volume` is input tokens a month; None: not said."""

    current: str | None = None
    volume: int | None = None
    target: str | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Target:
    row: ProviderRow
    model: ModelRow

    @property
    def name(self) -> str:
        return f"{self.row.name}/{self.model.name}"


@dataclass(frozen=True)
class Estimated:
    """An estimate with all that it rests on. `prices`: the target's row first, then today's model's."""

    name: str
    report: Report
    question: Question
    target: Target
    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    prices: tuple[PriceRow, ...]
    estimate: Estimate
    verdict: Verdict


def make_estimate(
    settings: Settings, name: str, report: Report, question: Question, today: date
) -> Estimated | Refusal:
    target = find_target(settings.providers, question.target)
    if isinstance(target, Refusal):
        return target
    now = _price_today(settings, question, today)
    if isinstance(now, Refusal):
        return now
    tuned = tuned_price(target.row, target.model)
    hyperparameters = _hyperparameters(target, report, question)
    training = _training(settings, target, report, dict(hyperparameters), tuned, today)
    made = estimate(
        _shape(report),
        training,
        tuned.price,
        Today(question.volume, now.price) if now and question.volume else None,
        assumptions=_assumptions(settings, target, report, question, now, training, tuned),
    )
    return Estimated(
        name=name,
        report=report,
        question=question,
        target=target,
        hyperparameters=hyperparameters,
        prices=(tuned, now) if now else (tuned,),
        estimate=made,
        verdict=advise(_facts(report, target, made, today)),
    )


def find_target(providers: Sequence[ProviderRow], wanted: str | None) -> Target | Refusal:
    """'local/smollm2-135m', or a model's name where one provider has it; nothing said: the first of our own."""
    targets = [Target(row, model) for row in providers for model in row.models]
    if wanted is None:
        return targets[0] if targets else Refusal("No model to train is configured.")
    provider, slash, _ = wanted.partition("/")
    for target in targets:
        bare = wanted.removeprefix(f"{target.row.name}/")
        is_meant = not slash or provider == target.row.name or wanted == target.model.name
        if is_meant and bare in (target.model.name, *target.model.aliases):
            return target
    names = [target.name for target in targets]
    near = difflib.get_close_matches(wanted, [*names, *(t.model.name for t in targets)], n=1, cutoff=0.5)
    hint = (
        f"Did you mean `{near[0]}`?" if near else "There are " + ", ".join(f"`{one}`" for one in names) + "."
    )
    return Refusal(f"I know no model to train named `{wanted[:60]}`. {hint}")


def _price_today(settings: Settings, question: Question, today: date) -> PriceRow | Refusal | None:
    if question.current is None:
        return None
    found = prompted_price(question.current, settings.providers, settings.prices, today)
    return Refusal(found.sentence) if isinstance(found, UnknownPrice) else found


def _hyperparameters(
    target: Target, report: Report, question: Question
) -> tuple[tuple[str, Hyperparameter], ...]:
    provider = target.row.provider
    chosen = hyperparameters_for(
        report.n_train,
        question.epochs,
        takes_lora=provider.can("extra_hyperparameters"),
        defaults=target.row.defaults,
    )
    return tuple(sorted(sent_hyperparameters(provider, dict(chosen)).items()))


def _training(
    settings: Settings,
    target: Target,
    report: Report,
    hyperparameters: dict[str, Hyperparameter],
    tuned: PriceRow,
    today: date,
) -> Training:
    epochs = int(hyperparameters["n_epochs"])
    seconds = HOSTED_SECONDS
    if target.model.usd_per_hour is not None:
        expected = Decimal(report.tokens.train * epochs) / settings.trainer.tokens_per_second + 20
        seconds = (int(expected / SPREAD), int(expected), int(expected * SPREAD))
    return Training(
        tokens=report.tokens.train,
        epochs=epochs,
        usd_per_million=tuned.price.training,
        usd_per_hour=target.model.usd_per_hour,
        seconds=seconds,
        evaluation_usd=_evaluation_usd(settings, target, report, tuned.price, today),
    )


def _evaluation_usd(settings: Settings, target: Target, report: Report, tuned: Price, today: date) -> Decimal:
    """Both models answer every held-out row once."""
    if target.model.usd_per_hour is not None:
        return Decimal(0)
    base = prompted_price(
        target.model.base_name or target.model.name, settings.providers, settings.prices, today
    )
    shape, rows = _shape(report), report.n_holdout
    asked = _answers_usd(rows, shape.prompt_tuned, shape.answer, tuned)
    if isinstance(base, PriceRow):
        asked += _answers_usd(rows, shape.prompt_now, shape.answer, base.price)
    return asked


def _answers_usd(rows: int, prompt: Decimal, answer: Decimal, price: Price) -> Decimal:
    return rows * (prompt * (price.input or 0) + answer * (price.output or 0)) / 1_000_000


def _shape(report: Report) -> Shape:
    counted = report.tokens
    return Shape(
        prompt_now=_tokens(counted.prompted_mean),
        prompt_tuned=_tokens(counted.prompt_mean),
        answer=_tokens(counted.answer_mean),
    )


def _tokens(mean: float) -> Decimal:
    return Decimal(str(round(mean, 2)))


def _facts(report: Report, target: Target, made: Estimate, today: date) -> Facts:
    payback_days = float(made.payback_months * Decimal("30.4")) if made.payback_months else None
    return Facts(
        rows=report.rows,
        n_holdout=report.n_holdout,
        smallest_label=report.labels[-1].rows if report.labels else None,
        target=model_verdict(target.row, target.model, today, payback_days),
        estimate=made,
    )


def _assumptions(
    settings: Settings,
    target: Target,
    report: Report,
    question: Question,
    now: PriceRow | None,
    training: Training,
    tuned: PriceRow,
) -> tuple[Assumption, ...]:
    """Everything that was not measured or said, and what was measured where."""
    shape = _shape(report)
    made = [
        Assumption("epochs", str(training.epochs), "passes over the training rows; `epochs=` changes it"),
        Assumption(
            "tokens a request",
            f"{shape.prompt_now:.0f} in today, {shape.prompt_tuned:.0f} in tuned, {shape.answer:.1f} out",
            f"measured on your rows with {report.tokens.encoding}; a tuned model needs no list of labels",
        ),
        Assumption("people's time", "$0", "not counted: add the hours that labelling and upkeep take you"),
        Assumption("tuned price", _priced(tuned), tuned.said_by),
    ]
    if now and question.volume:
        made.append(Assumption("today's price", _priced(now), now.said_by))
        made.append(
            Assumption(
                "volume",
                f"{tokens(question.volume)} input tokens a month",
                "as you said; output comes on top",
            )
        )
        made.append(Assumption("caching and batches", "not used", "both would lower today's bill as well"))
    if target.model.usd_per_hour is not None:
        made.append(
            Assumption(
                "machine",
                f"{usd(target.model.usd_per_hour)} an hour",
                "730 hours a month; usd_per_hour in finetune.toml",
            )
        )
        made.append(
            Assumption(
                "speed",
                f"{settings.trainer.tokens_per_second} tokens a second, half to twice that",
                "SmolLM2-135M on two CPU cores; tokens_per_second in finetune.toml, [trainer]",
            )
        )
    else:
        made.append(Assumption("time", "10 minutes to 2 hours", "a hosted service's queue decides"))
    return tuple(made)


def _priced(row: PriceRow) -> str:
    if row.usd_per_hour is not None:
        return f"tokens are free, the machine costs {usd(row.usd_per_hour)} an hour"
    if row.price.input is None or row.price.output is None:
        return "unknown"
    return f"{rate(row.price.input)} in, {rate(row.price.output)} out"
