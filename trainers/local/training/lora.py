"""LoRA fine-tuning of a chat model on a job's folder: a flat loop from the rows to the adapter.

Everything that is told goes through Journal, everything that is kept through checkpoints. A run that was
killed goes on from its newest checkpoint and ends as if it had not been. Knows no HTTP and no other job.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel

from trainers.local.spool import TrainingJob, replace_json
from trainers.local.training.base import add_lora, count_parameters, load_model, load_tokenizer
from trainers.local.training.checkpoints import Position, restore_checkpoint, save_checkpoint, save_result
from trainers.local.training.data import Row, Rows, read_rows
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.journal import Journal, Scores, Step
from trainers.local.training.packing import (
    Abilities,
    Loss,
    abilities,
    fill_packs,
    measure,
    pack_rows,
    pack_tokens,
)

CHECKPOINT_S = 60.0
WARM_UP = 0.05
MAX_NORM = 1.0
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def train(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Ends with adapter/ and DONE. Raises TrainingFailed where it cannot."""
    try:
        run(folder, job, checkpoint_s)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        text = f"The disk is full: {error}. Free some space and start again; the run goes on from its checkpoint."
        raise TrainingFailed("disk_full", text) from error
    except torch.OutOfMemoryError as error:
        text = f"The accelerator's memory is full: {error}. Set max_length or lora_r lower, or take a smaller model."
        raise TrainingFailed("out_of_memory", text, "max_length") from error


def run(folder: Path, job: TrainingJob, checkpoint_s: float) -> None:
    settings, journal, started = job.settings, Journal(folder), time.monotonic()
    torch.manual_seed(job.seed)
    device = best_device()
    dtype = best_dtype(device)
    tokenizer = load_tokenizer(job.base)
    training = read_rows(Path(job.training_file), tokenizer, settings.max_length, "training_file")
    validation = None
    if job.validation_file is not None:
        validation = read_rows(Path(job.validation_file), tokenizer, settings.max_length, "validation_file")
    longest = max(training.longest, validation.longest if validation else 0)
    base = load_model(job.base, device, dtype, longest)
    able = abilities(base, longest)
    model = add_lora(base, settings)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    position = restore_checkpoint(folder, model, optimizer)
    started -= position.seconds
    steps_an_epoch = math.ceil(len(training.rows) / settings.batch_size)
    total = steps_an_epoch * settings.n_epochs
    journal.begin(after=position.step)
    journal.say(f"Training {job.base_name} on {device.type} in {str(dtype).removeprefix('torch.')}")
    tell_rows(journal, "Training", training)
    if validation:
        tell_rows(journal, "Validation", validation)
    journal.say(str(count_parameters(model)))
    tell_abilities(journal, able)
    if position.step:
        journal.say(f"Going on from the checkpoint of step {position.step}/{total}")
    saved_at, tokens = time.monotonic(), position.trained_tokens
    for epoch in range(position.step // steps_an_epoch, settings.n_epochs):
        for number, batch in enumerate(batches(training.rows, settings.batch_size, job.seed, epoch), start=1):
            step = epoch * steps_an_epoch + number
            if step <= position.step:
                continue
            rate = settings.learning_rate * rate_share(step, total)
            scores = learn(model, batch, able, optimizer, rate, step)
            tokens += sum(len(row.ids) for row in batch)
            ends_epoch = number == steps_an_epoch
            valid = evaluate(model, validation.rows, able) if validation and ends_epoch else None
            journal.record(Step(step, total, scores, rate, tokens, valid))
            if ends_epoch:
                journal.say(f"Epoch {epoch + 1}/{settings.n_epochs} finished after step {step}/{total}")
            if ends_epoch or time.monotonic() - saved_at >= checkpoint_s:
                save_checkpoint(folder, model, optimizer, Position(step, tokens, time.monotonic() - started))
                journal.say(f"Checkpoint of step {step}/{total} saved")
                saved_at = time.monotonic()
    save_result(folder, model)
    seconds = round(time.monotonic() - started, 1)
    journal.say(f"Trained on {tokens:,} tokens in {seconds:,.0f} s; adapter saved")
    done = {
        "trained_tokens": tokens,
        "seconds": seconds,
        "trainable_parameters": count_parameters(model).trainable,
    }
    replace_json(folder / "DONE", done)


def tell_rows(journal: Journal, what: str, rows: Rows) -> None:
    journal.say(f"{what} rows: {len(rows.rows):,} with {rows.tokens:,} tokens")
    if rows.too_long:
        journal.say(f"{what} rows left out, longer than max_length: {rows.too_long:,}", "warn")
    if rows.nothing_to_learn:
        journal.say(f"{what} rows left out, no answer to learn: {rows.nothing_to_learn:,}", "warn")


def tell_abilities(journal: Journal, able: Abilities) -> None:
    if not able.packs:
        journal.say(
            "Rows are computed one by one: this model's family is not known to keep packed rows apart"
        )
    if not able.selects:
        journal.say("Logits are computed at every token: this model cannot select places")


def batches(rows: Sequence[Row], size: int, seed: int, epoch: int) -> list[list[Row]]:
    """Shuffled anew each epoch, the same for the same seed. Not grouped by length: nothing is padded."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    return [[rows[place] for place in order[start : start + size]] for start in range(0, len(rows), size)]


def rate_share(step: int, total: int) -> float:
    """Linear from 0 to 1 over the first steps, then linear down, not quite to 0 at the last step."""
    warm_up = max(1, round(WARM_UP * total))
    return min(step / warm_up, (total - step + 1) / (total - warm_up + 1))


def learn(
    model: PeftModel,
    batch: Sequence[Row],
    able: Abilities,
    optimizer: torch.optim.Optimizer,
    rate: float,
    step: int,
) -> Scores:
    """One step on the mean loss of the batch's supervised tokens."""
    model.train()
    targets = sum(sum(row.supervised) for row in batch)
    loss, right = 0.0, 0
    for pack in packs_of(batch, able, model.device):
        part = measure_rows(model, pack, able)
        (part.total / targets).backward()  # type: ignore[no-untyped-call]
        loss, right = loss + part.total.item() / targets, right + part.right
    learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(learnt, MAX_NORM).item()
    if not math.isfinite(loss) or not math.isfinite(norm):
        text = f"At step {step} the loss became {loss} and its gradient {norm}. Set learning_rate lower."
        raise TrainingFailed("loss_not_finite", text, "learning_rate")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return Scores(loss, right / targets)


@torch.no_grad()
def evaluate(model: PeftModel, rows: Sequence[Row], able: Abilities) -> Scores:
    model.eval()
    by_length = sorted(rows, key=lambda row: len(row.ids))
    parts = [measure_rows(model, pack, able) for pack in packs_of(by_length, able, model.device)]
    targets = sum(part.tokens for part in parts)
    return Scores(sum(part.total.item() for part in parts) / targets, sum(p.right for p in parts) / targets)


def packs_of(rows: Sequence[Row], able: Abilities, device: torch.device) -> list[list[Row]]:
    return fill_packs(rows, pack_tokens(device) if able.packs else 1)


def measure_rows(model: PeftModel, rows: Sequence[Row], able: Abilities) -> Loss:
    """Frozen weights in bfloat16 meet LoRA's in float32: autocast multiplies both in bfloat16."""
    weight = next(model.parameters())
    pack = pack_rows(rows, weight.device, weight.dtype)
    with torch.autocast(weight.device.type, weight.dtype, enabled=weight.dtype != torch.float32):
        return measure(model, pack, able)
