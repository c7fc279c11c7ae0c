"""Prepares a job for an engine: downloads the base model, writes the tokenized rows, finds the modules that get LoRA
matrices, and completes the plan. Loads no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from trainers.local.base_download import fetch_base
from trainers.local.base_files import ensure_same_base
from trainers.local.engines.plan import ROWS, EnginePlan
from trainers.local.job_directory import TrainingJob
from trainers.local.training.base_model import load_config, load_tokenizer, stored_quantization
from trainers.local.training.data import Rows, read_rows, report_rows
from trainers.local.training.devices import best_dtype
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.metrics_logger import MetricsLogger
from trainers.local.training.model_structure import choose_class, find_targets, fused_experts, has_vision
from trainers.methods import Parameters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100  # a label that torch's cross entropy skips


@dataclass(frozen=True)
class PreparedJob:
    """A plan with the number of `tokens` in all training rows, and in all validation rows."""

    plan: EnginePlan
    tokens: int
    validation_tokens: int = 0

    def tokens_after(self, step: int) -> int:
        """Returns the trained tokens after `step` steps. Exact at the end of an epoch only, since engines don't log the
        rows of a step."""
        return round(self.tokens * step / self.plan.steps_an_epoch)

    @property
    def validation_steps(self) -> float:
        """The duration of a validation as a number of steps. A validation takes a third of the time per token."""
        return self.validation_tokens * self.plan.steps_an_epoch / self.tokens / 3


def prepare(job: TrainingJob, home: Path, has_cuda: bool, logger: MetricsLogger) -> PreparedJob:
    """Writes rows/ to the engine's folder `home` and returns the plan. Raises TrainingFailed."""
    base = fetch_base(job.base, logger.log)
    ensure_same_base(home.parent, base, job.base_name)
    targets = target_names(base, job.settings)
    tokenizer = load_tokenizer(str(base))
    training = _prepare_rows(job.training_file, tokenizer, job, home, "train", logger)
    validation_tokens = 0
    if job.validation_file:
        validation_tokens = _prepare_rows(job.validation_file, tokenizer, job, home, "valid", logger).tokens

    device: Literal["cpu", "cuda"] = "cpu"
    dtype = torch.float32
    if has_cuda and torch.cuda.is_available():
        device = "cuda"
        dtype = best_dtype(torch.device(device), load_config(str(base)).model_type)
    plan = EnginePlan(
        base=str(base.absolute()),
        settings=job.settings,
        seed=job.seed,
        targets=targets,
        rows=len(training.rows),
        has_validation=job.validation_file is not None,
        device=device,
        is_bf16=dtype == torch.bfloat16,
        is_fp16=dtype == torch.float16,
    )
    if torch.cuda.is_available() and not has_cuda:
        logger.warn("There is a GPU, but the engine's PyTorch has no CUDA, so it trains on the CPU")
    return PreparedJob(plan, training.tokens, validation_tokens)


def target_names(base: Path, settings: Parameters) -> tuple[str, ...]:
    """Returns the modules that get LoRA matrices, by names that mean the same to every engine.

    Raises TrainingFailed unless engines and our server load the base alike, so that an adapter's names agree: it must
    be a text model with unquantised weights.
    """
    engine = settings.engine
    config = load_config(str(base))
    stored = stored_quantization(config)
    if stored is not None:
        raise _builtin_only(f"weights are stored in the format {stored}", engine, "model")
    choice = choose_class(str(base), config)
    with torch.device("meta"):  # the structure is enough, without weights
        model = choice.model_class(choice.config)
    if choice.config is not config or has_vision(model):
        raise _builtin_only("model also processes images, and only its text part is trained", engine, "model")
    if settings.quantization == "nf4" and fused_experts(model):
        why = "experts would not be quantised, and our server quantises them"
        raise _builtin_only(why, engine, "quantization")
    targets = find_targets(model, settings.target_modules)
    if targets.parameters or isinstance(targets.modules, str):
        raise _builtin_only(f"{targets.parameters[0]} is not a linear layer", engine, "target_modules")
    return tuple(targets.modules)


def _builtin_only(why: str, engine: str, param: str) -> TrainingFailed:
    text = f"The engine {engine} can't train this: the base's {why}. Set engine to builtin."
    return TrainingFailed("engine_cannot", text, param)


def _prepare_rows(
    file: str,
    tokenizer: PreTrainedTokenizerFast,
    job: TrainingJob,
    home: Path,
    name: Literal["train", "valid"],
    logger: MetricsLogger,
) -> Rows:
    """Writes rows/NAME.jsonl."""
    settings = job.settings
    param = "validation_file"
    what = "Validation"
    if name == "train":
        param = "training_file"
        what = "Training"
    rows = read_rows(Path(file), tokenizer, settings.max_length, param, settings.too_long)
    (home / ROWS).mkdir(exist_ok=True)
    write_rows(home / ROWS / f"{name}.jsonl", rows)

    report_rows(logger, what, rows, settings.max_length)
    return rows


def write_rows(path: Path, rows: Rows) -> None:
    """Writes JSON lines with input_ids, attention_mask and labels. Tokens after a row's last answer are left out."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows.rows:
            ids = list(row.ids[: row.last_target + 1])
            labels = []
            for token, is_learnt in zip(ids, row.supervised, strict=False):  # the ids may end earlier
                labels.append(token if is_learnt else IGNORED)
            line = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
            file.write(json.dumps(line) + "\n")
