"""Decides how many tokens are computed at a time and whether activations are recomputed, reduces this each time that
memory runs out, tries more tokens after a while, and ends a run if nothing can be reduced further or a disk is full.

A training on a GPU begins with what the figures of `finetune plan-memory` allow. One on a CPU doesn't, since its memory
is shared with other programs and seldom short."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import torch

from trainers.local.job_directory import append_event, read_json, replace_json
from trainers.local.launch import SHORT_OF_MEMORY
from trainers.local.training import distributed
from trainers.local.training.data import Rows
from trainers.local.training.errors import TrainingFailed, pause_on_full_disk, write_failure
from trainers.local.training.packing import Abilities
from trainers.local.training.schedule import UNREDUCED, Room
from trainers.methods import Parameters, Quantization
from trainers.sizing.architecture import UnknownSize, read_config
from trainers.sizing.hardware import Machine, adapt_to_memory, needed_bytes
from trainers.sizing.memory import Device, Method, Work, with_forced_checkpoints

R = TypeVar("R")
T = TypeVar("T")
OUT_OF_MEMORY_TEXTS = (
    "out of memory",  # MPS and CUDA's driver
    "can't allocate memory",  # CPU
    "not enough memory",  # CPU on Windows
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
METHODS_OF_SIZING: Mapping[Quantization, Method] = {"none": "lora", "nf4": "qlora", "int8": "8bit"}


@dataclass(frozen=True)
class Shortage:
    """What to do after memory ran out. `message` is for the user, and the next start computes `tokens` at a time. If
    nothing can be reduced further, `failed` is the error."""

    message: str
    failed: TrainingFailed | None = None
    tokens: int = 0
    recomputes: bool = False


def end_team(folder: Path, shortage: Shortage) -> NoReturn:
    """Ends all processes of a training whose base is sharded. The others wait for this one inside a layer and can't be
    told. So this process writes what the next start needs into the job's folder and exits at once, without leaving the
    process group, which could block. The launcher then ends the others, and the server restarts the job from its
    checkpoint."""
    print(shortage.message, file=sys.stderr, flush=True)
    if shortage.failed is not None:
        write_failure(folder, shortage.failed)
        os._exit(1)
    append_event(folder, shortage.message, level="warn")
    less = {"tokens": shortage.tokens, "recomputes": shortage.recomputes}
    replace_json(folder / f"room-{distributed.rank()}.json", less)  # several processes may write at once
    os._exit(SHORT_OF_MEMORY)


def tokens_after_shortage(folder: Path) -> tuple[int, bool] | None:
    """Returns the smallest number of tokens of all shortages, and whether to recompute activations, or None if there
    was no shortage. The first process reads for all, since the others may run on machines without the files."""

    def read() -> tuple[int, bool] | None:
        notes = [read_json(path) or {} for path in folder.glob("room-*.json")]
        if not notes:
            return None
        tokens = min(note["tokens"] for note in notes)
        recomputes = any(note["recomputes"] for note in notes)
        return tokens, recomputes

    return distributed.run_in_first(read)


def fill_parts(rows: Sequence[R], limit: int, width: Callable[[Sequence[R]], int]) -> list[list[R]]:
    """Groups rows in their order, so that a group takes at most `limit` tokens according to `width`. A wider row is a
    group of its own."""
    parts: list[list[R]] = []
    for row in rows:
        if parts and width([*parts[-1], row]) <= limit:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def choose_first_room(
    base: Any, wanted: Work, quantization: Quantization, place: Device, memory: int
) -> tuple[Room, str]:
    """Returns the room of a training on chats, and a sentence about it, which is empty if nothing is reduced. `wanted`
    is its largest step, and `memory` that of the `place` in bytes."""
    model = read_config(base.config.to_dict(), quantization)
    if isinstance(model, UnknownSize):
        return UNREDUCED, ""
    machine = Machine("the GPU", memory, place)
    chosen = adapt_to_memory(model, wanted, machine)
    if chosen == wanted or chosen == with_forced_checkpoints(model, wanted):
        return UNREDUCED, ""
    tokens = None
    how = "activations are recomputed in the backward pass"
    if chosen.batch < wanted.batch:
        tokens = chosen.batch * chosen.length
        how += f", and at most {tokens:,} tokens are computed at a time"
    needed = needed_bytes(model, wanted, machine.place)
    sentence = (
        f"A step would take about {needed / 1e9:.1f} GB by the estimate of plan-memory, and the GPU has "
        f"{memory / 1e9:.1f} GB: from the start {how}."
    )
    return Room(tokens, recomputes=True), sentence


def work_of_step(
    rows: Rows, settings: Parameters, able: Abilities, usual: int, *, learns_all: bool = False
) -> Work:
    """Describes the largest step: as many of the longest rows as are computed at a time."""
    method = METHODS_OF_SIZING[settings.quantization]
    if learns_all:
        method = "full"
    length = min(rows.longest, settings.max_length)
    count = 1
    if able.combines:
        count = max(1, min(settings.batch_size, usual // length))
    return Work(
        method,
        length,
        count,
        rank=settings.lora_r,
        answer=max(sum(row.supervised) for row in rows.rows),
        targets=settings.target_modules,
    )


def usable_memory(device: torch.device) -> int | None:
    """Returns the bytes that this process has or can get on its GPU, or None for other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


class MicroBatcher(Generic[R]):
    """Divides a step's rows into parts of at most `tokens` tokens. A longer row is a part of its own; with `packs`
    False every row is. The gradients of the parts are added up, so a step still learns from the same batch.

    The first time that memory runs out, activations are recomputed from then on instead of kept, which costs a third of
    the speed; a part of half the size may cost more, and where a base is unpacked for each part much more. After that
    `tokens` is halved each time. It is doubled again after some steps without a shortage, since memory may have been
    full because of another program or a rare long row. Each halving doubles the number of these steps.

    `room` is from a checkpoint or an estimate. `fill` groups rows into parts of at most a given number of tokens, and
    `width` returns the tokens of a part. `recompute` makes the model recompute activations and returns False if it
    can't. `end_team` is given for a sharded base, where the other processes wait in a layer for one that ran out of
    memory: all must end and start again, so more tokens are never tried.
    """

    def __init__(
        self,
        usual: int,
        room: Room,
        *,
        packs: bool,
        fill: Callable[[Sequence[R], int], list[list[R]]],
        width: Callable[[Sequence[R]], int],
        tell: Callable[[str], None],
        recompute: Callable[[], bool] = lambda: False,
        end_team: Callable[[Shortage], NoReturn] | None = None,
    ) -> None:
        self.tokens = room.tokens or usual
        self._usual = usual
        self._packs = packs
        self._fill = fill
        self._width = width
        self._tell = tell
        self._recompute = recompute
        self.recomputes = room.recomputes
        self._calm_steps = room.calm_steps
        self._patience = room.patience
        self._end_team = end_team

    @property
    def room(self) -> Room:
        tokens = None
        if self.tokens < self._usual:
            tokens = self.tokens
        return Room(tokens, self.recomputes, self._calm_steps, self._patience)

    def finish_step(self) -> None:
        """Must be called after each step: doubles the reduced number of tokens if memory has sufficed for long."""
        if self.tokens >= self._usual or not self._packs or self._end_team is not None:
            return
        self._calm_steps += 1
        if self._calm_steps < self._patience:
            return
        self._calm_steps = 0
        self.tokens = min(2 * self.tokens, self._usual)
        self._tell(
            f"Memory sufficed for {self._patience} steps: from now on up to {self.tokens:,} tokens are computed at a "
            "time again."
        )

    def parts(self, rows: Sequence[R]) -> list[list[R]]:
        limit = self.tokens if self._packs else 1
        return self._fill(rows, limit)

    def compute_in_parts(
        self,
        rows: Sequence[R],
        compute: Callable[[list[list[R]]], T],
        action: str,
        *,
        keeps_activations: bool = True,
    ) -> T:
        """Calls `compute` with the rows in parts, and again with smaller parts if memory runs out in any process.
        `action` says for messages when this happened. A validation keeps no activations, so that recomputing them
        wouldn't help. Raises TrainingFailed if a single row is too large. With a sharded base this does not return if
        memory runs out.
        """
        while True:
            text = ""
            try:
                result = compute(self.parts(rows))
            except (RuntimeError, MemoryError) as error:  # OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error):
                    raise
                text = str(error).partition("\n")[0]
            if text and self._end_team is not None:
                try:  # decide without the other processes, which wait inside a layer
                    message = self._reduce_memory(rows, action, text, int, keeps_activations)
                except TrainingFailed as failed:
                    self._end_team(Shortage(failed.message, failed))
                self._end_team(Shortage(message, None, self.tokens, self.recomputes))
            # All try again together, since their gradients are added up.
            if not distributed.any_process(bool(text)):
                return result
            gc.collect()  # only outside the except block are the frames that held the tensors gone
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            reason = text or "in another process"
            self._tell(self._reduce_memory(rows, action, reason, distributed.max_of_all, keeps_activations))

    def _reduce_memory(
        self,
        rows: Sequence[R],
        action: str,
        error: str,
        most: Callable[[int], int],
        keeps_activations: bool,
    ) -> str:
        """Starts to recompute or halves `tokens`, and returns a message about it. `error` is the error's text, and
        `most` returns the highest of a number in all processes. Raises TrainingFailed."""
        # Single rows are left out, since they can't be divided.
        widths = [self._width(part) for part in self.parts(rows) if len(part) > 1]
        before = most(max(widths, default=0))
        longest = most(max((self._width([row]) for row in rows), default=0))
        if keeps_activations and not self.recomputes and self._recompute():
            self.recomputes = True
            return (
                f"Memory was full {action} with {before or longest:,} tokens at a time: from now on activations are "
                "recomputed in the backward pass instead of kept, which takes about a third longer."
            )
        if before:
            self.tokens = before // 2
            self._calm_steps = 0
            self._patience *= 2
            return (
                f"Memory was full {action} with {before:,} tokens at a time: from now on at most {self.tokens:,} are "
                "computed at a time and their gradients added up. A step still learns from as many rows."
            )
        text = (
            f"Memory is too small for a single row of {longest} tokens ({error}). "
            "Set max_length or lora_r lower, or take a smaller model."
        )
        raise TrainingFailed("out_of_memory", text, "max_length")


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    is_typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_typed or any(words in text for words in OUT_OF_MEMORY_TEXTS)


@contextmanager
def map_machine_errors(folder: Path) -> Iterator[None]:
    """Pauses the job if the disk is full, and fails it if the accelerator's memory is full. Raises TrainingPaused or
    TrainingFailed."""
    with pause_on_full_disk(folder):
        try:
            yield
        except torch.OutOfMemoryError as error:
            cure = "Set max_length or lora_r lower, or take a smaller model."
            text = f"The accelerator's memory is full: {error}. {cure}"
            raise TrainingFailed("out_of_memory", text, "max_length") from error
