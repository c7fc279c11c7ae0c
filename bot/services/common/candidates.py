"""Finds the models that an evaluation asks, and their prices, by the names that people type."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from bot.cards.common.blocks import code
from bot.cards.common.candidates import answers_name
from bot.cards.common.words import SLACK, Spelling
from bot.command_options import NAMED_KINDS
from bot.context import AppContext
from bot.rules.estimate_inputs import NO_JUDGE, Question
from bot.settings import Settings
from bot.values.evaluations import ComparisonPlan, SearchPlan
from bot.values.requests import Baseline
from bot.values.runs import ModelEnded, Refusal
from bot.values.targets import PricedModel
from trainers.dataset import Report
from trainers.evaluation.results import FREE_KINDS, Candidate, CandidateKind
from trainers.models.chat_parameters import split_effort
from trainers.models.model_list import (
    LOW_EFFORT_SUFFIX,
    available_successors,
    find_listed_model,
    strip_effort,
)
from trainers.money import to_micros
from trainers.providers.pricing import PriceList, PriceRow, UnknownPrice, find_prompted_price, tuned_price
from trainers.providers.providers import NEAR_THE_END, ProviderRow

OWN = "local"


@dataclass(frozen=True)
class LineUp:
    """What a comparison compares: `models`, and in `candidates` each way of asking them. `judge` scores free text,
    `writer` proposes better prompts."""

    models: tuple[PricedModel, ...]
    candidates: tuple[Candidate, ...]
    encoder: str
    judge: PricedModel | None = None
    writer: PricedModel | None = None

    @property
    def all_models(self) -> tuple[PricedModel, ...]:
        """Every model that rows are sent to, once."""
        models = list(self.models)
        for model in (self.judge, self.writer):
            if model and model not in models:
                models.append(model)
        return tuple(models)

    def plan(
        self,
        dataset: str,
        version: int,
        report: Report,
        today: date,
        *,
        prompt: str | None,
        bar: float,
        is_bar_set: bool | None = None,
        documents: tuple[str, ...] = (),
        withheld_from: tuple[str, ...] = (),
        optimise: Decimal | None = None,
        optimised: str | None = None,
        chooses_shots: bool = False,
    ) -> ComparisonPlan:
        """`optimise` is the budget in USD of a search for a better prompt for the first model; without a `writer` that
        model also writes the prompts."""
        search = None
        if optimise:
            first = self.models[0].name
            writer = self.writer.name if self.writer else first
            search = SearchPlan(first, writer, to_micros(optimise))
        encoder = ""
        if any(candidate.kind in ("encoder", "retrieval") for candidate in self.candidates):
            encoder = self.encoder
        prices = PriceList(tuple(model.price for model in self.all_models), today)
        return ComparisonPlan(
            dataset=dataset,
            version=version,
            task=report.task,
            train_sha256=str(report.train_sha256),
            holdout_sha256=str(report.holdout_sha256),
            n_holdout=report.n_holdout,
            labels=tuple(sorted(count.label for count in report.labels)),
            candidates=self.candidates,
            prompt=prompt,
            bar=bar,
            is_bar_set=is_bar_set,
            documents=documents,
            prices=prices.to_json(),
            withheld_from=withheld_from,
            judge=self.judge.name if self.judge else None,
            thinking=tuple(model.name for model in self.all_models if model.thinks),
            search=search,
            optimised=optimised,
            chooses_shots=chooses_shots,
            encoder=encoder,
            longest_answer=report.tokens.answer_most,
            scoring=report.scoring,
            floor=report.floor,
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
    """Returns the comparison that the command asks for. `reachable` are the names of the providers with a key;
    `has_prompt` is True if the dataset already has an optimised prompt."""
    models: tuple[PricedModel, ...] | Refusal = ()
    if not is_free(command.kinds) or command.optimise:
        models = _find_models(settings, reachable, command.models, today)
    if isinstance(models, Refusal):
        return models
    if command.optimise and not models:
        return _no_model(spelling)
    kinds = _choose_kinds(command, spelling, has_prompt=has_prompt)
    if isinstance(kinds, Refusal):
        return kinds
    candidates = _build_candidates(kinds, report, models, spelling, command.shots or None)
    if isinstance(candidates, Refusal):
        return candidates
    writer: PricedModel | Refusal | None = None
    if command.writer:
        writer = find_model(settings, reachable, command.writer, today)
    if isinstance(writer, Refusal):
        return replace(writer, about="writer")
    judge = find_judge(settings, reachable, command.judge, report, today, spelling)
    if isinstance(judge, Refusal):
        return judge
    return LineUp(models, candidates, settings.encoder, judge, writer)


def find_judge(
    settings: Settings,
    reachable: Collection[str],
    wanted: str | None,
    report: Report,
    today: date,
    spelling: Spelling = SLACK,
) -> PricedModel | Refusal | None:
    """Returns the model that judges free text, None if the person named none."""
    if wanted is None:
        return None
    if report.task == "labels":
        option = spelling.option("judge")
        return Refusal(
            f"Labels need no judge: an answer either is the label or is not. Leave out `{option}`, which is for free "
            "text.",
            "judge",
        )
    judge = find_model(settings, reachable, wanted, today)
    if isinstance(judge, Refusal):
        return replace(judge, about="judge")
    return judge


def find_run_judge(
    settings: Settings,
    reachable: Collection[str] | None,
    question: Question,
    usual: str | None,
    report: Report,
    today: date,
) -> PricedModel | Refusal | None:
    """Returns the judge of a tuned model's free text: the one that the question names, else the `usual` one if it can
    still be asked. None: no judge."""
    if question.judge == NO_JUDGE:
        return None
    if reachable is None:
        reachable = [row.name for row in settings.providers]
    if question.judge is not None:
        return find_judge(settings, reachable, question.judge, report, today)
    judge = find_judge(settings, reachable, usual, report, today)
    if isinstance(judge, Refusal):  # nobody asked for it by name, so there is nobody to refuse
        return None
    return judge


def is_free(kinds: Collection[CandidateKind]) -> bool:
    """True if these kinds ask no model. No kinds at all means every kind."""
    return bool(kinds) and set(kinds) <= set(FREE_KINDS)


def refuse_ended_model(price: PriceRow, wanted: str, about: str | None = None) -> ModelEnded:
    """Returns the refusal of a model that its vendor has shut down; `price` is its row."""
    instead = "Choose another model."
    if price.successor:
        instead = f"Its maker recommends {code(price.successor)} instead."
    return ModelEnded(
        f"{code(wanted[:80])} was shut down on {price.ends} and no longer answers. {instead}", about
    )


def own_models(settings: Settings, reachable: Collection[str]) -> tuple[str, ...]:
    """Returns the full names of the chat models that our own trainer serves."""
    row = settings.provider(OWN)
    if row is None or OWN not in reachable:
        return ()
    return tuple(f"{OWN}/{model.name}" for model in row.models if not model.is_encoder)


def providers_without_key(settings: Settings, reachable: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Returns (provider, environment variables for its key) for each provider that has no key here."""
    rows = (row for row in settings.providers if row.name not in reachable)
    return tuple((row.name, row.provider.variables) for row in rows if row.provider.variables)


def full_name(settings: Settings, current: str | None) -> str | None:
    """Returns a model's name as a comparison stores it, 'openai/gpt-4o-2024-08-06' for 'gpt-4o'; None if no provider
    has it."""
    if not current:
        return None
    seller = _find_provider(settings, (), current)
    if isinstance(seller, Refusal):
        return None
    row, name = seller
    return f"{row.name}/{name}"


def is_meant(
    settings: Settings, candidate: Candidate, kind: CandidateKind | None, model: str | None, shots: int | None
) -> bool:
    """True if somebody who names a kind of candidate means this one. They may name its model and number of examples,
    too."""
    if candidate.kind != kind:
        return False
    if shots is not None and candidate.examples != shots:
        return False
    if model is None:
        return True
    return candidate.model in (model, full_name(settings, model))


def suggest_models(
    settings: Settings, current: str | None, today: date, reachable: Collection[str] = ()
) -> tuple[str, ...]:
    """Returns the models to measure next, by their full names, as values for `models=`: today's model and, if it costs
    less, the cheapest capable one of the same vendor, so that rows go to no vendor that has not seen them. Without a
    known `current` model: the cheapest capable one of the `reachable` providers."""
    seller = None
    if current:
        seller = _find_provider(settings, (), current)
    if not current or seller is None or isinstance(seller, Refusal):
        cheap = cheapest_capable(settings, reachable, today)
        if cheap is None:
            return ()
        return at_each_effort(cheap.model)

    row, _ = seller
    # the name as it was typed, not the dated one that an alias stands for: people recognise it
    provider, _, bare = current.partition("/")
    todays = bare if provider.lower() == row.name else current
    paid = price_of(settings, row, todays, today)
    cheap = cheapest_capable(settings, (row.name,), today)
    if cheap is None or isinstance(paid, UnknownPrice) or _price_rank(paid) <= _price_rank(cheap):
        return (f"{row.name}/{todays}",)
    return (f"{row.name}/{todays}", *at_each_effort(cheap.model))


def cheapest_capable(settings: Settings, sellers: Collection[str], today: date) -> PriceRow | None:
    """Returns the cheapest model of these providers that is capable, and is not shut down soon."""
    living = [
        price
        for price in capable_models(settings, sellers, today)
        if price.ends is None or price.ends - today > NEAR_THE_END
    ]
    return min(living, key=_price_rank, default=None)


def capable_models(settings: Settings, sellers: Collection[str], today: date) -> list[PriceRow]:
    """Returns the prices of the models of these providers that are capable, by their full names. A model counts as
    capable if its maker names it as another one's successor, or if it can be tuned. Models without a price per token,
    such as those on our own machines, are left out."""
    rows = [row for row in settings.providers if row.name in sellers and row.name != OWN]
    capable = [(row, model.name) for row in rows for model in available_successors(row.name, today)]
    for row in rows:
        for model in row.models:
            name = model.aliases[0] if model.aliases else model.name
            capable.append((row, name))
    priced = []
    for row, name in capable:
        price = price_of(settings, row, name, today)
        if isinstance(price, UnknownPrice) or price.usd_per_hour is not None or price.price.input is None:
            continue
        priced.append(replace(price, model=f"{row.name}/{name}"))
    return priced


def _price_rank(price: PriceRow) -> tuple[Decimal, ...]:
    """Ranks by the price of input first, since prompts are longer than answers here. An unknown price ranks last."""
    parts = (price.price.input, price.price.output)
    return tuple(Decimal("Infinity") if part is None else part for part in parts)


def at_each_effort(name: str) -> tuple[str, ...]:
    """Returns the model's name, and its name at low thinking effort too if it can think."""
    at_low = f"{name}{LOW_EFFORT_SUFFIX}"
    _, effort = split_effort(at_low)
    if not effort:
        return (name,)
    return name, at_low


def price_of(settings: Settings, row: ProviderRow, name: str, today: date) -> PriceRow | UnknownPrice:
    """Looks up the price of asking a model. A request to one of our own machines costs nothing."""
    model = row.model(name) or row.unlisted_model(strip_effort(name))
    if model and (row.name == OWN or model.usd_per_hour is not None):
        return tuned_price(row, model)
    return find_prompted_price(f"{row.name}/{name}", settings.providers, settings.prices, today)


def _find_models(
    settings: Settings, reachable: Collection[str], names: Sequence[str], today: date
) -> tuple[PricedModel, ...] | Refusal:
    """Returns the models with these names; without names, the base models of our own trainer."""
    models_by_name: dict[str, PricedModel] = {}
    for name in names or own_models(settings, reachable):
        model = find_model(settings, reachable, name, today)
        if isinstance(model, Refusal):
            return model
        models_by_name[model.name] = model
    return tuple(models_by_name.values())


def _choose_kinds(
    command: Baseline, spelling: Spelling, *, has_prompt: bool
) -> tuple[CandidateKind, ...] | Refusal:
    """Returns the kinds to measure. A search for a better prompt compares it with the plain one, so that is included;
    the search adds the optimised one once it has found it."""
    usual = NAMED_KINDS
    if not has_prompt:
        usual = tuple(kind for kind in NAMED_KINDS if kind != "optimised")
    kinds = command.kinds or usual
    if command.optimise:
        compared = {*kinds, "zero"} - {"optimised"}
        return tuple(kind for kind in NAMED_KINDS if kind in compared)
    if "optimised" in kinds and not has_prompt:
        option = spelling.option("optimise", "2")
        return Refusal(
            f"This dataset has no optimised prompt yet: `{option}` searches for one, for up to $2."
        )
    return kinds


def _build_candidates(
    kinds: Sequence[CandidateKind],
    report: Report,
    models: Sequence[PricedModel],
    spelling: Spelling,
    shots: int | None,
) -> tuple[Candidate, ...] | Refusal:
    """Returns the candidates, kind by kind. The free kinds need labels or JSON objects; the others need a model."""
    if is_free(kinds) and not report.has_free_candidates:
        return Refusal(
            f"`{spelling.option('candidates', ','.join(kinds))}` can answer with labels or with JSON objects, and this "
            f"dataset's answers are {answers_name(report)}. Measure one that asks a model, like "
            f"`{spelling.option('candidates', 'zero')}`."
        )
    candidates: list[Candidate] = []
    for kind in kinds:
        if kind not in FREE_KINDS:
            count = shots if kind == "kshot" else None
            candidates += [Candidate(kind, model.name, count) for model in models]
        elif report.has_free_candidates:
            candidates.append(Candidate(kind))
    return tuple(candidates) or _no_model(spelling)


def _no_model(spelling: Spelling) -> Refusal:
    return Refusal(
        f"There is no model to ask: name some, like `{spelling.option('models', 'openai/gpt-4o-mini')}`, or put "
        "models of your own under [trainer.models] in finetune.toml."
    )


def encoder_target(settings: Settings, reachable: Collection[str]) -> str | None:
    """Returns the full name of the first encoder that can be trained here, None if there is none. It is what to train
    when the candidate `encoder` wins."""
    for row in settings.providers:
        if row.name not in reachable:
            continue
        for model in row.models:
            if model.is_encoder:
                return f"{row.name}/{model.name}"
    return None


def find_model(
    settings: Settings, reachable: Collection[str], wanted: str, today: date
) -> PricedModel | Refusal:
    """Returns a model that can be asked now, or why it can't: no key, its end, an unknown price."""
    seller = _find_provider(settings, reachable, wanted)
    if isinstance(seller, Refusal):
        return seller
    row, name = seller
    if row.name not in reachable:
        return Refusal(
            f"There is no key for {row.title}, so {code(wanted[:80])} can't be asked: "
            f"set {row.provider.variables} where the bot runs."
        )
    price = price_of(settings, row, name, today)
    model = row.model(name)
    if model and model.is_encoder:
        return Refusal(
            f"{code(wanted[:80])} is an encoder, which can't be prompted. Leave it out: the candidate `encoder` "
            "measures it."
        )
    # Without this, a model that no list has any more would be called unknown instead of ended.
    if model and model.has_ended(today) and isinstance(price, UnknownPrice):
        price = tuned_price(row, model)
    if isinstance(price, PriceRow) and price.has_ended(today):
        return refuse_ended_model(price, wanted)
    if isinstance(price, UnknownPrice):
        return _unknown_price(row, name, wanted, price.nearest)
    return PricedModel(row, replace(price, model=f"{row.name}/{name}"))


def _unknown_price(row: ProviderRow, name: str, wanted: str, nearest: Sequence[str]) -> Refusal:
    near = ""
    if nearest:
        names = " or ".join(map(code, nearest[:3]))
        near = f" Did you mean {names}?"
    # the name stands in code that people copy, so nothing in it may end the code
    safe = "".join(letter for letter in name if letter.isprintable() and letter not in '`<>&"')
    return Refusal(
        f"I know no price for {code(wanted[:80])}, and I ask no model whose cost is unknown.{near} "
        f'If the name is right, put its price into finetune.toml under `[prices."{row.name}/{safe[:80]}"]`, '
        'as `input = "…"` and `output = "…"` in USD per 1M tokens.'
    )


def _find_provider(
    settings: Settings, reachable: Collection[str], wanted: str
) -> tuple[ProviderRow, str] | Refusal:
    """Returns the provider of a model, and the model's name there. A name without a provider goes to a `reachable` one
    if several have it."""
    provider, slash, bare = wanted.partition("/")
    row = None
    if slash:
        row = settings.provider(provider.lower())
    if row is None:
        return _find_seller(settings.providers, reachable, wanted)
    model = row.model(bare)
    if model is None and (row.name == OWN or not bare):
        return _unknown_model(settings.providers, wanted)
    if model and bare in model.aliases:
        return row, model.name
    return row, bare


def _find_seller(
    rows: Sequence[ProviderRow], reachable: Collection[str], wanted: str
) -> tuple[ProviderRow, str] | Refusal:
    """Like `_find_provider`, for a name without a provider."""
    configured: list[tuple[ProviderRow, str]] = []
    listed: list[tuple[ProviderRow, str]] = []
    for row in rows:
        model = row.model(wanted)
        if model:
            configured.append((row, model.name))
        elif find_listed_model(strip_effort(wanted), row.name):
            listed.append((row, wanted))
    offers = configured + listed
    if not offers:
        return _unknown_model(rows, wanted)
    return min(offers, key=lambda offer: offer[0].name not in reachable)  # the first one with a key


def _unknown_model(rows: Sequence[ProviderRow], wanted: str) -> Refusal:
    names = []
    for row in rows:
        names += [f"{row.name}/{model.name}" for model in row.models if not model.is_encoder]
    near = difflib.get_close_matches(wanted, names, n=2, cutoff=0.5)
    if near:
        either = " or ".join(code(name) for name in near)
        return Refusal(f"I know no model {code(wanted[:80])}. Did you mean {either}?")
    prefixes = ", ".join(code(f"{row.name}/…") for row in rows)
    return Refusal(f"I know no model {code(wanted[:80])}. Put the provider before the name: {prefixes}.")


def look_up_prices(context: AppContext, names: Sequence[str]) -> list[PriceRow | UnknownPrice]:
    """Returns the prices of asking these models; the name of a provider stands for all of its models. Without names:
    the prices from finetune.toml, then each configured model untuned and tuned, those of providers with a key first."""
    rows: list[PriceRow | UnknownPrice] = []
    for name in names:
        provider = context.settings.provider(name)
        if provider is not None and provider.models:
            rows += _prices_at(context, provider)
        else:
            rows.append(_look_up_price(context, name))
    if names:
        return rows
    rows += context.settings.prices
    for provider in sorted(context.settings.providers, key=lambda row: row.name not in context.trainers):
        rows += _prices_at(context, provider)
    return rows


def _prices_at(context: AppContext, provider: ProviderRow) -> Iterator[PriceRow]:
    """Yields the price of each configured model, untuned and tuned."""
    for model in provider.models:
        untuned = price_of(context.settings, provider, model.name, context.today())
        tuned = tuned_price(provider, model)
        if isinstance(untuned, PriceRow) and untuned != tuned:
            yield untuned
        yield tuned


def _look_up_price(context: AppContext, name: str) -> PriceRow | UnknownPrice:
    provider, slash, bare = name.partition("/")
    if slash:
        row = context.settings.provider(provider)
        if row is not None:
            return price_of(context.settings, row, bare, context.today())
    return find_prompted_price(name, context.settings.providers, context.settings.prices, context.today())
