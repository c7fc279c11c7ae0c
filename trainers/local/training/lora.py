"""LoRA fine-tuning of a chat model on a job's folder: a flat loop from the rows to the adapter.

Everything that is told goes through Journal, everything that is kept through checkpoints. A run that was
killed or paused goes on from its newest checkpoint and ends as if it had not been. Knows no HTTP and no other job.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel

from trainers.local.configs import context_of_base
from trainers.local.spool import LoraSettings, TrainingJob, is_disk_full, replace_json
from trainers.local.training.base import (
    add_lora,
    count_parameters,
    load_model,
    load_tokenizer,
    recompute_activations,
)
from trainers.local.training.checkpoints import (
    checkpoint_folder,
    random_states,
    restore_checkpoint,
    restore_random,
    save_checkpoint,
    save_checkpoint_as_result,
    save_result,
)
from trainers.local.training.course import (
    Pace,
    Position,
    Stop,
    Validation,
    best,
    is_due,
    lacks_validation,
    result_sentence,
    stop_sentence,
    why_stop,
)
from trainers.local.training.data import Row, Rows, read_rows
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.hub import fetch
from trainers.local.training.identity import remember_base
from trainers.local.training.journal import Journal, Progress, Scores, Step
from trainers.local.training.memory import Room
from trainers.local.training.packing import Abilities, Loss, abilities, measure, pack_rows, pack_tokens
from trainers.local.training.pauses import Pauses, TrainingPaused, pause_for_disk

CHECKPOINT_S = 60.0
WARM_UP = 0.05
MAX_NORM = 1.0


@dataclass
class Trainee:
    """The model with all that a step on it takes. `look` raises TrainingPaused where somebody wants a pause."""

    model: PeftModel
    optimizer: torch.optim.Optimizer
    able: Abilities
    room: Room
    look: Callable[[], None]


def train(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Ends with adapter/ and DONE. Raises TrainingFailed where it cannot, TrainingPaused where it must wait."""
    journal = Journal(folder, job.integrations, job.settings.ceiling_s)
    is_done = False
    try:
        run(folder, job, checkpoint_s, journal)
        is_done = True
    except OSError as error:
        if not is_disk_full(error):
            raise
        pause_for_disk(folder, error)
        raise TrainingPaused from error
    except torch.OutOfMemoryError as error:
        text = f"The accelerator's memory is full: {error}. Set max_length or lora_r lower, or take a smaller model."
        raise TrainingFailed("out_of_memory", text, "max_length") from error
    finally:
        journal.end(is_done=is_done)


def run(folder: Path, job: TrainingJob, checkpoint_s: float, journal: Journal) -> None:
    settings, started = job.settings, time.monotonic()
    pauses = Pauses(folder)
    torch.manual_seed(job.seed)
    device = best_device()
    dtype = best_dtype(device)
    remember_base(folder, fetch(job.base, journal.say), job.base_name)
    tokenizer = load_tokenizer(job.base)
    settings = within_context(settings, job.base, journal)
    training = read_rows(
        Path(job.training_file), tokenizer, settings.max_length, "training_file", settings.too_long
    )
    validation = None
    if job.validation_file is not None:
        validation = read_rows(
            Path(job.validation_file), tokenizer, settings.max_length, "validation_file", settings.too_long
        )
    pauses.look()
    longest = max(training.longest, validation.longest if validation else 0)
    base = load_model(job.base, device, dtype, longest, settings.quantization)
    able = abilities(base, longest)
    model = add_lora(base, settings)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    position = restore_checkpoint(folder, model, optimizer)
    started -= max(position.seconds, journal.seconds_known)
    room = Room(
        min(pack_tokens(device), able.widest),
        position.room,
        packs=able.packs,
        tell=journal.warn,
        recompute=lambda: recompute_activations(model),
    )
    trainee = Trainee(model, optimizer, able, room, pauses.look)
    steps_an_epoch = math.ceil(len(training.rows) / settings.batch_size)
    total = steps_an_epoch * settings.n_epochs
    journal.begin(after=position.step)
    journal.say(f"Training {job.base_name} on {device.type} in {str(dtype).removeprefix('torch.')}")
    tell_rows(journal, "Training", training, settings)
    if validation:
        tell_rows(journal, "Validation", validation, settings)
    journal.say(str(count_parameters(model)))
    tell_abilities(journal, able)
    if position.step:
        journal.say(f"Going on from the checkpoint of step {position.step}/{total}")
    saved_at, pace, stop = time.monotonic(), Pace(0.0, None, 0.0), None

    def validated(position: Position) -> Position:
        """The position with a validation of its step, which is told."""
        assert validation is not None  # noqa: S101
        scores = evaluate(trainee, validation.rows)
        rate = settings.learning_rate * rate_share(position.step, total)
        step = Step(position.step, total, journal.last_scores(), rate, position.trained_tokens)
        journal.record_validation(step, scores)
        found = Validation(position.step, scores.loss, scores.accuracy)
        return replace(position, validations=(*position.validations, found), room=room.remembered)

    try:
        if validation and is_due(position.step, steps_an_epoch, settings) and lacks_validation(position):
            position = validated(position)
        for step, batch in steps_after(training.rows, settings, job.seed, position.step):
            elapsed = time.monotonic() - started
            stop = why_stop(replace(position, seconds=elapsed), pace, settings)
            if stop:
                break
            begun = time.monotonic()
            rate = settings.learning_rate * rate_share(step, total)
            scores = learn(trainee, batch, rate, step)
            now = time.monotonic()
            tokens = sum(len(row.ids) for row in batch)
            position = replace(
                position,
                step=step,
                trained_tokens=position.trained_tokens + tokens,
                seconds=now - started,
                room=room.remembered,
            )
            guess_s = (
                validation.tokens / tokens * (now - begun) / 3 if validation else 0.0
            )  # without backward
            pace = replace(pace, step_s=now - begun, validation_guess_s=guess_s)
            is_validated = validation is not None and is_due(step, steps_an_epoch, settings)
            told = Step(step, total, scores, rate, position.trained_tokens, position.seconds)
            journal.record(told, is_validated_next=is_validated)
            if is_validated:
                position = validated(position)
                pace = replace(pace, validation_s=time.monotonic() - now)
            ends_epoch, lowest = step % steps_an_epoch == 0, best(position.validations)
            if ends_epoch:
                journal.say(
                    f"Epoch {step // steps_an_epoch}/{settings.n_epochs} finished after step {step}/{total}"
                )
            is_best = lowest is not None and lowest.step == step
            if ends_epoch or is_best or time.monotonic() - saved_at >= checkpoint_s:
                save_checkpoint(folder, model, optimizer, position)
                journal.say(f"Checkpoint of step {step}/{total} saved")
                saved_at = time.monotonic()
        if stop == "ceiling" and validation and position.step and lacks_validation(position):
            position = validated(position)
    except TrainingPaused:
        position = replace(position, seconds=time.monotonic() - started)
        if position.step:
            save_checkpoint(folder, model, optimizer, position)
        seconds = position.seconds
        progress = Progress(position.step, total, position.trained_tokens, seconds, journal.step_s)
        journal.place(progress, is_paused=True)
        raise
    finish(folder, job, trainee, replace(position, seconds=time.monotonic() - started), total, stop, journal)


def within_context(settings: LoraSettings, base: str, journal: Journal) -> LoraSettings:
    """Rows are never longer than what the model was made for, whatever max_length says."""
    context = context_of_base(base)
    if context is None or settings.max_length <= context:
        return settings
    journal.warn(
        f"max_length {settings.max_length} is more than the base's context: rows may have {context} tokens"
    )
    return replace(settings, max_length=context)


def finish(
    folder: Path,
    job: TrainingJob,
    trainee: Trainee,
    position: Position,
    total: int,
    stop: Stop | None,
    journal: Journal,
) -> None:
    """Writes the result, which is the checkpoint of the lowest validation loss where there is one, and DONE."""
    if position.step == 0:
        text = (
            f"The ceiling of {job.settings.ceiling_s:,.0f} s was reached before the first step: reading the rows and "
            f"loading the model took {position.seconds:,.0f} s. Set max_seconds or max_usd higher."
        )
        raise TrainingFailed("ceiling_reached", text, "max_seconds")
    stopped = stop_sentence(stop, position, total, job.settings) if stop else None
    if stopped:
        journal.warn(stopped)
    chosen = result_sentence(position, total)
    if chosen:
        journal.say(chosen)
    lowest = best(position.validations)
    result_step = position.step if lowest is None else lowest.step
    if checkpoint_folder(folder, result_step).exists():
        save_checkpoint_as_result(folder, result_step)
    else:
        save_result(folder, trainee.model)
    journal.say(f"Trained on {position.trained_tokens:,} tokens in {position.seconds:,.0f} s; adapter saved")
    progress = Progress(position.step, total, position.trained_tokens, position.seconds, journal.step_s)
    journal.place(progress, is_over=True)
    done = {
        "trained_tokens": position.trained_tokens,
        "seconds": round(position.seconds, 1),
        "trainable_parameters": count_parameters(trainee.model).trainable,
        "step": position.step,
        "result_step": result_step,
        "stopped": stopped,
    }
    replace_json(folder / "DONE", done)


def tell_rows(journal: Journal, what: str, rows: Rows, settings: LoraSettings) -> None:
    journal.say(f"{what} rows: {len(rows.rows):,} with {rows.tokens:,} tokens")
    if rows.too_long:
        journal.say(f"{what} rows left out, longer than max_length: {rows.too_long:,}", "warn")
    if rows.cut:
        text = f"{what} rows cut to max_length {settings.max_length} tokens, so that they may end in mid-answer: "
        journal.say(f"{text}{rows.cut:,}", "warn")
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


def steps_after(
    rows: Sequence[Row], settings: LoraSettings, seed: int, after: int
) -> Iterator[tuple[int, list[Row]]]:
    """Steps, counted from 1 over all epochs, with their rows."""
    step = 0
    for epoch in range(settings.n_epochs):
        for batch in batches(rows, settings.batch_size, seed, epoch):
            step += 1
            if step > after:
                yield step, batch


def rate_share(step: int, total: int) -> float:
    """Linear from 0 to 1 over the first steps, then linear down, not quite to 0 at the last step."""
    warm_up = max(1, round(WARM_UP * total))
    return min(step / warm_up, (total - step + 1) / (total - warm_up + 1))


def learn(trainee: Trainee, batch: Sequence[Row], rate: float, step: int) -> Scores:
    """One step on the mean loss of the batch's supervised tokens. One that is paused leaves no trace."""
    model, optimizer = trainee.model, trainee.optimizer
    model.train()
    targets = sum(sum(row.supervised) for row in batch)
    random = random_states()

    def add_up(parts: list[list[Row]]) -> Scores:
        try:
            return add_gradients(trainee, parts, targets)
        except BaseException:  # memory full or paused: nothing of this step has happened
            optimizer.zero_grad()
            restore_random(random)
            raise

    scores = trainee.room.try_out(batch, add_up, f"at step {step}")
    learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(learnt, MAX_NORM).item()
    if not math.isfinite(scores.loss) or not math.isfinite(norm):
        text = (
            f"At step {step} the loss became {scores.loss} and its gradient {norm}. Set learning_rate lower."
        )
        raise TrainingFailed("loss_not_finite", text, "learning_rate")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return scores


def add_gradients(trainee: Trainee, parts: Sequence[Sequence[Row]], targets: int) -> Scores:
    loss, right = 0.0, 0
    for rows in parts:
        trainee.look()
        part = measure_rows(trainee.model, rows, trainee.able)
        (part.total / targets).backward()  # type: ignore[no-untyped-call]
        loss, right = loss + part.total.item() / targets, right + part.right
    return Scores(loss, right / targets)


def evaluate(trainee: Trainee, rows: Sequence[Row]) -> Scores:
    trainee.model.eval()
    by_length = sorted(rows, key=lambda row: len(row.ids))

    def measure_all(parts: list[list[Row]]) -> list[Loss]:
        losses = []
        for part in parts:
            trainee.look()
            with torch.no_grad():
                losses.append(measure_rows(trainee.model, part, trainee.able))
        return losses

    losses = trainee.room.try_out(by_length, measure_all, "while validating")
    targets = sum(loss.tokens for loss in losses)
    return Scores(sum(loss.total.item() for loss in losses) / targets, sum(x.right for x in losses) / targets)


def measure_rows(model: PeftModel, rows: Sequence[Row], able: Abilities) -> Loss:
    """Frozen weights in bfloat16 meet LoRA's in float32: autocast multiplies both in bfloat16."""
    weight = next(model.parameters())
    pack = pack_rows(rows, weight.device, weight.dtype)
    with torch.autocast(weight.device.type, weight.dtype, enabled=weight.dtype != torch.float32):
        return measure(model, pack, able)
