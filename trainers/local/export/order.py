"""The values of an export: the order, and what a form's functions get and return."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from trainers.export_folder import ExportRefused
from trainers.json_values import from_object
from trainers.local.export.sources import Questions, Source
from trainers.local.export.weights import Base

Say = Callable[[str], None]

# In logits. Measured on a tuned SmolLM2-135M: rounding to float16 changes the logits by 0.005 on average and 0.023 at
# most, to q8_0 by 0.16 and 0.98, to bfloat16, which has fewer digits than both, by 0.24 and 1.44.
TOLERANCES = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.5, "q8_0": 0.5}
ADAPTER_TOLERANCE = 0.01
ADAPTER_DTYPE = "float32"  # of every adapter that a job saves


@dataclass(frozen=True)
class Score:
    """A share from 0 to 1 with its 95% interval. `what` is the name of its row in the card's table."""

    what: str
    score: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"| {self.what} | {self.score:.1%} | {self.low:.1%} to {self.high:.1%} |"


@dataclass(frozen=True)
class RunMeasurements:
    """The bot's measurements of a run's model. The scores are shares of `measure`; `tuned` is this model's."""

    name: str
    run: int
    plan_hash: str
    dataset: str
    source_sha256: str
    train_rows: int
    holdout_rows: int
    holdout_sha256: str
    measure: str
    tuned: Score
    against: tuple[Score, ...]
    p_value: float

    @staticmethod
    def from_json(text: str) -> RunMeasurements:
        """Raises ExportRefused."""
        try:
            return from_object(RunMeasurements, json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExportRefused(
                f"The run's measurements can't be read: {error!r}. Send the JSON that the bot writes."
            ) from error


@dataclass(frozen=True)
class Upload:
    """Where to upload the export. Without a `repo` nothing leaves the machine."""

    repo: str | None = None
    is_public: bool = False


@dataclass(frozen=True)
class ExportOrder:
    """A request for an export. `to` is a name of `trainers.export_formats`, `data` are data folders of trainers,
    `tools` is the converter's folder. Without a `dtype` the form chooses one; without a `base_id` or `licence` the
    base's own is used."""

    model: str
    to: str
    out: Path
    data: Sequence[Path]
    tools: Path
    dtype: str | None = None
    rows: Path | None = None
    base_id: str | None = None
    licence: str | None = None
    upload: Upload = Upload()
    measured: RunMeasurements | None = None


@dataclass(frozen=True)
class PreparedExport:
    """A checked order with all that a form needs. `prompts` are the questions as token ids, `answers` our server's."""

    order: ExportOrder
    source: Source
    base: Base
    questions: Questions
    dtype: str
    prompts: Sequence[Sequence[int]]
    answers: Sequence[str]

    @property
    def name(self) -> str:
        return export_name(self.order, self.source)


def export_name(order: ExportOrder, source: Source) -> str:
    """Returns the model's name in characters that are safe in file names and commands."""
    name = source.name.removeprefix("ft:")
    if order.measured:
        name = order.measured.name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


@dataclass(frozen=True)
class WrittenExport:
    """`checks` are phrases for the card, the last one about the answers. `usage` is Markdown."""

    checks: Sequence[str]
    usage: str


@dataclass(frozen=True)
class Plan:
    """The weights' number format, and the most disk space that the export needs at once."""

    dtype: str
    bytes_needed: int


class Form(Protocol):
    """The module of this folder that a form is named after."""

    def plan(self, order: ExportOrder, source: Source, base: Base) -> Plan:
        """Called before anything is written. Raises ExportRefused."""
        ...

    def write(self, prepared: PreparedExport, folder: Path, say: Say) -> WrittenExport:
        """Writes everything but the card. Raises ExportRefused, and its subclass AnswersDiffer."""
        ...


def load_form(order: ExportOrder) -> Form:
    return cast(Form, import_module(f"trainers.local.export.{order.to}"))
