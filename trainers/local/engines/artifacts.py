"""Turns the files in an engine's output folder into the job's checkpoints, adapter and result. DONE is written last."""

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

from trainers.local.job_directory import TrainingJob, atomic_folder, replace_json
from trainers.local.training.checkpoints import (
    ADAPTER_CHECKPOINTS,
    checkpoint_folder,
    checkpoint_step,
    delete_old_checkpoints,
    list_checkpoints,
    read_position,
    save_checkpoint_as_result,
)
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.metrics_logger import MetricsLogger, Progress
from trainers.local.training.schedule import (
    START,
    Position,
    Stop,
    Validation,
    best_validation,
    result_sentence,
    stop_sentence,
)
from trainers.local.training.tuned_weights import WEIGHTS

CONFIG = "adapter_config.json"
LAST_FILE = "trainer_state.json"  # transformers' Trainer writes it after all other files of a checkpoint


@dataclass(frozen=True)
class LoggedResults:
    """The content of results.csv. `steps` is the number of logged steps. `complete_steps` excludes the last one if a
    validation is due there and missing."""

    steps: int
    complete_steps: int
    validations: tuple[Validation, ...]


def read_results(job_folder: Path, is_validated: Callable[[int], bool]) -> LoggedResults:
    path = job_folder / "results.csv"
    if not path.exists():
        return LoggedResults(0, 0, ())
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    rows = [row for row in lines[1:] if len(row) > 4]  # a kill may truncate the last row
    validations = []
    for step, _, _, loss, accuracy, *_ in rows:
        if loss:
            parsed = float(accuracy) if accuracy else None
            validations.append(Validation(int(step), float(loss), parsed))

    steps = len(rows)
    complete_steps = steps
    if rows and is_validated(steps):
        _, _, _, last_loss, *_ = rows[-1]
        if not last_loss:
            complete_steps -= 1
    return LoggedResults(steps, complete_steps, tuple(validations))


def engine_checkpoints(output: Path) -> dict[int, Path]:
    """Returns the engine's complete checkpoints by step, oldest first."""
    folders = {}
    for folder in output.glob("checkpoint-*[0-9]"):
        # Not complete if the last file is missing or written in part.
        with suppress(FileNotFoundError, ValueError):
            json.loads((folder / LAST_FILE).read_text(encoding="utf-8"))
            step = int(folder.name.rpartition("-")[2])
            folders[step] = folder
    return dict(sorted(folders.items()))


def remove_unlogged(output: Path, last_step: int) -> None:
    """Deletes incomplete checkpoints and those after `last_step`. The engine would resume from the newest one in any
    case, but the log of an engine that outlived our process was not read beyond that step."""
    usable = {folder for step, folder in engine_checkpoints(output).items() if step <= last_step}
    for folder in set(output.glob("checkpoint-*")) - usable:
        shutil.rmtree(folder)


def read_last_position(job_folder: Path) -> Position:
    """Returns the position of the job's newest checkpoint."""
    complete = list_checkpoints(job_folder)
    if not complete:
        return START
    return read_position(complete[-1])


def publish_checkpoints(job_folder: Path, output: Path, position: Position) -> Iterator[int]:
    """Copies the engine's new checkpoints up to the job's `position` to the job's folder and yields their steps. Only
    the newest three and the best one are kept.

    A checkpoint is stored with the validations up to its step. The engine itself keeps three checkpoints; one that it
    deletes meanwhile is skipped.
    """
    (job_folder / "checkpoints").mkdir(exist_ok=True)
    newest = max(_published_steps(job_folder), default=0)
    for step, source in engine_checkpoints(output).items():
        if not newest < step <= position.step:
            continue
        validations = tuple(each for each in position.validations if each.step <= step)
        reached = replace(position, step=step, validations=validations)
        with suppress(FileNotFoundError):
            _publish(source, checkpoint_folder(job_folder, step), reached)
            yield step
    delete_old_checkpoints(job_folder, position, ADAPTER_CHECKPOINTS)


def finish_job(
    folder: Path,
    job: TrainingJob,
    output: Path,
    position: Position,
    total: int,
    stop: Stop | None,
    logger: MetricsLogger,
) -> None:
    """Publishes the result of a training of `total` steps that ended at `position`, in the same files as our own
    engine. The result is a checkpoint, since an engine that is stopped early leaves nothing else.

    `folder` is the job's, and `output` the engine's. Raises TrainingFailed if there is no result.
    """
    sentence = None
    if stop and position.step != total:
        sentence = _explain_stop(folder, job, position, total, stop, logger)

    # The result is the checkpoint with the best validation, or the best one that was kept.
    steps = _published_steps(folder)
    validations = tuple(each for each in position.validations if each.step in steps)
    if best_validation(validations) != best_validation(position.validations):
        position = replace(position, validations=validations)
    lowest = best_validation(position.validations)
    chosen = result_sentence(position, total)
    if chosen:
        logger.log(chosen)
    result_step = max(steps, default=total)
    if lowest:
        result_step = lowest.step
    trainable = _publish_result(folder, output, result_step, job.settings.engine)

    tokens = position.trained_tokens
    seconds = position.seconds
    logger.log(f"Trained on {tokens:,} tokens in {seconds:,.0f} s; adapter saved")
    logger.write_progress(Progress(position.step, total, tokens, seconds, logger.step_s), is_over=True)
    done = {
        "trained_tokens": tokens,
        "seconds": round(seconds, 1),
        "trainable_parameters": trainable,
        "step": position.step,
        "result_step": result_step,
        "stopped": sentence,
    }
    replace_json(folder / "DONE", done)


def _explain_stop(
    folder: Path, job: TrainingJob, position: Position, total: int, stop: Stop, logger: MetricsLogger
) -> str:
    """Logs and returns why the training stopped early. Raises TrainingFailed if no checkpoint was saved."""
    saved_step = read_last_position(folder).step
    if not saved_step:
        text = (
            f"The ceiling of {job.settings.ceiling_s:,.0f} s was reached before the first checkpoint: reading the "
            f"rows, loading the model and {position.step} steps took {position.seconds:,.0f} s. Set max_seconds or "
            "max_usd higher."
        )
        raise TrainingFailed("ceiling_reached", text, "max_seconds")
    sentence = stop_sentence(stop, position, total, job.settings)
    logger.warn(sentence)
    if stop == "ceiling" and saved_step < position.step:
        logger.warn(f"The steps after the checkpoint of step {saved_step} are lost")
    return sentence


def _publish_result(job_folder: Path, output: Path, step: int, engine: str) -> int:
    """Publishes the job's checkpoint of `step`, or the engine's final adapter if there is no such checkpoint, and
    returns the number of trained parameters. Raises TrainingFailed if one of them is not finite."""
    checkpoint = checkpoint_folder(job_folder, step)
    source = output
    if checkpoint.exists():
        source = checkpoint
    weights = load((source / WEIGHTS).read_bytes())
    broken = sorted(name for name, tensor in weights.items() if not torch.isfinite(tensor).all())
    if broken:
        text = (
            f"The adapter trained by {engine} has numbers that are not finite, for example in {broken[0]}. "
            "Set learning_rate lower."
        )
        raise TrainingFailed("loss_not_finite", text, "learning_rate")
    if source == checkpoint:
        save_checkpoint_as_result(job_folder, step)
    else:
        shutil.rmtree(job_folder / "adapter", ignore_errors=True)
        _publish(output, job_folder / "adapter", None)
    return sum(tensor.numel() for tensor in weights.values())


def _published_steps(job_folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in the job's folder, oldest first."""
    return [checkpoint_step(folder) for folder in list_checkpoints(job_folder)]


def _publish(source: Path, target: Path, position: Position | None) -> None:
    """Copies an adapter, converted to float32 like those of the built-in engine."""
    weights = load((source / WEIGHTS).read_bytes())
    plain = {name: tensor.to(torch.float32).contiguous() for name, tensor in weights.items()}
    content = save(plain, metadata={"format": "pt"})
    with atomic_folder(target) as temporary:
        (temporary / WEIGHTS).write_bytes(content)
        shutil.copyfile(source / CONFIG, temporary / CONFIG)
        if position:
            replace_json(temporary / "checkpoint.json", asdict(position))
