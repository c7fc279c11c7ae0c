"""Prepares a job, or all trials of a sweep, for training: tokenizes the rows and loads the base model."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainers.local.base_download import fetch_base
from trainers.local.base_files import context_of_base, ensure_same_base
from trainers.local.job_directory import KEPT_ROWS, TrainingJob, read_json, replace_json
from trainers.local.kernels.block_attention import MAX_MASKED_TOKENS, choose_attention
from trainers.local.kernels.chunked_loss import ChunkedHead, find_chunked_head
from trainers.local.kernels.fused_layers import trim_last_mlp
from trainers.local.kernels.liger import Kernels, choose_kernels
from trainers.local.kernels.state_layers import describe_slow_layers
from trainers.local.training import distributed
from trainers.local.training.base_model import (
    check_vocabulary,
    keep_trainable,
    load_config,
    load_model,
    load_tokenizer,
    stored_quantization,
)
from trainers.local.training.data import Row, Rows, read_rows, report_rows, row_lengths
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.errors import Pauses, TrainingFailed
from trainers.local.training.memory import choose_first_room, usable_memory, work_of_step
from trainers.local.training.metrics_logger import MetricsLogger
from trainers.local.training.packing import Abilities, find_abilities, padding_refusal, usual_tokens
from trainers.local.training.schedule import UNREDUCED, Room
from trainers.local.training.sharding import device_memory, is_sharding_wanted, shard_layers
from trainers.methods import METHODS, Parameters
from trainers.models.base_models import weights_refusal
from trainers.sizing.memory import OLD_GPU_TOKENS, Device

KERNELS_FILE = "kernels.json"  # in the job's folder


@dataclass
class TrainingSetup:
    """What a job, or all trials of a sweep, train with. `base` is the model without an adapter, and `able` its
    abilities with these rows."""

    base: Any
    training: Rows
    validation: Rows | None
    able: Abilities
    device: torch.device
    dtype: torch.dtype
    is_sharded: bool = False
    first_room: Room = UNREDUCED


@dataclass(frozen=True)
class LoadedBase:
    """A base before it gets adapters. `kernels` are None on a CPU, `slow_layers` says which layers compute slowly
    here, and `alone` why each row is computed by itself; both are None if there is nothing to say."""

    model: Any
    kernels: Kernels | None
    slow_layers: str | None
    head: ChunkedHead | None
    alone: str | None


def prepare_training(folder: Path, job: TrainingJob, logger: MetricsLogger, pauses: Pauses) -> TrainingSetup:
    """Reads the rows and loads the base. Raises TrainingFailed or TrainingPaused."""
    device = best_device()
    with distributed.rank_zero_first():
        source = fetch_base(job.base, logger.log)
        ensure_same_base(folder, source, job.base_name)
    family = load_config(job.base).model_type
    dtype = distributed.broadcast(best_dtype(device, family))  # the machines of a cluster may differ
    settings = cap_to_context(job.settings, job.base, logger)
    training, validation = _read_files(folder, job, settings)
    longest = _longest(training, validation)
    distributed.check_pause(pauses)

    is_sharded = needs_sharding(settings, source, device)
    if is_sharded and job.trials:
        raise sharding_refusal("the trials of a sweep")
    if is_sharded and METHODS[job.method].leaves_model:
        raise sharding_refusal("all weights of a model")
    # A base that doesn't fit into one GPU is in main memory until it is divided: one copy at a time.
    with distributed.one_at_a_time() if is_sharded else nullcontext():
        loaded = _load(job, settings, training, validation, device, dtype, is_sharded=is_sharded)
    base = loaded.model
    able = _choose_abilities(base, training, job, longest, device, logger)
    able = replace(able, head=loaded.head)
    if not able.packs:
        # All compute in the same way, or their shares of a step would take different times.
        able = replace(able, pads=not distributed.any_process(loaded.alone is not None))

    logger.log(f"Training {job.base_name} on {device.type} in {str(dtype).removeprefix('torch.')}")
    report_rows(logger, "Training", training, settings.max_length)
    if validation:
        report_rows(logger, "Validation", validation, settings.max_length)
    report_kernels(folder, loaded.kernels, logger)
    report_slow_layers(logger, loaded.slow_layers, device)
    report_passes(logger, able, loaded.alone)
    report_processes(logger, is_sharded)
    room = UNREDUCED
    if not is_sharded:
        room = _find_first_room(base, training, job, settings, able, device, dtype, logger)
    return TrainingSetup(base, training, validation, able, device, dtype, is_sharded, room)


def _read_files(folder: Path, job: TrainingJob, settings: Parameters) -> tuple[Rows, Rows | None]:
    """Returns the rows to train on, and those to validate with, if the job has some. One process tokenizes them."""
    tokenizer = load_tokenizer(job.base)
    length = settings.max_length
    too_long = settings.too_long
    cache = folder / KEPT_ROWS
    validation = None
    with distributed.rank_zero_first():
        training = read_rows(Path(job.training_file), tokenizer, length, "training_file", too_long, cache)
        if job.validation_file is not None:
            file = Path(job.validation_file)
            validation = read_rows(file, tokenizer, length, "validation_file", too_long, cache)
    return training, validation


def _longest(training: Rows, validation: Rows | None) -> int:
    """Returns the tokens of the longest row."""
    longest = training.longest
    if validation is not None:
        longest = max(longest, validation.longest)
    return longest


def _load(
    job: TrainingJob,
    settings: Parameters,
    training: Rows,
    validation: Rows | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    is_sharded: bool,
) -> LoadedBase:
    learns_all = METHODS[job.method].leaves_model
    weights = dtype
    if learns_all:
        stored = stored_quantization(load_config(job.base))
        if stored is not None:
            raise TrainingFailed("base_quantized", weights_refusal(job.base_name, stored), "method")
        weights = torch.float32  # a step changes most weights by less than bfloat16 can hold
    base = load_model(job.base, device, weights, settings.quantization, stay_on_cpu=is_sharded)
    check_vocabulary(base, job.base_name, training, validation)
    kernels = choose_kernels(base, device, is_sharded=is_sharded)
    slow_layers = describe_slow_layers(base, device)
    keep_trainable(base)  # before anything is computed without gradients
    head = find_chunked_head(base)
    alone = None
    # A base that will be divided is in main memory now, where a trial takes its time, so one process is enough.
    if distributed.is_first() or not is_sharded:
        longest = _longest(training, validation)
        alone = _find_reason_to_compute_alone(base, longest, head)
    if is_sharded:
        shard_layers(base, device)
    return LoadedBase(base, kernels, slow_layers, head, alone)


def _find_reason_to_compute_alone(base: Any, longest: int, head: ChunkedHead | None) -> str | None:
    """Returns why a pass can't have several rows of at most `longest` tokens, or None if they can be packed or
    padded."""
    able = replace(find_abilities(base, longest), head=head)
    if able.packs:
        return None
    return padding_refusal(base, able, longest)


def report_passes(logger: MetricsLogger, able: Abilities, alone: str | None) -> None:
    if able.pads:
        logger.log("Rows of similar length are computed side by side, the shorter ones padded")
    elif not able.packs:
        why = alone or "another process found that padding changes their loss"
        logger.warn(f"Rows are computed one by one, which takes longer: {why}")
    # Selecting takes the same positions of all rows, so it doesn't serve padded ones.
    selects = able.selects and not able.pads
    if not selects and able.head is None:
        logger.log("Logits are computed at every token: this model can't select tokens")


def _choose_abilities(
    base: Any, training: Rows, job: TrainingJob, longest: int, device: torch.device, logger: MetricsLogger
) -> Abilities:
    """Returns what the model can do with rows of up to `longest` tokens, after the attention for its packs is
    chosen."""
    able = find_abilities(base, longest)
    if device.type == "cuda" and able.packs and widest_pack(training.rows, job) > MAX_MASKED_TOKENS:
        why = choose_attention(base, device)
        able = find_abilities(base, longest)
        how = "by blocks (flex_attention)"
        if why:
            how = f"by a mask, since flex_attention is not used: {why}"
        logger.log(f"Attention in packs: {how}")
    if able.packs and able.selects:
        able = replace(able, kept_positions=trim_last_mlp(base))
    return able


def _find_first_room(
    base: Any,
    training: Rows,
    job: TrainingJob,
    settings: Parameters,
    able: Abilities,
    device: torch.device,
    dtype: torch.dtype,
    logger: MetricsLogger,
) -> Room:
    """Returns the room with which the first step is tried; unreduced where memory can't be measured."""
    memory = usable_memory(device)
    if memory is None:
        return UNREDUCED
    memory = -distributed.max_of_all(-memory)  # the smallest, since all must decide alike
    usual = usual_tokens(device, able)
    work = work_of_step(training, settings, able, usual, learns_all=METHODS[job.method].leaves_model)
    place = Device("gpu", dtype.itemsize, is_old=usual <= OLD_GPU_TOKENS)
    room, why = choose_first_room(base, work, settings.quantization, place, memory)
    if why:
        logger.log(why)
    return room


def widest_pack(rows: Sequence[Row], job: TrainingJob) -> int:
    """Returns the largest number of tokens that one step of the job, or of a sweep's trial, may have."""
    count = max(settings.batch_size for settings in (job.settings, *job.trials))
    return sum(heapq.nlargest(count, row_lengths(rows).tolist()))


def needs_sharding(settings: Parameters, base: Path, device: torch.device) -> bool:
    """True if the base must be divided among the processes; all of them get the same answer. A base in 4 or 8 bits is
    never divided."""
    if settings.quantization != "none":
        return False
    weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    wanted = is_sharding_wanted(settings.sharding, distributed.size(), weights, device_memory(device))
    return distributed.any_process(wanted)


def sharding_refusal(who: str) -> TrainingFailed:
    text = (
        f"This base is too large to train on one GPU, and {who} can't be trained on a base that is divided among "
        "several. Use a smaller base, or try sharding 'none'."
    )
    return TrainingFailed("sharding_unavailable", text, "sharding")


def cap_to_context(settings: Parameters, base: str, logger: MetricsLogger) -> Parameters:
    """Lowers max_length to the model's context if it is longer."""
    context = context_of_base(base)
    if context is None or settings.max_length <= context:
        return settings
    logger.warn(
        f"max_length {settings.max_length} exceeds the base's context: rows may have at most {context} tokens"
    )
    return replace(settings, max_length=context)


def report_processes(logger: MetricsLogger, is_sharded: bool) -> None:
    if distributed.is_alone():
        return
    how = "each with the whole base"
    if is_sharded:
        how = "dividing the base among them"
    logger.log(f"{distributed.size()} processes share each batch, {how}")


def report_slow_layers(logger: MetricsLogger, sentence: str | None, device: torch.device) -> None:
    """Warns where the kernels that `sentence` names could be installed."""
    if sentence is None:
        return
    if device.type == "cuda":
        logger.warn(sentence)
    else:
        logger.log(sentence)


def report_kernels(folder: Path, kernels: Kernels | None, logger: MetricsLogger) -> None:
    """Logs the kernels and stores them in the job's folder. Warns if a resumed run uses other kernels than before."""
    if kernels is None or not distributed.is_first():
        return
    stored = read_json(folder / KERNELS_FILE) or {}
    before = stored.get("kernels", kernels.name)
    logger.log(str(kernels))
    if before != kernels.name:
        logger.warn(f"This job began with the kernels of {before}: results may differ in their last digits")
    replace_json(folder / KERNELS_FILE, {"kernels": kernels.name, "why": kernels.why})
