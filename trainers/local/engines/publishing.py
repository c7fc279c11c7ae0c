"""What an engine wrote into its output folder → the job's checkpoints and adapter, complete once they have a name."""

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

from trainers.local.spool import replace_json
from trainers.local.training.checkpoints import (
    KEPT,
    WEIGHTS,
    checkpoint_folder,
    list_checkpoints,
    read_position,
    renamed_when_complete,
    save_checkpoint_as_result,
)
from trainers.local.training.course import START, Position, Validation, best
from trainers.local.training.failures import TrainingFailed

CONFIG = "adapter_config.json"
LAST_FILE = "trainer_state.json"  # transformers' Trainer writes it behind all others of a checkpoint


def engine_checkpoints(output: Path) -> dict[int, Path]:
    """Complete ones by their step, oldest first."""
    found = {
        int(folder.name.rpartition("-")[2]): folder
        for folder in output.glob("checkpoint-*[0-9]")
        if _is_json(folder / LAST_FILE)
    }
    return dict(sorted(found.items()))


def remove_untold(output: Path, told: int) -> None:
    """Checkpoints that a kill cut off, and those beyond step `told`: the engine would go on from the newest,
    whatever is in it, and of an engine that outlived us nobody has read the log."""
    usable = {folder for step, folder in engine_checkpoints(output).items() if step <= told}
    for folder in set(output.glob("checkpoint-*")) - usable:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Told:
    """What results.csv has of a job: its steps, and how many of them in full."""

    steps: int
    whole: int
    validations: tuple[Validation, ...]


def told(job_folder: Path, is_validated: Callable[[int], bool]) -> Told:
    """A last step whose validation is due and isn't there is not whole."""
    path = job_folder / "results.csv"
    if not path.exists():
        return Told(0, 0, ())
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in list(csv.reader(file))[1:] if len(row) > 4]  # a kill may cut the last one off
    found = tuple(
        Validation(int(row[0]), float(row[3]), float(row[4]) if row[4] else None) for row in rows if row[3]
    )
    steps = len(rows)
    lacks_validation = bool(rows) and is_validated(steps) and not rows[-1][3]
    return Told(steps, steps - lacks_validation, found)


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
            known = tuple(each for each in position.validations if each.step <= step)
            with suppress(FileNotFoundError):
                target = checkpoint_folder(job_folder, step)
                _publish(source, target, replace(position, step=step, validations=known))
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
