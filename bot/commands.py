"""What people can ask for, as values: a command for each `/finetune …`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from bot.rules.estimate_inputs import Question
from bot.rules.facts import TaskKind
from trainers.evaluation.results import RungName

NOTHING_SAID = Question()


@dataclass(frozen=True)
class Help:
    pass


@dataclass(frozen=True)
class Upload:
    pass


@dataclass(frozen=True)
class Datasets:
    pass


@dataclass(frozen=True)
class AskEstimate:
    """`/finetune estimate` alone: the modal asks the rest."""


@dataclass(frozen=True)
class Estimate:
    """`volume` is input tokens a month. None: not said. `figures`: what else a person knows, such as hours.

    `bar` and `task` None: as they are set for the dataset."""

    dataset: str
    current: str | None
    volume: int | None
    target: str | None
    figures: Question = NOTHING_SAID
    bar: float | None = None
    task: TaskKind | None = None

    @property
    def question(self) -> Question:
        return replace(self.figures, current=self.current, volume=self.volume, target=self.target)


@dataclass(frozen=True)
class Start:
    """`patience` None: to the last epoch.
    `because`: why a soft rule about data shall not hold. The others as in Estimate."""

    dataset: str
    current: str | None
    volume: int | None
    target: str | None
    figures: Question = NOTHING_SAID
    patience: int | None = None
    because: str | None = None

    @property
    def question(self) -> Question:
        said = replace(self.figures, current=self.current, volume=self.volume, target=self.target)
        return replace(said, patience=self.patience)


@dataclass(frozen=True)
class Status:
    run: int | None


@dataclass(frozen=True)
class Runs:
    pass


@dataclass(frozen=True)
class Cancel:
    run: int


@dataclass(frozen=True)
class Pause:
    run: int


@dataclass(frozen=True)
class Resume:
    run: int


@dataclass(frozen=True)
class CancelMeasurement:
    measurement: int


@dataclass(frozen=True)
class Results:
    run: int


@dataclass(frozen=True)
class Audit:
    """Who did what to a run."""

    run: int


@dataclass(frozen=True)
class ShowMeasurement:
    measurement: int


@dataclass(frozen=True)
class AskBaseline:
    """`/finetune baseline` alone: the form asks the rest."""


@dataclass(frozen=True)
class Baseline:
    """Empty `models`: our own trainer's. Empty `rungs`: all that fit. None: as it is set for the dataset; no judge.

    `because`: why a soft rule about data shall not hold, also below."""

    dataset: str
    models: tuple[str, ...] = ()
    rungs: tuple[RungName, ...] = ()
    prompt: str | None = None
    bar: float | None = None
    task: TaskKind | None = None
    judge: str | None = None
    because: str | None = None


@dataclass(frozen=True)
class Curve:
    """`target`: the model whose curve is asked for; None: the classical rung's, which is free. `predict`: rows to
    carry it on to; empty: the usual ones. `label_usd` None: as it was said last."""

    dataset: str
    target: str | None
    predict: tuple[int, ...] = ()
    label_usd: Decimal | None = None
    because: str | None = None


@dataclass(frozen=True)
class Prices:
    """Empty: of all models that are configured."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Knowledge:
    dataset: str


@dataclass(frozen=True)
class Budget:
    pass


@dataclass(frozen=True)
class Freeze:
    """`reason` as it was typed; '' where none was."""

    reason: str = ""


@dataclass(frozen=True)
class Unfreeze:
    pass


@dataclass(frozen=True)
class Try:
    """`model` may be a dataset's name: the one in use for it."""

    model: str
    text: str


@dataclass(frozen=True)
class Models:
    pass


@dataclass(frozen=True)
class Promote:
    """`because`: why a model shall be used that is not shown to be better."""

    model: str
    because: str | None = None


@dataclass(frozen=True)
class Rollback:
    dataset: str
    because: str | None = None


@dataclass(frozen=True)
class Delete:
    """All versions, or those that were uploaded before a day (UTC)."""

    dataset: str
    before: date | None = None


# Commands that ask for a right of their own where they are carried out.
ACTS = (
    *(Upload, Estimate, Baseline, Curve, Start, Cancel, CancelMeasurement, Pause, Resume),
    *(Freeze, Unfreeze, Try, Audit, Promote, Rollback),
)

Command = (
    Help
    | Upload
    | Datasets
    | AskBaseline
    | Baseline
    | Curve
    | Knowledge
    | Prices
    | AskEstimate
    | Estimate
    | Start
    | Status
    | Runs
    | Cancel
    | Pause
    | Resume
    | CancelMeasurement
    | Results
    | Audit
    | ShowMeasurement
    | Budget
    | Freeze
    | Unfreeze
    | Try
    | Models
    | Promote
    | Rollback
    | Delete
)
