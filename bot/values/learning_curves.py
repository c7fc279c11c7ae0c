"""The plan and the progress of a tuned model's learning curve: frozen values, stored as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from bot.rules.plans import Destination
from bot.values.evaluations import CurvePlan, VersionPlan
from bot.values.runs import Progress
from trainers.evaluation.results import Candidate, Curve
from trainers.json_values import JsonValue, from_object
from trainers.types import Hyperparameter

SizeState = Literal["waiting", "creating", "training", "evaluating", "done"]
Stage = Literal["preparing", "asking", "training", "judging"]
FEWEST_TUNED_ROWS = 40  # a quarter of them are the 10 that trainers ask for


@dataclass(frozen=True)
class PlannedSize:
    """One point of a curve: a training on `rows` rows, and the maximum cost of that training and of asking its model,
    in micro-dollars."""

    rows: int
    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    training_micros: int
    asking_micros: int

    @property
    def most_micros(self) -> int:
        return self.training_micros + self.asking_micros


@dataclass(frozen=True)
class TunedCurvePlan(VersionPlan, JsonValue):
    """The plan of a curve. `sizes` grow, and the last one has all rows. `prices` is a PriceList as JSON with the tuned
    model alone. `label_usd` is the price of one labelled row as text, None if nobody has stated it. `destination` is
    None in plans that were stored before it was recorded."""

    dataset: str
    version: int
    train_sha256: str
    holdout_sha256: str
    n_holdout: int
    labels: tuple[str, ...]
    provider: str
    base_model: str
    sizes: tuple[PlannedSize, ...]
    seed: int
    prices: str
    predict: tuple[int, ...]
    label_usd: str | None = None
    destination: Destination | None = None

    @property
    def target(self) -> str:
        return f"{self.provider}/{self.base_model}"

    @property
    def arm(self) -> Candidate:
        return Candidate("tuned", self.target)

    def to_json(self) -> str:
        """Leaves out fields that plans of older versions lack: the keys of their jobs are hashes of this text."""
        fields = asdict(self)
        if self.destination is None:
            del fields["destination"]
        elif self.destination.catalogue_id is None:
            del fields["destination"]["catalogue_id"]
        return json.dumps(fields)


def plan_of(text: str) -> CurvePlan | TunedCurvePlan:
    """Reads the plan of a measurement whose kind is a curve."""
    raw: dict[str, Any] = json.loads(text)
    return from_object(TunedCurvePlan, raw) if "base_model" in raw else from_object(CurvePlan, raw)


def provider_of(text: str) -> str | None:
    """Returns the provider in the plan of a tuned model's curve, None for a classical one's. Reads nothing else, so
    that a plan of a newer version holds up only its own measurement."""
    provider: str | None = json.loads(text).get("provider")
    return provider


def key_of(number: int, plan: TunedCurvePlan, sha256: str) -> str:
    """Returns our key for the job that trains this file in measurement `number`: always the same, and unique to it."""
    text = json.dumps([number, plan.to_json(), sha256])
    return f"ft-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


@dataclass(frozen=True)
class SizeProgress:
    """How far one size is. `since` is when its state began, in unix seconds; `tries` counts attempts to create its job.
    `model` is its name at the provider. `from_before` names the run or measurement that trained it earlier, None if
    this measurement trains it. `doubted_since` is when it became uncertain whether its job exists.

    `answered` held-out rows have an answer. `declined` are the keys of questions that the provider refuses to answer,
    which count as wrong.
    """

    rows: int
    sha256: str
    key: str
    state: SizeState = "waiting"
    since: float = 0.0
    tries: int = 0
    file_id: str | None = None
    job_id: str | None = None
    model: str | None = None
    from_before: str | None = None
    training: Progress = field(default_factory=Progress)
    answered: int = 0
    declined: tuple[str, ...] = ()
    spent_micros: int = 0
    doubted_since: float | None = None

    def with_state(self, state: SizeState, now: float, **changes: Any) -> SizeProgress:
        return replace(self, **{"state": state, "since": now, "tries": 0, "doubted_since": None, **changes})


@dataclass(frozen=True)
class TunedCurveProgress(JsonValue):
    """How far a curve is. In the stage `asking` it waits for a person, later `agreed_by`, to agree to `most_micros`.
    Answers from before `started_at` (unix seconds) are free. `note` is a sentence about a delay. `beside` is the
    classical model's Curve as JSON, None until the curve is judged. `lost_micros` is the highest cost of questions
    whose answers were lost, which may have been paid for too."""

    stage: Stage = "preparing"
    sizes: tuple[SizeProgress, ...] = ()
    most_micros: int = 0
    agreed_by: str | None = None
    started_at: float = 0.0
    note: str | None = None
    beside: str | None = None
    lost_micros: int = 0

    @property
    def booked_micros(self) -> int:
        """What counts in the budgets: never less than was spent."""
        return self.spent_micros + self.lost_micros

    @property
    def current_index(self) -> int | None:
        """The index of the size at work, None once all are done."""
        return next((at for at, progress in enumerate(self.sizes) if progress.state != "done"), None)

    @property
    def spent_micros(self) -> int:
        return sum(size.spent_micros for size in self.sizes)

    @property
    def is_over_agreed_cost(self) -> bool:
        return self.spent_micros > self.most_micros

    @property
    def to_train(self) -> int:
        """The number of sizes that this measurement trains itself."""
        return sum(size.from_before is None for size in self.sizes)

    @property
    def classical(self) -> Curve | None:
        return Curve.from_json(self.beside) if self.beside else None

    def start(self, now: float, by: str | None = None) -> TunedCurveProgress:
        """Returns the progress of a curve that starts now; `by` agreed to its cost, None if it is free."""
        return replace(self, stage="training", started_at=now, agreed_by=by)

    def with_size(self, size: SizeProgress) -> TunedCurveProgress:
        """Replaces the size that has the same number of rows."""
        return replace(
            self, sizes=tuple(size if progress.rows == size.rows else progress for progress in self.sizes)
        )


def curve_sizes(rows: int) -> Sequence[int]:
    """Returns the sizes of a curve: a quarter, half and all of the rows."""
    return (rows // 4, rows // 2, rows)
