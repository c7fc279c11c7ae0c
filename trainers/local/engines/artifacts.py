"""What an engine wrote into its output folder, as the job's checkpoints, adapter and result; DONE comes
last."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load, save

from trainers.local.job_directory import TrainingJob, replace_json
from trainers.local.training.checkpoints import (
    KEPT,
    WEIGHTS,
    checkpoint_folder,
    list_checkpoints,
    read_position,
    renamed_when_complete,
    save_checkpoint_as_result,
)
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.metrics_logger import MetricsLogger, Progress
from trainers.local.training.schedule import (
    START,
    Position,
    Stop,
    Validation,
    best,
    result_sentence,
    stop_sentence,
)

CONFIG = "adapter_config.json"
LAST_FILE = "trainer_state.json"  # transformers' Trainer writes it behind all others of a checkpoint


def engine_checkpoints(output: Path) -> dict[int, Path]:
    """Complete ones by their step, oldest first."""
    paths_by_number = {
        int(folder.name.rpartition("-")[2]): folder
        for folder in output.glob("checkpoint-*[0-9]")
        if _is_json(folder / LAST_FILE)
    }
    return dict(sorted(paths_by_number.items()))


def remove_unlogged(output: Path, value: int) -> None:
    """Checkpoints that a kill cut off, and those beyond step `value`: the engine would go on from the newest,
    whatever is in it, and of an engine that outlived us nobody has read the log."""
    usable = {folder for step, folder in engine_checkpoints(output).items() if step <= value}
    for folder in set(output.glob("checkpoint-*")) - usable:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class LoggedResults:
    """What results.csv has of a job: its steps, and how many of them in full."""

    steps: int
    whole: int
    validations: tuple[Validation, ...]


def read_results(job_folder: Path, is_validated: Callable[[int], bool]) -> LoggedResults:
    """A last step whose validation is due and isn't there is not whole."""
    path = job_folder / "results.csv"
    if not path.exists():
        return LoggedResults(0, 0, ())
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in list(csv.reader(file))[1:] if len(row) > 4]  # a kill may cut the last one off
    validations = tuple(
        Validation(int(row[0]), float(row[3]), float(row[4]) if row[4] else None) for row in rows if row[3]
    )
    steps = len(rows)
    lacks_validation = bool(rows) and is_validated(steps) and not rows[-1][3]
    return LoggedResults(steps, steps - lacks_validation, validations)


def last_position(job_folder: Path) -> Position:
    """Of the newest checkpoint that the job has."""
    complete = list_checkpoints(job_folder)
    return read_position(complete[-1]) if complete else START


def published_steps(job_folder: Path) -> list[int]:
    """Oldest first."""
    return [int(each.name.removeprefix("step-")) for each in list_checkpoints(job_folder)]


def publish_checkpoints(job_folder: Path, output: Path, position: Position) -> Iterator[int]:
    """Take over what is new and told; yields their steps. Leaves the newest three and the best.

    `position` is the job's; a checkpoint's validations are those up to its step. One that the engine, which keeps
    three, takes away meanwhile is left out.
    """
    (job_folder / "checkpoints").mkdir(exist_ok=True)
    newest = max(published_steps(job_folder), default=0)
    for step, source in engine_checkpoints(output).items():
        if newest < step <= position.step:
            validations = tuple(each for each in position.validations if each.step <= step)
            with suppress(FileNotFoundError):
                target = checkpoint_folder(job_folder, step)
                _publish(source, target, replace(position, step=step, validations=validations))
                yield step
    lowest = best(position.validations)
    for old in list_checkpoints(job_folder)[:-KEPT]:
        if lowest is None or old != checkpoint_folder(job_folder, lowest.step):
            shutil.rmtree(old)


def publish_result(job_folder: Path, output: Path, step: int, engine: str) -> int:
    """The checkpoint of `step` where the job has it, else the engine's last word; returns how many numbers were
    trained. Raises TrainingFailed where they cannot be used."""
    checkpoint = checkpoint_folder(job_folder, step)
    source = checkpoint if checkpoint.exists() else output
    weights = load((source / WEIGHTS).read_bytes())
    broken = sorted(name for name, tensor in weights.items() if not torch.isfinite(tensor).all())
    if broken:
        text = (
            f"The adapter that {engine} trained holds numbers that are not finite, as in {broken[0]}. "
            "Set learning_rate lower."
        )
        raise TrainingFailed("loss_not_finite", text, "learning_rate")
    if source == checkpoint:
        save_checkpoint_as_result(job_folder, step)
    else:
        shutil.rmtree(job_folder / "adapter", ignore_errors=True)
        _publish(output, job_folder / "adapter", None)
    return sum(tensor.numel() for tensor in weights.values())


def _publish(source: Path, target: Path, position: Position | None) -> None:
    """In float32, as the built-in engine saves adapters."""
    weights = load((source / WEIGHTS).read_bytes())
    with renamed_when_complete(target) as temporary:
        plain = {name: tensor.to(torch.float32).contiguous() for name, tensor in weights.items()}
        (temporary / WEIGHTS).write_bytes(save(plain, metadata={"format": "pt"}))
        shutil.copyfile(source / CONFIG, temporary / CONFIG)
        if position:
            replace_json(temporary / "checkpoint.json", asdict(position))


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


# How a training by another engine ends: its result, the sentences about it, and DONE last of all, as
# a training by our own engine ends.
#
# The result is a checkpoint: an engine that is ended early leaves nothing else.


@dataclass(frozen=True)
class Ended:
    """Where a training of `total` steps ended, and why if before the last."""

    position: Position
    total: int
    stop: Stop | None


def finish_job(folder: Path, job: TrainingJob, output: Path, ended: Ended, journal: MetricsLogger) -> None:
    """`folder` is the job's, `output` the engine's. Raises TrainingFailed where there is no result."""
    at, total = ended.position, ended.total
    stopped = _stopped(folder, job, ended, journal)
    saved = _with_saved(folder, at)
    chosen, lowest = result_sentence(saved, total), best(saved.validations)
    if chosen:
        journal.say(chosen)
    result_step = lowest.step if lowest else max(published_steps(folder), default=total)
    trainable = publish_result(folder, output, result_step, job.settings.engine)
    journal.say(f"Trained on {at.trained_tokens:,} tokens in {at.seconds:,.0f} s; adapter saved")
    journal.place(Progress(at.step, total, at.trained_tokens, at.seconds, journal.step_s), is_over=True)
    done = {
        "trained_tokens": at.trained_tokens,
        "seconds": round(at.seconds, 1),
        "trainable_parameters": trainable,
        "step": at.step,
        "result_step": result_step,
        "stopped": stopped,
    }
    replace_json(folder / "DONE", done)


def _stopped(folder: Path, job: TrainingJob, ended: Ended, journal: MetricsLogger) -> str | None:
    """Raises TrainingFailed where nothing was kept."""
    if ended.stop is None or ended.position.step == ended.total:
        return None
    value, at = last_position(folder).step, ended.position
    if not value:
        text = (
            f"The ceiling of {job.settings.ceiling_s:,.0f} s was reached before the first checkpoint: reading the "
            f"rows, loading the model and {at.step} steps took {at.seconds:,.0f} s. Set max_seconds or max_usd higher."
        )
        raise TrainingFailed("ceiling_reached", text, "max_seconds")
    sentence = stop_sentence(ended.stop, at, ended.total, job.settings)
    journal.warn(sentence)
    if ended.stop == "ceiling" and value < at.step:
        journal.warn(f"What was learnt after the checkpoint of step {value} is lost")
    return sentence


def _with_saved(folder: Path, at: Position) -> Position:
    """With all its validations, or, where the best of them has no checkpoint, with those that have."""
    values = published_steps(folder)
    saved = tuple(each for each in at.validations if each.step in values)
    return at if best(saved) == best(at.validations) else replace(at, validations=saved)
