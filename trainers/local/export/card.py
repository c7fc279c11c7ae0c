"""Writes the model card (README.md) of an export: base, licence, data, settings, measurements and checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import ClassVar

from huggingface_hub import ModelCard, ModelCardData

from trainers.export_formats import FORMATS
from trainers.local.export.order import ExportOrder, WrittenExport, export_name
from trainers.local.export.sources import Source, describe_file
from trainers.local.export.weights import Base
from trainers.methods import specs


@dataclass(frozen=True)
class Card:
    order: ExportOrder
    source: Source
    base: Base
    dtype: str
    written: WrittenExport
    pipeline_tag: ClassVar[str] = "text-generation"
    tags: ClassVar[Sequence[str]] = ("lora", "fine-tuned")
    compared_with: ClassVar[str] = "the untuned base"

    def render(self) -> ModelCard:
        form = FORMATS[self.order.to]
        library = form.library
        kind = form.relation
        tags = list(self.tags)
        if self.source.is_model:
            tags.remove("lora")
            if kind == "adapter":
                kind = "finetune"
                library = "transformers"
        relation = None  # the hub's relation of a model to its base, so only if that is on the hub
        if self.base.hub_id:
            relation = kind
        front = ModelCardData(
            license=self.base.licence,
            base_model=self.base.hub_id,
            base_model_relation=relation,
            library_name=library,
            pipeline_tag=self.pipeline_tag,
            tags=tags,
        )
        parts = [
            f"---\n{front.to_yaml()}\n---",
            f"# {export_name(self.order, self.source)}",
            self._opening(),
            "## Use",
            self.written.usage,
            "## Training",
            self._data(),
            self._settings(),
            "## Quality",
            self._quality(),
            "## Limits",
            self._limits(),
            "## Checked on export",
            "\n".join(f"- {check}" for check in self.written.checks),
        ]
        return ModelCard("\n\n".join(parts) + "\n")

    def _opening(self) -> str:
        licence = "its folder names no licence: look it up before you pass this model on"
        if self.base.licence:
            licence = f"its licence is {self.base.licence}"
        step = ""
        if self.source.step is not None:
            step = f" (the checkpoint of step {self.source.step:,})"
        how = "with LoRA"
        if self.source.is_model:
            how = "with all its weights"
        return (
            f"{self.base.name}, fine-tuned {how} by job {self.source.job.id}{step}. The base "
            f"has {self.base.parameters:,} parameters; {licence}. Exported on {today()}, weights in {self.dtype}."
        )

    def _data(self) -> str:
        job = self.source.job
        lines = []
        for name, path in (("training", job.training_file), ("validation", job.validation_file)):
            data = describe_file(self.source, path)
            if data:
                description = f"{data.rows:,} rows, sha256 `{data.sha256}`"
            elif path:
                description = "gone"
            else:
                description = "none"
            lines.append(f"- {name} file: {description}")
        measured = self.order.measured
        if measured:
            lines.append(
                f"- drawn from {measured.dataset} (sha256 `{measured.source_sha256}`): "
                f"{measured.train_rows:,} rows to train on, {measured.holdout_rows:,} held out "
                f"(sha256 `{measured.holdout_sha256}`)"
            )
        return "\n".join(lines)

    def _settings(self) -> str:
        job = self.source.job
        used = {spec.field for spec in specs(job.method).values()}
        chosen = {}
        for name, value in asdict(job.settings).items():
            if name in used and value not in (None, ()):
                chosen[name] = value
        chosen["seed"] = self.source.job.seed
        return settings_table(chosen)

    def _quality(self) -> str:
        measured = self.order.measured
        if measured is None:
            return "This model was not measured on held-out rows. Measure it before you put it to use."
        scores = (measured.tuned, *measured.against)
        rows = "\n".join(str(score) for score in scores)
        return (
            f"Run {measured.run} of {measured.dataset} measured it on {measured.holdout_rows:,} rows that were set "
            f"aside before training: {measured.measure}, with 95% intervals.\n\n"
            f"| | score | interval |\n|---|---|---|\n{rows}\n\n"
            f"Against {self.compared_with} on the same rows: p = {measured.p_value:.2g} (McNemar, exact). "
            f"Plan `{measured.plan_hash}`."
        )

    def _limits(self) -> str:
        settings = self.source.job.settings
        fate = "were left out of training"
        if settings.too_long == "truncate":
            fate = "were cut to that length"
        limits = [
            "It learnt from the kind of questions that its rows have, and was measured on no others.",
            f"Rows longer than {settings.max_length:,} tokens {fate}.",
            "Training data can be extracted from the weights: protect them like the rows.",
            "The base model's limits and licence apply to it too.",
        ]
        if settings.quantization != "none":
            limits.append(
                f"It was trained with its base in {settings.quantization}, but exported and checked with the base in "
                "full precision. With a quantised base it may answer differently."
            )
        if self.source.step is not None:
            limits.append(
                "It is a checkpoint from before the end of training, so the finished model's scores don't apply to it."
            )
        return "\n".join(f"- {limit}" for limit in limits)


def settings_table(settings: Mapping[str, object]) -> str:
    rows = [f"| {name} | {value} |" for name, value in settings.items()]
    return "\n".join(["| hyperparameter | value |", "|---|---|", *rows])


def today() -> str:
    return datetime.now(UTC).date().isoformat()
