"""Plans of learning curves, and what is still read of the curves of tuned models, which earlier versions trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bot.values.evaluations import CurvePlan
from trainers.json_values import from_object


@dataclass(frozen=True)
class TrainedSize:
    """One size of a tuned model's curve, trained on the file `sha256`. `key` names its job, and `model` is what the
    provider calls the result. `from_before` names the run or measurement that had trained it earlier."""

    sha256: str
    key: str
    job_id: str | None = None
    model: str | None = None
    from_before: str | None = None


@dataclass(frozen=True)
class TrainedCurve:
    """A tuned model's curve, which an earlier version trained at `provider`. `most_micros` is the maximum cost that
    somebody agreed to."""

    provider: str
    holdout_sha256: str
    sizes: tuple[TrainedSize, ...]
    most_micros: int

    @property
    def own_sizes(self) -> tuple[TrainedSize, ...]:
        """The sizes that this curve trained itself."""
        return tuple(size for size in self.sizes if size.from_before is None)


def plan_of(text: str) -> CurvePlan:
    """Reads the plan of a measurement whose kind is a curve. Raises TypeError or ValueError if a newer version wrote
    it."""
    raw = json.loads(text)
    if "provider" in raw:
        # A tuned model's, whose plan has more fields.
        raw = _known(CurvePlan, raw)
    return from_object(CurvePlan, raw)


def trained_curve(plan_text: str, progress_text: str | None) -> TrainedCurve | None:
    """Reads the curve of a tuned model; None if it is the classical model's."""
    plan = json.loads(plan_text)
    if "provider" not in plan:
        return None
    progress = {}
    if progress_text:
        progress = json.loads(progress_text)
    sizes = [from_object(TrainedSize, _known(TrainedSize, size)) for size in progress.get("sizes", ())]
    return TrainedCurve(
        provider=plan["provider"],
        holdout_sha256=plan["holdout_sha256"],
        sizes=tuple(sizes),
        most_micros=progress.get("most_micros", 0),
    )


def provider_of(plan_text: str) -> str | None:
    """Returns the provider in the plan of a tuned model's curve, None for a classical one's. Reads nothing else, so
    that a plan of a newer version holds up only its own measurement."""
    provider: str | None = json.loads(plan_text).get("provider")
    return provider


def _known(kind: type, raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leaves out what the class has no field for."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in raw.items() if name in names}
