"""What people ask the services for, where it takes more than a name or a number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from bot.rules.estimate_inputs import Question
from bot.rules.facts import TaskKind
from trainers.evaluation.results import RungName


@dataclass(frozen=True)
class Estimate:
    """`bar` and `task` None: as they are set for the dataset."""

    dataset: str
    question: Question
    bar: float | None = None
    task: TaskKind | None = None


@dataclass(frozen=True)
class Start:
    """`because`: why a soft rule about data does not apply; the same in the classes below."""

    dataset: str
    question: Question
    because: str | None = None


@dataclass(frozen=True)
class Baseline:
    """Empty `models`: the bot's own trainer's. Empty `rungs`: all that fit. `bar` and `task` None: as they are set for
    the dataset. `judge` None: no model judges. `shots`: examples in a prompt; 0: as many
    as do best on training rows, None: ten. `optimise`: dollars for a search for a better prompt,
    by the model `writer`; None: by the first of the models."""

    dataset: str
    models: tuple[str, ...] = ()
    rungs: tuple[RungName, ...] = ()
    prompt: str | None = None
    bar: float | None = None
    task: TaskKind | None = None
    judge: str | None = None
    shots: int | None = None
    optimise: Decimal | None = None
    writer: str | None = None
    because: str | None = None


@dataclass(frozen=True)
class Curve:
    """`target`: the model whose learning curve is wanted; None: the classical model's, which is free. `predict`:
    numbers of rows to extend the curve to; empty: the usual ones. `label_usd` None: as it was said last."""

    dataset: str
    target: str | None
    predict: tuple[int, ...] = ()
    label_usd: Decimal | None = None
    because: str | None = None


@dataclass(frozen=True)
class Delete:
    """All versions, or those that were uploaded before a day (UTC)."""

    dataset: str
    before: date | None = None
