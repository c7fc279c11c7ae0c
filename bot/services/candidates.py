"""Finds the models that an evaluation asks, and their prices, by the names that people type."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from bot.cards.blocks import code
from bot.cards.words import SLACK, Spelling
from bot.command_options import NAMED_RUNGS
from bot.context import AppContext
from bot.rules.estimate_inputs import NO_JUDGE, Question
from bot.settings import Settings
from bot.values.evaluations import LadderPlan, SearchPlan
from bot.values.requests import Baseline
from bot.values.runs import ModelEnded, Refusal
from trainers.chat_parameters import split_effort
from trainers.dataset import Report
from trainers.evaluation.results import FREE_RUNGS, RungName
from trainers.evaluation.results import Candidate as MeasuredCandidate
from trainers.model_list import AT_LOW_EFFORT, find_listed, living_successors, without_effort
from trainers.money import to_micros
from trainers.pricing import PriceList, PriceRow, UnknownPrice, prompted_price, tuned_price
from trainers.providers import NEAR_THE_END, ProviderRow

OWN = "local"


@dataclass(frozen=True)
class Candidate:
    """A model to ask. `price.model` is its full name 'provider/model'."""

    row: ProviderRow
    price: PriceRow

    @property
    def name(self) -> str:
        return self.price.model

    @property
    def thinks(self) -> bool:
        """Whether it generates thinking tokens, which are paid, before its answer."""
        return self.row.thinks(self.name.split("/", 1)[1])


@dataclass(frozen=True)
class LineUp:
    """What a ladder compares: the models, each way of asking them, the model that judges free text, the one that writes
    better prompts, and the encoder."""

    models: tuple[Candidate, ...]
    arms: tuple[MeasuredCandidate, ...]
    encoder: str
    judge: Candidate | None = None
    writer: Candidate | None = None

    @property
    def all_models(self) -> tuple[Candidate, ...]:
        """All models that rows are sent to."""
        more = [model for model in (self.judge, self.writer) if model and model not in self.models]
        return (*self.models, *(model for at, model in enumerate(more) if model not in more[:at]))

    def plan(
        self,
        dataset: str,
        version: int,
        report: Report,
        today: date,
        *,
        prompt: str | None,
        bar: float,
        documents: tuple[str, ...] = (),
        withheld_from: tuple[str, ...] = (),
        optimise: Decimal | None = None,
        optimised: str | None = None,
        chooses_shots: bool = False,
    ) -> LadderPlan:
        """`optimise`: dollars for a search for a better prompt for the first model, which writes it where no other
        does."""
        first = self.models[0].name if self.models else ""
        writer = self.writer.name if self.writer else first
        return LadderPlan(
            dataset=dataset,
            version=version,
            task=report.task,
            train_sha256=str(report.train_sha256),
            holdout_sha256=str(report.holdout_sha256),
            n_holdout=report.n_holdout,
            labels=tuple(sorted(count.label for count in report.labels)),
            arms=self.arms,
            prompt=prompt,
            bar=bar,
            documents=documents,
            prices=PriceList(tuple(model.price for model in self.all_models), today).to_json(),
            withheld_from=withheld_from,
            judge=self.judge.name if self.judge else None,
            thinking=tuple(model.name for model in self.all_models if model.thinks),
            search=SearchPlan(first, writer, to_micros(optimise)) if optimise else None,
            optimised=optimised,
            chooses_shots=chooses_shots,
            encoder=self.encoder if any(arm.rung in ("encoder", "retrieval") for arm in self.arms) else "",
            longest_answer=report.tokens.answer_most,
        )


def line_up(
    settings: Settings,
    reachable: Collection[str],
    command: Baseline,
    report: Report,
    today: date,
    spelling: Spelling = SLACK,
    *,
    has_prompt: bool = False,
) -> LineUp | Refusal:
    """Returns what the command asks to compare. `reachable`: the names of providers with a key. `has_prompt`: the
    dataset has an optimised prompt."""
    models: tuple[Candidate, ...] | Refusal = ()
    if not is_free(command.rungs) or command.optimise:
        models = _find(settings, reachable, command.models, today)
    if isinstance(models, Refusal):
        return models
    rungs = _rungs_of(command, spelling, has_prompt=has_prompt)
    if isinstance(rungs, Refusal):
        return rungs
    arms = _arms_of(rungs, report, models, spelling, command.shots or None)
    if isinstance(arms, Refusal):
        return arms
    writer = _candidate(settings, reachable, command.writer, today) if command.writer else None
    if isinstance(writer, Refusal):
        return replace(writer, about="writer")
    judge = find_judge(settings, reachable, command.judge, report, today, spelling)
    return judge if isinstance(judge, Refusal) else LineUp(models, arms, settings.encoder, judge, writer)


def find_judge(
    settings: Settings,
    reachable: Collection[str],
    wanted: str | None,
    report: Report,
    today: date,
    spelling: Spelling = SLACK,
) -> Candidate | Refusal | None:
    """Returns the model that is to judge free text, None if none is wanted."""
    if wanted is None:
        return None
    if report.task == "labels":
        option = spelling.option("judge")
        return Refusal(
            f"Labels need no judge: an answer is the label or it is not. Leave `{option}` out; it is for free text.",
            "judge",
        )
    judge = _candidate(settings, reachable, wanted, today)
    return replace(judge, about="judge") if isinstance(judge, Refusal) else judge


def find_run_judge(
    settings: Settings,
    reachable: Collection[str] | None,
    question: Question,
    usual: str | None,
    report: Report,
    today: date,
) -> Candidate | Refusal | None:
    """Returns the model that is to judge a tuned model: the one that is asked for, else the `usual` one where it can
    still be asked."""
    if question.judge == NO_JUDGE:
        return None
    names = [row.name for row in settings.providers] if reachable is None else reachable
    if question.judge is not None:
        return find_judge(settings, names, question.judge, report, today)
    judge = find_judge(settings, names, usual, report, today)
    return None if isinstance(judge, Refusal) else judge


def is_free(rungs: Collection[RungName]) -> bool:
    """Whether these rungs ask no model. Without any, all are meant."""
    return bool(rungs) and set(rungs) <= set(FREE_RUNGS)


def refuse_ended_model(price: PriceRow, wanted: str, about: str | None = None) -> ModelEnded:
    """Refuses a model that has ended; `price` is its row."""
    instead = f"Its maker names {code(price.successor)} instead." if price.successor else "Choose another."
    return ModelEnded(
        f"{code(wanted[:80])} ended on {price.ends}: it does not answer any more. {instead}", about
    )


def own_models(settings: Settings, reachable: Collection[str]) -> tuple[str, ...]:
    row = settings.provider(OWN)
    if row is None or OWN not in reachable:
        return ()
    return tuple(f"{OWN}/{model.name}" for model in row.models if not model.is_encoder)


def providers_without_key(settings: Settings, reachable: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Returns the providers that can't be asked here, each with the variable that its key goes into."""
    rows = (row for row in settings.providers if row.name not in reachable)
    return tuple((row.name, row.provider.variables) for row in rows if row.provider.variables)


def full_name(settings: Settings, current: str | None) -> str | None:
    """Returns 'openai/gpt-4o-2024-08-06' for 'gpt-4o', as a ladder names it, None if no provider has it."""
    place = _placed(settings, (), current) if current else None
    return None if place is None or isinstance(place, Refusal) else f"{place[0].name}/{place[1]}"


def suggest_models(
    settings: Settings, current: str | None, today: date, reachable: Collection[str] = ()
) -> tuple[str, ...]:
    """Returns today's model by its full name, and the cheapest capable one if that costs less, for `models=`. Rows go
    to no other vendor than today's, unless nobody said one that we can ask: then to a `reachable` one."""
    place = _placed(settings, (), current) if current else None
    if current is None or place is None or isinstance(place, Refusal):
        cheap = cheapest_capable(settings, reachable, today)
        return at_each_effort(cheap.model) if cheap else ()
    row = place[0]
    todays = current.removeprefix(f"{row.name}/")
    paid, cheap = price_of(settings, row, todays, today), cheapest_capable(settings, (row.name,), today)
    if cheap is None or isinstance(paid, UnknownPrice) or _cost(paid) <= _cost(cheap):
        return (f"{row.name}/{todays}",)
    return (f"{row.name}/{todays}", *at_each_effort(cheap.model))


def cheapest_capable(settings: Settings, sellers: Collection[str], today: date) -> PriceRow | None:
    """Returns the cheapest model of these providers that its maker names as another one's successor, or that can be
    tuned, and that does not end soon. Models on machines of our own are not meant: they have no price a token."""
    rows = [row for row in settings.providers if row.name in sellers and row.name != OWN]
    named = [(row, model.name) for row in rows for model in living_successors(row.name, today)]
    tuned = [(row, model.aliases[0] if model.aliases else model.name) for row in rows for model in row.models]
    prices = [(f"{row.name}/{name}", price_of(settings, row, name, today)) for row, name in (*named, *tuned)]
    living = [
        replace(price, model=name)
        for name, price in prices
        if isinstance(price, PriceRow) and price.usd_per_hour is None and price.price.input is not None
        if price.ends is None or price.ends - today > NEAR_THE_END
    ]
    return min(living, key=_cost, default=None)


def _cost(price: PriceRow) -> tuple[Decimal, ...]:
    """Ranks a price by input first: prompts are longer than answers here. What has no price comes last."""
    parts = (price.price.input, price.price.output)
    return tuple(Decimal("Infinity") if part is None else part for part in parts)


def at_each_effort(name: str) -> tuple[str, ...]:
    """Returns the model as it is asked here, without thinking, and at a low effort as well, if it takes both."""
    at_low = f"{name}{AT_LOW_EFFORT}"
    return (name, at_low) if split_effort(at_low)[1] else (name,)


def price_of(settings: Settings, row: ProviderRow, name: str, today: date) -> PriceRow | UnknownPrice:
    """Looks the price up by the full name, then by the name that price lists use. Our own machines charge nothing for a
    request."""
    full, model = f"{row.name}/{name}", row.model(name) or row.on_its_machine(without_effort(name))
    if model and (row.name == OWN or model.usd_per_hour is not None):
        return tuned_price(row, model)
    own = settings.prices
    price_row = prompted_price(full, settings.providers, own, today)
    if isinstance(price_row, UnknownPrice) and (
        model or any(price.model.lower() == name.lower() for price in own)
    ):
        listed = (model.base_name if model else None) or without_effort(name)
        by_name = prompted_price(listed, settings.providers, own, today)
        price_row = price_row if isinstance(by_name, UnknownPrice) else by_name
    return price_row


def _find(
    settings: Settings, reachable: Collection[str], names: Sequence[str], today: date
) -> tuple[Candidate, ...] | Refusal:
    """Returns the models with these names, or the base models of our own trainer if there are no names."""
    candidates_by_name: dict[str, Candidate] = {}
    for name in names or own_models(settings, reachable):
        candidate = _candidate(settings, reachable, name, today)
        if isinstance(candidate, Refusal):
            return candidate
        candidates_by_name[candidate.name] = candidate
    return tuple(candidates_by_name.values())


def _rungs_of(command: Baseline, spelling: Spelling, *, has_prompt: bool) -> tuple[RungName, ...] | Refusal:
    """Returns the rungs. An optimised prompt is held against the one that is there, and measured once it is found."""
    rungs = command.rungs or tuple(rung for rung in NAMED_RUNGS if has_prompt or rung != "optimised")
    if command.optimise:
        return tuple(rung for rung in NAMED_RUNGS if rung in {*rungs, "zero"} - {"optimised"})
    if "optimised" in rungs and not has_prompt:
        option = spelling.option("optimise", "2")
        return Refusal(f"This dataset has no optimised prompt yet: `{option}` looks for one, for up to $2.")
    return rungs


def _arms_of(
    rungs: Sequence[RungName],
    report: Report,
    models: Sequence[Candidate],
    spelling: Spelling,
    shots: int | None,
) -> tuple[MeasuredCandidate, ...] | Refusal:
    """Returns the candidates rung by rung. The free rungs need labels; the others need a model."""
    has_labels = report.task == "labels"
    if is_free(rungs) and not has_labels:
        names = " and ".join(rungs)
        return Refusal(
            f"What needs no model to ask ({names}) sorts into labels, and this dataset's answers are free text."
        )
    arms: list[MeasuredCandidate] = []
    for rung in rungs:
        if rung in FREE_RUNGS:
            arms += [MeasuredCandidate(rung)] if has_labels else []
        else:
            count = shots if rung == "kshot" else None
            arms += [MeasuredCandidate(rung, model.name, count) for model in models]
    if not arms:
        return Refusal(
            f"There is no model to ask: name some, like `{spelling.option('models', 'openai/gpt-4o-mini')}`, or put "
            "models of your own under [trainer.models] in finetune.toml."
        )
    return tuple(arms)


def encoder_target(settings: Settings, reachable: Collection[str]) -> str | None:
    """Returns what is trained where the rung encoder is to be used."""
    rows = [row for row in settings.providers if row.name in reachable]
    return next(
        (f"{row.name}/{model.name}" for row in rows for model in row.models if model.is_encoder), None
    )


def _candidate(
    settings: Settings, reachable: Collection[str], wanted: str, today: date
) -> Candidate | Refusal:
    place = _placed(settings, reachable, wanted)
    if isinstance(place, Refusal):
        return place
    row, name = place
    if row.name not in reachable:
        return Refusal(
            f"There is no key for {row.title}, so {code(wanted[:80])} can't be asked: "
            f"set {row.provider.variables} where the bot runs."
        )
    price, model = price_of(settings, row, name, today), row.model(name)
    if model and model.is_encoder:
        return Refusal(
            f"{code(wanted[:80])} is an encoder, which answers no prompt: leave it out. The rung `encoder` measures it."
        )
    if model and model.has_ended(today) and isinstance(price, UnknownPrice):
        price = tuned_price(row, model)
    if isinstance(price, PriceRow) and price.has_ended(today):
        return refuse_ended_model(price, wanted)
    if isinstance(price, UnknownPrice):
        near = f" Did you mean {' or '.join(map(code, price.nearest[:3]))}?" if price.nearest else ""
        safe = "".join(letter for letter in name if letter.isprintable() and letter not in '`<>&"')[:80]
        return Refusal(
            f"I know no price for {code(wanted[:80])}, and nothing is asked whose cost is unknown.{near} "
            f'If the name is right, put its price into finetune.toml under `[prices."{row.name}/{safe}"]`, '
            'as `input = "…"` and `output = "…"` in USD per 1M tokens.'
        )
    return Candidate(row, replace(price, model=f"{row.name}/{name}"))


def _placed(settings: Settings, reachable: Collection[str], wanted: str) -> tuple[ProviderRow, str] | Refusal:
    """Returns the provider, and the model's name there."""
    rows = settings.providers
    provider, slash, bare = wanted.partition("/")
    row = settings.provider(provider.lower()) if slash else None
    if row is None:
        bare = without_effort(wanted)
        offers = [(row, model.name) for row in rows if (model := row.model(wanted))]
        offers += [(row, wanted) for row in rows if find_listed(bare, row.name) and not row.model(wanted)]
        if not offers:
            return _unknown(rows, wanted)
        return min(offers, key=lambda offer: offer[0].name not in reachable)
    model_row = row.model(bare)
    if model_row is None and (row.name == OWN or not bare):
        return _unknown(rows, wanted)
    return row, (model_row.name if model_row and bare in model_row.aliases else bare)


def _unknown(rows: Sequence[ProviderRow], wanted: str) -> Refusal:
    names = [f"{row.name}/{model.name}" for row in rows for model in row.models if not model.is_encoder]
    near = difflib.get_close_matches(wanted, names, n=2, cutoff=0.5)
    either = " or ".join(code(name) for name in near)
    there = ", ".join(code(f"{row.name}/…") for row in rows)
    hint = f"Did you mean {either}?" if near else f"A model is named with its provider: {there}."
    return Refusal(f"I know no model {code(wanted[:80])}. {hint}")


def look_up_prices(context: AppContext, names: Sequence[str]) -> list[PriceRow | UnknownPrice]:
    """Returns the prices of asking these models. Without names: our own prices, then each configured model untuned and
    tuned, first of the providers that can be asked here."""
    if names:
        return [_price_named(context, name) for name in names]
    rows: list[PriceRow | UnknownPrice] = list(context.settings.prices)
    today = context.today()
    for provider in sorted(context.settings.providers, key=lambda row: row.name not in context.trainers):
        for model in provider.models:
            row = price_of(context.settings, provider, model.name, today)
            tuned = tuned_price(provider, model)
            rows += [tuned] if isinstance(row, UnknownPrice) or row == tuned else [row, tuned]
    return rows


def _price_named(context: AppContext, name: str) -> PriceRow | UnknownPrice:
    provider, slash, bare = name.partition("/")
    row = context.settings.provider(provider) if slash else None
    if row is not None:
        return price_of(context.settings, row, bare, context.today())
    return prompted_price(name, context.settings.providers, context.settings.prices, context.today())
