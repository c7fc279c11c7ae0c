"""The model card (README.md), and the upload of an exported folder to a hub that speaks Hugging Face's API:
private unless asked otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelCardData

from trainers.json_values import from_object
from trainers.local.export.merged_weights import Base
from trainers.local.export.output import ExportRefused
from trainers.local.export.sources import DataFile, Source
from trainers.local.training.base_files import HUB_ID

RELATIONS = {
    "merged": "finetune",
    "gguf": "quantized",
    "ollama": "quantized",
    "vllm": "adapter",
    "hub": "adapter",
}
LIBRARIES = {"merged": "transformers", "gguf": "gguf", "ollama": "gguf", "vllm": "peft", "hub": "peft"}


@dataclass(frozen=True)
class Score:
    """A share from 0 to 1 with its 95% interval."""

    what: str
    score: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"| {self.what} | {self.score:.1%} | {self.low:.1%} to {self.high:.1%} |"


@dataclass(frozen=True)
class Measured:
    """What a run knows of its model. `measure` says what the scores are shares of; `tuned` is this model."""

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
    """`how` is how the export is used, in Markdown; `checks` are sentences; `on` is a date."""

    to: str
    name: str
    source: Source
    base: Base
    dtype: str
    training: DataFile | None
    validation: DataFile | None
    measured: Measured | None
    checks: Sequence[str]
    how: str
    on: str

    def __str__(self) -> str:
        parts = [
            self._front(),
            f"# {self.name}",
            self._opening(),
            "## Use",
            self.how,
            "## Training",
            self._data(),
        ]
        parts += [self._settings(), "## Quality", self._quality(), "## Limits", self._limits()]
        parts += ["## Checked on export", "\n".join(f"- {check}" for check in self.checks)]
        return "\n\n".join(parts) + "\n"

    def _front(self) -> str:
        front = ModelCardData(
            license=self.base.licence,
            base_model=self.base.hub_id,
            base_model_relation=RELATIONS[self.to] if self.base.hub_id else None,
            library_name=LIBRARIES[self.to],
            pipeline_tag="text-generation",
            tags=["lora", "fine-tuned"],
        )
        return f"---\n{front.to_yaml()}\n---"

    def _opening(self) -> str:
        licence = (
            f"its licence is {self.base.licence}"
            if self.base.licence
            else ("its folder does not say its licence: look it up before this model is passed on")
        )
        step = f" (the checkpoint of step {self.source.step:,})" if self.source.step is not None else ""
        return (
            f"{self.base.name}, fine-tuned with LoRA by job {self.source.job.id}{step}. The base is "
            f"{self.base.parameters:,} parameters large; {licence}. Exported on {self.on}, weights in {self.dtype}."
        )

    def _data(self) -> str:
        lines = [
            f"- {what} file: {data.rows:,} rows, sha256 `{data.sha256}`"
            if data
            else f"- {what} file: none is kept"
            for what, data in (("training", self.training), ("validation", self.validation))
        ]
        if self.measured:
            lines.append(
                f"- drawn from {self.measured.dataset} (sha256 `{self.measured.source_sha256}`): "
                f"{self.measured.train_rows:,} rows to train on, {self.measured.holdout_rows:,} held out "
                f"(sha256 `{self.measured.holdout_sha256}`)"
            )
        return "\n".join(lines)

    def _settings(self) -> str:
        settings = asdict(self.source.job.settings)
        chosen = {name: value for name, value in settings.items() if value not in (None, ())} | {
            "seed": self.source.job.seed
        }
        rows = "\n".join(f"| {name} | {value} |" for name, value in chosen.items())
        return f"| hyperparameter | value |\n|---|---|\n{rows}"

    def _quality(self) -> str:
        if self.measured is None:
            return "This model was not measured on held-out rows. Measure it before it answers anybody."
        said = self.measured
        rows = "\n".join(str(score) for score in (said.tuned, *said.against))
        return (
            f"Run {said.run} of {said.dataset} measured it on {said.holdout_rows:,} rows that were set aside before "
            f"training: {said.measure}, with 95% intervals.\n\n| | score | interval |\n|---|---|---|\n{rows}\n\n"
            f"Against the untuned base on the same rows: p = {said.p_value:.2g} (McNemar, exact). "
            f"Plan `{said.plan_hash}`."
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


# An exported folder on a model hub that speaks Hugging Face's API: private unless it is asked to be
# public.


TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105


@dataclass(frozen=True)
class Upload:
    """`repo` None: the folder is made ready and nothing leaves the machine."""

    repo: str | None
    is_public: bool


def check_upload(upload: Upload, base: Base) -> None:
    """Before anything is written. Raises ExportRefused."""
    if base.hub_id is None:
        raise ExportRefused(
            "The base model is a folder of this machine; others need its id on the hub to use the adapter. "
            "Name it: --base-id ORG/NAME."
        )
    if base.licence is None:
        raise ExportRefused(
            f"Nothing says under which licence {base.name} stands, and who gets the adapter must know. "
            "Look it up, and say it: --licence ID, such as apache-2.0."
        )
    if upload.repo is None:
        return
    if not HUB_ID.fullmatch(upload.repo):
        raise ExportRefused(f"--repo {upload.repo}: write it as ORG/NAME.")
    if not os.environ.get(TOKEN_VARIABLE, "").strip():
        raise ExportRefused(
            f"Uploading to {upload.repo} needs a token that may write there: set {TOKEN_VARIABLE}. "
            "Without --repo the folder is made ready and nothing is uploaded."
        )


def upload_folder(folder: Path, upload: Upload) -> str:
    """The commit's address. Raises ExportRefused; the folder stays as it is."""
    assert upload.repo is not None  # noqa: S101
    api = HfApi(token=os.environ[TOKEN_VARIABLE].strip())
    try:
        api.create_repo(upload.repo, private=not upload.is_public, exist_ok=True)
        done = api.upload_folder(
            repo_id=upload.repo, folder_path=folder, commit_message="A fine-tuned adapter and its card"
        )
    except (OSError, ValueError, RuntimeError) as error:  # the last: a large file that did not get through
        said = " ".join(str(error).split())[:300]
        raise ExportRefused(
            f"Uploading {folder} to {upload.repo}: {said} The folder is complete: upload it again with --repo, into a "
            "new --out, or by hand."
        ) from error
    return str(done.commit_url)
