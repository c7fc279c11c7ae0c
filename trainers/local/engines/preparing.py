"""What an engine is given: the base model as a local folder, the rows as tokens, and a plan with nothing left open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trainers.local.engines.plan import ROWS, EnginePlan
from trainers.local.engines.rows import write_rows
from trainers.local.engines.targets import target_names
from trainers.local.spool import TrainingJob
from trainers.local.training.base import load_config, load_tokenizer
from trainers.local.training.data import Rows, read_rows
from trainers.local.training.devices import best_dtype
from trainers.local.training.hub import fetch
from trainers.local.training.identity import remember_base
from trainers.local.training.journal import Journal


@dataclass(frozen=True)
class Prepared:
    """`tokens` of the rows that are learnt from, once each, and of those that are validated on."""

    plan: EnginePlan
    tokens: int
    validation_tokens: int = 0

    def tokens_after(self, step: int) -> int:
        """Exact at an epoch's end; an engine doesn't say which rows a step within had."""
        return round(self.tokens * step / self.plan.steps_an_epoch)

    @property
    def validation_steps(self) -> float:
        """How many steps a validation takes as long as, by its tokens: a third, as it learns nothing."""
        return self.validation_tokens * self.plan.steps_an_epoch / self.tokens / 3


def prepare(job: TrainingJob, home: Path, has_cuda: bool, journal: Journal) -> Prepared:
    """Writes rows/ in the engine's folder `home`. Raises TrainingFailed."""
    base = fetch(job.base, journal.say)
    remember_base(home.parent, base, job.base_name)
    targets = target_names(base, job.settings)
    tokenizer = load_tokenizer(str(base))
    training = _rows(job.training_file, tokenizer, job, home, "train")
    _tell("Training", training, journal)
    validation_tokens = 0
    if job.validation_file:
        validation = _rows(job.validation_file, tokenizer, job, home, "valid")
        validation_tokens = validation.tokens
        _tell("Validation", validation, journal)
    is_on_gpu = has_cuda and torch.cuda.is_available()
    device = torch.device("cuda" if is_on_gpu else "cpu")
    dtype = best_dtype(device, load_config(str(base)).model_type) if is_on_gpu else torch.float32
    plan = EnginePlan(
        base=str(base.absolute()),
        settings=job.settings,
        seed=job.seed,
        targets=targets,
        rows=len(training.rows),
        has_validation=job.validation_file is not None,
        device="cuda" if is_on_gpu else "cpu",
        is_bf16=dtype == torch.bfloat16,
        is_fp16=dtype == torch.float16,
    )
    if torch.cuda.is_available() and not has_cuda:
        journal.say("There is a GPU, but the engine's PyTorch has no CUDA: it trains on the CPU", "warn")
    return Prepared(plan, training.tokens, validation_tokens)


def _rows(file: str, tokenizer: object, job: TrainingJob, home: Path, name: str) -> Rows:
    param, settings = ("training_file" if name == "train" else "validation_file"), job.settings
    rows = read_rows(Path(file), tokenizer, settings.max_length, param, settings.too_long)  # type: ignore[arg-type]
    (home / ROWS).mkdir(exist_ok=True)
    write_rows(home / ROWS / f"{name}.jsonl", rows)
    return rows


def _tell(what: str, rows: Rows, journal: Journal) -> None:
    journal.say(f"{what} rows: {len(rows.rows):,} with {rows.tokens:,} tokens")
    if rows.chats < len(rows.rows):
        journal.say(
            f"They are {rows.chats:,} chats: the template rewrites earlier answers, so each answer is a row"
        )
    if rows.too_long:
        journal.say(f"{what} rows left out, longer than max_length: {rows.too_long:,}", "warn")
    if rows.cut:
        journal.say(
            f"{what} rows cut to max_length, so that they may end in mid-answer: {rows.cut:,}", "warn"
        )
    if rows.nothing_to_learn:
        journal.say(f"{what} rows left out, no answer to learn: {rows.nothing_to_learn:,}", "warn")
