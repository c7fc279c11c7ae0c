"""Writes the model card (README.md) of an export: base, licence, data, settings, measurements and checks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from huggingface_hub import ModelCard, ModelCardData

from trainers.export_formats import FORMATS
from trainers.json_values import from_object
from trainers.local.export.merged_weights import Base
from trainers.local.export.output import ExportRefused
from trainers.local.export.sources import DataFile, Source


@dataclass(frozen=True)
class Score:
    """A share from 0 to 1 with its 95% interval; `what` is the row's name in the card's table."""

    what: str
    score: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"| {self.what} | {self.score:.1%} | {self.low:.1%} to {self.high:.1%} |"


@dataclass(frozen=True)
class Measured:
    """What the bot measured of a run's model. The scores are shares of `measure`; `tuned` is this model's."""

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
    def from_json(text: str) -> Measured:
        """Raises ExportRefused."""
        try:
            return from_object(Measured, json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExportRefused(
                f"The run's facts can't be read: {error!r}. Give those that the bot writes."
            ) from error


@dataclass(frozen=True)
class Card:
    """`usage` is Markdown on how to use the export, `checks` are sentences, `date` is that of the export."""

    to: str
    name: str
    source: Source
    base: Base
    dtype: str
    training: DataFile | None
    validation: DataFile | None
    measured: Measured | None
    checks: Sequence[str]
    usage: str
    date: str
    pipeline_tag: ClassVar[str] = "text-generation"
    tags: ClassVar[Sequence[str]] = ("lora", "fine-tuned")
    held_against: ClassVar[str] = "the untuned base"

    def render(self) -> ModelCard:
        form = FORMATS[self.to]
        front = ModelCardData(
            license=self.base.licence,
            base_model=self.base.hub_id,
            base_model_relation=form.relation if self.base.hub_id else None,
            library_name=form.library,
            pipeline_tag=self.pipeline_tag,
            tags=list(self.tags),
        )
        checks = "\n".join(f"- {check}" for check in self.checks)
        parts = [f"---\n{front.to_yaml()}\n---", f"# {self.name}", self._opening()]
        settings = asdict(self.source.job.settings)
        chosen = {name: value for name, value in settings.items() if value not in (None, ())}
        chosen["seed"] = self.source.job.seed
        rows = "\n".join(f"| {name} | {value} |" for name, value in chosen.items())
        table = f"| hyperparameter | value |\n|---|---|\n{rows}"
        parts += ["## Use", self.usage, "## Training", self._data(), table]
        parts += ["## Quality", self._quality(), "## Limits", self._limits(), "## Checked on export", checks]
        return ModelCard("\n\n".join(parts) + "\n")

    def _opening(self) -> str:
        licence = (
            f"its licence is {self.base.licence}"
            if self.base.licence
            else "its folder does not say its licence: look it up before this model is passed on"
        )
        step = f" (the checkpoint of step {self.source.step:,})" if self.source.step is not None else ""
        return (
            f"{self.base.name}, fine-tuned with LoRA by job {self.source.job.id}{step}. The base is "
            f"{self.base.parameters:,} parameters large; {licence}. Exported on {self.date}, weights in {self.dtype}."
        )

    def _data(self) -> str:
        lines = [
            f"- {name} file: {data.rows:,} rows, sha256 `{data.sha256}`"
            if data
            else f"- {name} file: none is kept"
            for name, data in (("training", self.training), ("validation", self.validation))
        ]
        if self.measured:
            lines.append(
                f"- drawn from {self.measured.dataset} (sha256 `{self.measured.source_sha256}`): "
                f"{self.measured.train_rows:,} rows to train on, {self.measured.holdout_rows:,} held out "
                f"(sha256 `{self.measured.holdout_sha256}`)"
            )
        return "\n".join(lines)

    def _quality(self) -> str:
        if self.measured is None:
            return "This model was not measured on held-out rows. Measure it before it answers anybody."
        measured = self.measured
        rows = "\n".join(str(score) for score in (measured.tuned, *measured.against))
        return (
            f"Run {measured.run} of {measured.dataset} measured it on {measured.holdout_rows:,} rows that were set "
            f"aside before training: {measured.measure}, with 95% intervals.\n\n"
            f"| | score | interval |\n|---|---|---|\n{rows}\n\n"
            f"Against {self.held_against} on the same rows: p = {measured.p_value:.2g} (McNemar, exact). "
            f"Plan `{measured.plan_hash}`."
        )

    def _limits(self) -> str:
        limits = [
            "It learnt the kind of question that its rows have; of other questions nothing was measured.",
            f"Rows longer than {self.source.job.settings.max_length:,} tokens were not learnt from.",
            "What the rows say can be drawn out of the weights: keep them as safe as the rows.",
            "The base model's own limits and licence hold for it too.",
        ]
        if self.source.job.settings.quantization != "none":
            limits.append(
                f"It was trained over a base in {self.source.job.settings.quantization}. Exported and compared was the "
                "adapter over the base in full precision; over a quantised base it may answer otherwise."
            )
        if self.source.step is not None:
            limits.append(
                "It is a checkpoint, taken before training ended; what the finished model scores is not its score."
            )
        return "\n".join(f"- {limit}" for limit in limits)
