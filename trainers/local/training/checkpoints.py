"""Writes checkpoints and results to the disk, and reads them when a run resumes or an adapter is trained further. A
folder gets its final name only when it is complete.

A checkpoint holds the files of an adapter or a model (tuned_weights.py), state.pt (optimizer, loss scale, random number
generators, and a model's weights in float32) and checkpoint.json (Position). The order of rows and the learning rate
follow from the seed and the step.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from trainers.local.job_directory import (
    TrainingJob,
    atomic_folder,
    new_result_folder,
    read_json,
    replace_json,
)
from trainers.local.kernels.fused_layers import compute_fused
from trainers.local.peft import (
    LoraConfig,
    PeftModel,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from trainers.local.training import distributed
from trainers.local.training.base_model import attach_adapter, count_parameters, stored_quantization
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.metrics_logger import MetricsLogger, Progress
from trainers.local.training.schedule import (
    START,
    Position,
    Room,
    Stop,
    Validation,
    best_validation,
    describe_ceiling,
    result_sentence,
    stop_sentence,
)
from trainers.local.training.tuned_weights import WEIGHTS, read_tuned, restore_tuned, state_of, write_tuned
from trainers.methods import METHODS, Parameters

CHECKPOINT_S = 60.0
ADAPTER_CHECKPOINTS = 3
MODEL_CHECKPOINTS = 1
TUNED_FOLDER = "tuned"
STATE = "state.pt"
POSITION = "checkpoint.json"


def save_checkpoint(
    folder: Path, model: Any, optimizer: Optimizer, position: Position, scaler: GradScaler
) -> None:
    """Saves a checkpoint in the job's `folder` and keeps the newest ones (three of an adapter, one of a model) and the
    one with the lowest validation loss.

    If the step is already saved, only its Position is updated, with a validation made since. With several processes
    only the first one saves.
    """
    if not distributed.is_first():
        return
    root = folder / "checkpoints"
    root.mkdir(exist_ok=True)
    target = checkpoint_folder(folder, position.step)
    if target.exists():
        return replace_json(target / POSITION, asdict(position))
    with atomic_folder(target) as temporary:
        write_tuned(temporary, model)
        state = {
            "optimizer": optimizer.state_dict(),
            "random": get_random_states(),
            "scaler": scaler.state_dict(),
            "weights": state_of(model),
        }
        write_state(temporary / STATE, state)
        replace_json(temporary / POSITION, asdict(position))
    delete_old_checkpoints(folder, position, checkpoints_to_keep(model))


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Raises OSError if the disk is full. The state isn't built in memory first, since a model's is large."""
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch complains about the position in its file; what happened before is the disk's own error.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def checkpoints_to_keep(model: Any) -> int:
    """Returns how many of the newest checkpoints stay on the disk. A model's have 14 bytes for each weight."""
    if isinstance(model, PeftModel):
        return ADAPTER_CHECKPOINTS
    return MODEL_CHECKPOINTS


def delete_old_checkpoints(folder: Path, position: Position, keep: int) -> None:
    """Keeps the newest `keep` checkpoints (at least 1) and the one with the lowest validation loss."""
    lowest = best_validation(position.validations)
    for old in list_checkpoints(folder)[:-keep]:
        if lowest is None or old != checkpoint_folder(folder, lowest.step):
            shutil.rmtree(old)


def restore_checkpoint(folder: Path, model: Any, optimizer: Optimizer, scaler: GradScaler) -> Position:
    """Loads the newest checkpoint and returns its position, or START if there is none. The first process reads it for
    all processes, since the others may run on machines without the file."""
    stored = distributed.run_in_first(lambda: read_newest_checkpoint(folder))
    if stored is None:
        return START
    written, states, position = stored
    source: Path | io.BytesIO
    if isinstance(states, bytes):
        source = io.BytesIO(states)
    else:
        source = states
    # On the CPU, since another device may have saved it; the optimizer moves its state itself.
    state: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
    restore_tuned(model, written, state.get("weights") or {})
    optimizer.load_state_dict(state["optimizer"])
    if state.get("scaler"):  # empty if the loss isn't scaled
        scaler.load_state_dict(state["scaler"])
    restore_random_states(state["random"])
    return position


def read_newest_checkpoint(folder: Path) -> tuple[bytes, bytes | Path, Position] | None:
    """Returns an adapter's file, state.pt and the position, or None if there is no checkpoint. Of state.pt it is the
    path, unless other processes need it too, perhaps on machines without the file. Deletes incomplete folders."""
    for incomplete in (*folder.glob("checkpoints/.*"), *folder.glob(".adapter*")):
        shutil.rmtree(incomplete)
    complete = list_checkpoints(folder)
    if not complete:
        return None
    newest = complete[-1]
    states: bytes | Path = newest / STATE
    if not distributed.is_alone():
        states = (newest / STATE).read_bytes()
    return read_tuned(newest), states, read_position(newest)


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints' folders, oldest first."""
    # By number: the names have six digits only up to step 999,999.
    return sorted(folder.glob("checkpoints/step-*"), key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def checkpoint_folder(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:06d}"


def read_position(checkpoint: Path) -> Position:
    raw = read_json(checkpoint / POSITION) or {}
    validations = tuple(Validation(**each) for each in raw.get("validations", ()))
    room = raw.get("room")
    recomputes = bool(raw.pop("recomputes", False))  # beside the room in checkpoints of release 0.2
    if isinstance(room, dict):
        read = Room(**room)
    else:
        read = Room(room, recomputes)
    return Position(**{**raw, "validations": validations, "room": read})


def save_checkpoint_as_result(folder: Path, step: int) -> None:
    """Copies the files of that step's adapter or model to the result, byte for byte."""
    with new_result_folder(folder) as temporary:
        for path in checkpoint_folder(folder, step).iterdir():
            if path.name not in (STATE, POSITION):
                shutil.copyfile(path, temporary / path.name)


def get_random_states() -> dict[str, Any]:
    cuda = []
    if torch.cuda.is_available():
        cuda = torch.cuda.get_rng_state_all()
    mps = None
    if torch.backends.mps.is_available():
        mps = torch.mps.get_rng_state()
    return {"cpu": torch.get_rng_state(), "cuda": cuda, "mps": mps}


def restore_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    # A run may resume on a machine with other devices, whose generators these don't fit.
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    if states["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def finish_job(
    folder: Path,
    job: TrainingJob,
    model: Any,
    position: Position,
    total: int,
    stop: Stop | None,
    logger: MetricsLogger,
) -> None:
    """Writes the result and DONE. The result is the checkpoint with the lowest validation loss, or the last step
    without validations. With several processes only the first one writes."""
    if position.step == 0:
        text = (
            f"The ceiling of {describe_ceiling(job.settings)} was reached before the first step: reading the rows and "
            f"loading the model took {position.seconds:,.0f} s. Set max_seconds or max_usd higher."
        )
        raise TrainingFailed("ceiling_reached", text, "max_seconds")
    stopped = None
    if stop:
        stopped = stop_sentence(stop, position, total, job.settings)
        logger.warn(stopped)
    chosen = result_sentence(position, total)
    if chosen:
        logger.log(chosen)
    if not distributed.is_first():
        return
    lowest = best_validation(position.validations)
    result_step = position.step
    if lowest is not None:
        result_step = lowest.step
    if checkpoint_folder(folder, result_step).exists():
        save_checkpoint_as_result(folder, result_step)
    else:  # the last step of a run that stopped at a ceiling is not saved as a checkpoint
        with new_result_folder(folder) as temporary:
            write_tuned(temporary, model)
    result = "adapter"
    if METHODS[job.method].leaves_model:
        result = "model"
    logger.log(f"Trained on {position.trained_tokens:,} tokens in {position.seconds:,.0f} s; {result} saved")
    progress = Progress(position.step, total, position.trained_tokens, position.seconds, logger.step_s)
    logger.write_progress(progress, is_over=True)
    done = {
        "trained_tokens": position.trained_tokens,
        "seconds": round(position.seconds, 1),
        "trainable_parameters": count_parameters(model).trainable,
        "step": position.step,
        "result_step": result_step,
        "stopped": stopped,
    }
    # Last, as it says that the result is complete.
    replace_json(folder / "DONE", done)


def resume_from_adapter(folder: Path, base: Any, settings: Parameters) -> PeftModel:
    """Adds the adapter in the job's folder to `base`, to train it further. Raises TrainingFailed if it doesn't belong
    to this base."""
    config = LoraConfig.from_pretrained(str(folder / TUNED_FOLDER))
    config.inference_mode = False  # peft stores adapters as ready for use, with frozen matrices
    config.lora_dropout = settings.lora_dropout
    if stored_quantization(base.config) is None:
        compute_fused(config)
    weights = load((folder / TUNED_FOLDER / WEIGHTS).read_bytes())
    model = attach_adapter(base, config)
    if get_peft_model_state_dict(model).keys() != weights.keys():
        text = "The tuned model's adapter doesn't fit this base model's layers. Name the base model instead."
        raise TrainingFailed("tuned_model_unfit", text, "model")
    set_peft_model_state_dict(model, weights)
    return model
