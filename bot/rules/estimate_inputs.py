"""The question that an estimate answers, and the figures that only a person can give, parsed from text and checked
against their bounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from bot.rules.units import Misread, Volume
from trainers.hyperparameters import Sweep
from trainers.methods import MethodName
from trainers.types import Hyperparameter

NO_JUDGE = "none"


@dataclass(frozen=True)
class Question:
    """What a person asked for. None means not given; bot/cards/decisions/assumptions.py lists the values used instead.

    - `current` is today's model, `volume` its requests or input tokens per month, `prompt_tokens` the input tokens of
      one request.
    - `target` is the model to train, 'provider/model'; `serve` is the provider that serves it by the token, if it isn't
      to answer where it is trained.
    - `people_hours` of work cost `people_rate` USD per hour; `label_count` rows still to be labelled cost `label_usd`
      each; one wrong answer costs `wrong_usd`; monitoring costs `monitoring_usd` per month.
    - It takes `runs` until one is good enough, and training is repeated every `retrain_months`.
    - The serving machine is up for `hosting_hours` per month and handles `serving_speed` tokens per second while busy,
      which is a share `utilisation` (0 to 1) of its time.
    - A share `batch_share` (0 to 1) of the requests can wait for a batch.
    - Training stops early after `patience` validations without improvement.
    - `hyperparameters` are those that the person chose, sorted by name; those in `sweep` have several values each, and
      every combination is one trial of the same training.
    - `judge` is the model that judges free text, NO_JUDGE for none.
    """

    current: str | None = None
    volume: Volume | None = None
    target: str | None = None
    serve: str | None = None
    people_hours: Decimal | None = None
    people_rate: Decimal | None = None
    label_count: int | None = None
    label_usd: Decimal | None = None
    wrong_usd: Decimal | None = None
    retrain_months: int | None = None
    hosting_hours: Decimal | None = None
    prompt_tokens: int | None = None
    batch_share: Decimal | None = None
    monitoring_usd: Decimal | None = None
    serving_speed: Decimal | None = None
    utilisation: Decimal | None = None
    runs: int | None = None
    patience: int | None = None
    hyperparameters: tuple[tuple[str, Hyperparameter], ...] = ()
    method: MethodName = "supervised"
    sweep: Sweep = ()
    judge: str | None = None

    @property
    def chosen(self) -> dict[str, Hyperparameter]:
        """The hyperparameters that a person chose, by name."""
        return dict(self.hyperparameters)


# What a team knows about its requests today, whatever is trained.
OF_REQUESTS = ("current", "volume", "prompt_tokens", "batch_share", "wrong_usd")
OF_THE_TEAM = (
    "target",
    "people_hours",
    "people_rate",
    "label_count",
    "label_usd",
    "retrain_months",
    "monitoring_usd",
    "judge",
)
# These make sense only for the target that they were given for.
OF_TARGET = ("serve", "hosting_hours", "serving_speed", "utilisation", "runs")
OF_TRAINING = ("method", "hyperparameters", "sweep", "patience")


def continue_shared(question: Question, shared: Question) -> Question:
    """Fills in what `question` leaves open from a shared estimate's question. What was typed stays. Settings of the
    training are taken over together, since half of them would be a training that nobody has seen."""
    filled = _fill_in(question, shared, (*OF_REQUESTS, *OF_THE_TEAM))
    if filled.target != shared.target:
        return filled
    filled = _fill_in(filled, shared, OF_TARGET)
    plain = Question()
    if any(getattr(question, name) != getattr(plain, name) for name in OF_TRAINING):
        return filled
    settings = {name: getattr(shared, name) for name in OF_TRAINING}
    return replace(filled, **settings)


def continue_plan(question: Question, planned: Question) -> Question:
    """Fills in what an earlier plan knew about the requests. Its target, its costs and its settings were for that
    training."""
    return _fill_in(question, planned, OF_REQUESTS)


def changed_fields(question: Question, filled: Question) -> tuple[str, ...]:
    """Returns the names of the fields that were filled in."""
    names = (*OF_REQUESTS, *OF_THE_TEAM, *OF_TARGET, *OF_TRAINING)
    changed = [name for name in names if getattr(question, name) != getattr(filled, name)]
    return tuple(changed)


def _fill_in(question: Question, earlier: Question, names: Sequence[str]) -> Question:
    missing = {}
    for name in names:
        if getattr(question, name) is None:
            missing[name] = getattr(earlier, name)
    return replace(question, **missing)


@dataclass(frozen=True)
class Figure:
    """A number that people type. `what` completes the sentence "I can't read … as"; the bounds are inclusive."""

    what: str
    example: str
    least: Decimal
    most: Decimal
    is_whole: bool = False

    def read(self, text: str) -> Decimal | Misread:
        """Parses text like '12', '$1,500', '0.5' or '20%' (which is 0.2)."""
        clean = text.strip().removeprefix("$").strip()
        shown = clean[:40] or "nothing"
        match = _NUMBER.fullmatch(clean)
        if match is None:
            return Misread(f"I can't read “{shown}” as {self.what}. Write a number like {self.example}.")
        value = Decimal(match["number"].replace(",", ""))
        if match["percent"]:
            value /= 100
        return self.check(value, shown) or value

    def check(self, value: Decimal, shown: str) -> Misread | None:
        """Returns what is wrong with the value, None if it is acceptable. `shown` is how the person wrote it."""
        if not self.least <= value <= self.most:
            between = f"{self.least.normalize():,f} to {self.most.normalize():,f}"
            return Misread(f"“{shown}” can't be {self.what}. Write a number from {between}.")
        if self.is_whole and value != int(value):
            return Misread(f"“{shown}” can't be {self.what}. Write a whole number like {self.example}.")
        return None


_NUMBER = re.compile(
    r"(?P<number>-?(?:\d{1,3}(?:,\d{3})+|\d{1,18})(?:\.\d{1,18})?)\s*(?P<percent>%?)", re.ASCII
)
_NONE = Decimal(0)
_CENT = Decimal("0.01")

PEOPLE_HOURS = Figure("hours of people's time", "16", _NONE, Decimal(100_000))
PEOPLE_RATE = Figure("dollars for an hour of a person", "75", _NONE, Decimal(10_000))
LABEL_COUNT = Figure("a number of rows to label", "500", _NONE, Decimal(100_000_000), is_whole=True)
LABEL_USD = Figure("dollars for one label", "0.10", _NONE, Decimal(10_000))
WRONG_USD = Figure("dollars that a wrong answer costs", "0.50", _NONE, Decimal(1_000_000))
RETRAIN_MONTHS = Figure("months until it is trained again", "6", Decimal(1), Decimal(120), is_whole=True)
HOSTING_HOURS = Figure("hours a month that the machine is up", "730", _NONE, Decimal(744))
PROMPT_TOKENS = Figure("tokens of one request", "1200", Decimal(1), Decimal(10_000_000), is_whole=True)
BATCH_SHARE = Figure("a share of requests that can wait", "30%", _NONE, Decimal(1))
MONITORING_USD = Figure("dollars a month for monitoring", "50", _NONE, Decimal(10_000_000))
SERVING_SPEED = Figure("tokens a second", "5000", _CENT, Decimal(100_000_000))
UTILISATION = Figure("a share of its time that the machine is busy", "20%", _CENT, Decimal(1))
RUNS = Figure("a number of runs", "2", Decimal(1), Decimal(100), is_whole=True)
DEFAULT_BUSY = Decimal("0.2")


def find_implausible_figure(question: Question) -> Misread | None:
    """Returns what is wrong with the first figure that is out of bounds, None if all are fine. Every question is
    checked, since not all figures come through `Figure.read`."""
    figures = (
        (PEOPLE_HOURS, question.people_hours),
        (PEOPLE_RATE, question.people_rate),
        (LABEL_COUNT, question.label_count),
        (LABEL_USD, question.label_usd),
        (WRONG_USD, question.wrong_usd),
        (RETRAIN_MONTHS, question.retrain_months),
        (HOSTING_HOURS, question.hosting_hours),
        (PROMPT_TOKENS, question.prompt_tokens),
        (BATCH_SHARE, question.batch_share),
        (MONITORING_USD, question.monitoring_usd),
        (SERVING_SPEED, question.serving_speed),
        (UTILISATION, question.utilisation),
        (RUNS, question.runs),
    )
    for figure, value in figures:
        if value is None:
            continue
        misread = figure.check(Decimal(value), f"{value}")
        if misread is not None:
            return misread
    return None
