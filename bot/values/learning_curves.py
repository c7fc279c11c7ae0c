"""A tuned model's learning curve: how many rows are trained on, and how far it is. Frozen values, stored as
JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from bot.rules.plans import Destination
from bot.values.evaluations import CurvePlan
from bot.values.runs import Progress
from trainers.evaluation.results import Candidate, Curve
from trainers.json_values import JsonValue, from_object
from trainers.types import Hyperparameter

SizeState = Literal["waiting", "creating", "training", "evaluating", "done"]
Stage = Literal["preparing", "asking", "training", "judging"]
FEWEST_TUNED_ROWS = 40  # a quarter of them are the 10 that trainers ask for


@dataclass(frozen=True)
class PlannedSize:
    """So many training rows, and what training on them and asking the model cost at most, in micro-dollars."""

    rows: int
    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    training_micros: int
    asking_micros: int

    @property
    def most_micros(self) -> int:
        return self.training_micros + self.asking_micros


@dataclass(frozen=True)
class TunedCurvePlan(JsonValue):
    """`sizes` grow, and the last one is all rows. `prices`: a PriceList as JSON, of the tuned model alone.
    `label_usd` is what one labelled row costs, as text, where somebody has said so. `destination` None: as in Plan."""

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
    def title(self) -> str:
        return self.dataset if self.version == 1 else f"{self.dataset} (version {self.version})"

    @property
    def target(self) -> str:
        return f"{self.provider}/{self.base_model}"

    @property
    def arm(self) -> Candidate:
        return Candidate("tuned", self.target)

    def to_json(self) -> str:
        """Leaves out what an older plan lacks, so that its jobs keep their keys."""
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


def key_of(number: int, plan: TunedCurvePlan, sha256: str) -> str:
    """Our name for the job that trains this file in measurement `number`: always the same, and no other job's."""
    text = json.dumps([number, plan.to_json(), sha256])
    return f"ft-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


@dataclass(frozen=True)
class SizeProgress:
    """One size on its way. `since`: unix seconds of the state, `tries` of creating its job. `model` is its name at
    the provider; `from_before` says where it was trained, where that was before this measurement. `doubted_since`:
    nobody can tell since then whether its job is there.

    `answered` held-out rows have an answer, `declined` are keys of questions that get none: they count as wrong.
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

    def to(self, state: SizeState, now: float, **changes: Any) -> SizeProgress:
        return replace(self, **{"state": state, "since": now, "tries": 0, "doubted_since": None, **changes})


@dataclass(frozen=True)
class TunedCurveProgress(JsonValue):
    """`asking` waits for a person's yes to `most_micros`, which `agreed_by` gave. `started_at`: unix seconds; answers
    of before are free. `note` is a sentence about a hiccup or a wait. `beside` is the classical rung's Curve as JSON,
    once judged."""

    stage: Stage = "preparing"
    sizes: tuple[SizeProgress, ...] = ()
    most_micros: int = 0
    agreed_by: str | None = None
    started_at: float = 0.0
    note: str | None = None
    beside: str | None = None

    @property
    def at(self) -> int | None:
        """Which size is at work; None once all are done."""
        return next((at for at, progress in enumerate(self.sizes) if progress.state != "done"), None)

    @property
    def spent_micros(self) -> int:
        return sum(size.spent_micros for size in self.sizes)

    @property
    def is_over_agreed_cost(self) -> bool:
        return self.spent_micros > self.most_micros

    @property
    def to_train(self) -> int:
        return sum(size.from_before is None for size in self.sizes)

    @property
    def classical(self) -> Curve | None:
        return Curve.from_json(self.beside) if self.beside else None

    def begun(self, now: float, by: str | None = None) -> TunedCurveProgress:
        """Returns the progress at its start, once `by` has agreed to its cost or there is none."""
        return replace(self, stage="training", started_at=now, agreed_by=by)

    def with_size(self, size: SizeProgress) -> TunedCurveProgress:
        """Puts a size in the place of the one with as many rows."""
        return replace(
            self, sizes=tuple(size if progress.rows == size.rows else progress for progress in self.sizes)
        )


def curve_sizes(rows: int) -> Sequence[int]:
    """Returns a quarter, half and all of the rows."""
    return (rows // 4, rows // 2, rows)
