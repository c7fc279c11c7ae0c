"""What a training stands on before there is an adapter: rows, tokenizer's work done, and the base on its device.

The arms of a sweep share it. Trains nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainers.local.configs import context_of_base
from trainers.local.spool import KEPT_ROWS, LoraSettings, TrainingJob
from trainers.local.training import team
from trainers.local.training.base import load_config, load_model, load_tokenizer
from trainers.local.training.block_attention import DENSE, choose_attention
from trainers.local.training.data import Row, Rows, read_rows
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.hub import fetch
from trainers.local.training.identity import remember_base
from trainers.local.training.journal import Journal
from trainers.local.training.last_layer import trim_last_layer
from trainers.local.training.liger import choose_kernels, tell_kernels
from trainers.local.training.packing import Abilities, abilities
from trainers.local.training.pauses import Pauses
from trainers.local.training.sharding import device_memory, is_wanted, shard_layers, weight_bytes


@dataclass
class Ground:
    """`base` is the model without an adapter; `able`: what it can with these rows."""

    base: Any
    training: Rows
    validation: Rows | None
    able: Abilities
    device: torch.device
    dtype: torch.dtype
    is_sharded: bool = False


def lay_ground(folder: Path, job: TrainingJob, journal: Journal, pauses: Pauses) -> Ground:
    """Raises TrainingFailed, TrainingPaused."""
    device = best_device()
    with team.first_goes_first():
        source = fetch(job.base, journal.say)
        remember_base(folder, source, job.base_name)
    family = load_config(job.base).model_type
    dtype = team.decide(best_dtype(device, family))  # machines of a cluster may differ
    tokenizer = load_tokenizer(job.base)
    settings = within_context(job.settings, job.base, journal)
    length, too_long, kept = settings.max_length, settings.too_long, folder / KEPT_ROWS
    validation = None
    with team.first_goes_first():
        training = read_rows(Path(job.training_file), tokenizer, length, "training_file", too_long, kept)
        if job.validation_file is not None:
            validation = read_rows(
                Path(job.validation_file), tokenizer, length, "validation_file", too_long, kept
            )
    team.look(pauses)
    longest = max(training.longest, validation.longest if validation else 0)
    is_sharded = is_divided(settings, source, device)
    if is_sharded and job.arms:
        raise undivided("the arms of a sweep")
    with team.one_after_the_other() if is_sharded else nullcontext():
        base = load_model(job.base, device, dtype, settings.quantization, stays=is_sharded)
        kernels = choose_kernels(base, device, is_sharded=is_sharded)
        if is_sharded:
            shard_layers(base, device)
    able = abilities(base, longest)
    if device.type == "cuda" and able.packs and widest_pack(training.rows, job) > DENSE:
        why = choose_attention(base, device)
        able = abilities(base, longest)
        how = f"by a mask, since flex_attention was not taken: {why}" if why else "by blocks (flex_attention)"
        journal.say(f"Attention in packs: {how}")
    if able.packs and able.selects:
        able = replace(able, kept=trim_last_layer(base))
    journal.say(f"Training {job.base_name} on {device.type} in {str(dtype).removeprefix('torch.')}")
    tell_kernels(folder, kernels, journal)
    tell_rows(journal, "Training", training, settings)
    if validation:
        tell_rows(journal, "Validation", validation, settings)
    tell_abilities(journal, able)
    tell_team(journal, is_sharded)
    return Ground(base, training, validation, able, device, dtype, is_sharded)


def widest_pack(rows: Sequence[Row], job: TrainingJob) -> int:
    """Tokens of the longest rows that a step of the job, or of an arm, may have."""
    count = max(settings.batch_size for settings in (job.settings, *job.arms))
    return sum(heapq.nlargest(count, (len(row.ids) for row in rows)))


def is_divided(settings: LoraSettings, base: Path, device: torch.device) -> bool:
    """The same in every process of a team. A base in 4 or 8 bits stays whole, however large its files are."""
    if settings.quantization != "none":
        return False
    wanted = is_wanted(settings.sharding, team.size(), weight_bytes(base), device_memory(device))
    return team.any_of(wanted)


def undivided(who: str) -> TrainingFailed:
    text = (
        f"This base is too large for one GPU beside its training, and {who} are not trained on a base that is divided "
        "among several. Take a smaller base, or try it whole with sharding 'none'."
    )
    return TrainingFailed("sharding_unavailable", text, "sharding")


def within_context(settings: LoraSettings, base: str, journal: Journal) -> LoraSettings:
    """Rows are never longer than what the model was made for, whatever max_length says."""
    context = context_of_base(base)
    if context is None or settings.max_length <= context:
        return settings
    journal.warn(
        f"max_length {settings.max_length} is more than the base's context: rows may have {context} tokens"
    )
    return replace(settings, max_length=context)


def tell_rows(journal: Journal, what: str, rows: Rows, settings: LoraSettings) -> None:
    journal.say(f"{what} rows: {len(rows.rows):,} with {rows.tokens:,} tokens")
    if rows.chats < len(rows.rows):
        journal.say(
            f"They are {rows.chats:,} chats: the template rewrites earlier answers, so each answer is a row"
        )
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


def tell_team(journal: Journal, is_sharded: bool) -> None:
    if not team.is_alone():
        how = "which divide the base among them" if is_sharded else "each with the whole base"
        journal.say(f"{team.size()} processes share each batch, {how}")
