"""What a person asks of an estimate, and the figures that only a person can give, each read from text within
its bounds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from bot.rules.units import Misread
from trainers.hyperparameters import Sweep
from trainers.methods import MethodName
from trainers.types import Hyperparameter

NO_JUDGE = "none"


@dataclass(frozen=True)
class Question:
    """`volume` is input tokens a month. None: not said, and assumptions.py says what is taken instead.

    `people_rate` USD an hour; `label_count` rows that must still be labelled, at `label_usd` each; `wrong_usd`
    what one wrong answer costs; a training every `retrain_months`; a machine is up for `hosting_hours` a month,
    or paid by use with `serving_speed` tokens a second while busy; either is busy `utilisation` (0 to 1) of its time;
    `prompt_tokens` of one request today; `batch_share` (0 to 1) of the requests can wait for a batch;
    `monitoring_usd` a month; `runs` until one is good enough; `patience`: stop a training early after so many
    validations without improvement; `hyperparameters` that a person chose, sorted by name; `sweep`: those with several
    values each, every combination an arm of one training; `judge`: the model that judges free text, NO_JUDGE for none.
    """

    current: str | None = None
    volume: int | None = None
    target: str | None = None
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


@dataclass(frozen=True)
class Figure:
    """A number that people give. `what` completes "I can't read … as"; the bounds are included."""

    what: str
    example: str
    least: Decimal
    most: Decimal
    is_whole: bool = False

    def read(self, text: str) -> Decimal | Misread:
        """Reads '12', '$1,500', '0.5', '20%' (0.2)."""
        clean = text.strip().removeprefix("$").strip()
        shown = clean[:40] or "nothing"
        match = _NUMBER.fullmatch(clean)
        if match is None:
            return Misread(f"I can't read “{shown}” as {self.what}. Write a number like {self.example}.")
        value = Decimal(match["number"].replace(",", "")) / (100 if match["percent"] else 1)
        return self._refused(value, shown) or value

    def refused(self, value: Decimal | int | None) -> Misread | None:
        return None if value is None else self._refused(Decimal(value), f"{value}")

    def _refused(self, value: Decimal, shown: str) -> Misread | None:
        if not self.least <= value <= self.most:
            between = f"{self.least.normalize():,f} to {self.most.normalize():,f}"
            return Misread(f"“{shown}” can't be {self.what}: it is a number from {between}.")
        if self.is_whole and value != int(value):
            return Misread(f"“{shown}” can't be {self.what}: it is a whole number, like {self.example}.")
        return None


_NUMBER = re.compile(
    r"(?P<number>-?(?:\d{1,3}(?:,\d{3})+|\d{1,18})(?:\.\d{1,18})?)\s*(?P<percent>%?)", re.ASCII
)
_NONE, _CENT = Decimal(0), Decimal("0.01")

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
    """What is wrong with the first figure that cannot be, from whatever place the question came."""
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
    return next((misread for figure, value in figures if (misread := figure.refused(value))), None)
