"""Decides how many tokens are computed at a time, halves this number each time that memory runs out, and ends a run if
it can't be reduced further or a disk is full."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

import torch

from trainers.local.job_directory import append_event, read_json, replace_json
from trainers.local.launch import SHORT_OF_MEMORY
from trainers.local.training import distributed
from trainers.local.training.errors import TrainingFailed, pause_on_full_disk, write_failure

R = TypeVar("R")
T = TypeVar("T")
OUT_OF_MEMORY_TEXTS = (
    "out of memory",  # MPS and CUDA's driver
    "can't allocate memory",  # CPU
    "not enough memory",  # CPU on Windows
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
BUSY_DIVISOR = 4  # a quarter of the usual tokens still keeps a device busy; recomputing takes a third longer


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


class MicroBatcher(Generic[R]):
    """Divides a step's rows into parts of at most `tokens` tokens. A longer row is a part of its own; with `packs`
    False every row is. The gradients of the parts are added up, so a step still learns from the same batch.

    Each time that memory runs out, `tokens` is halved. Before parts would shrink to single rows, or to less than a
    quarter of the usual tokens, activations are recomputed instead of kept.

    `reduced_tokens` is the reduced number of tokens from a checkpoint. `fill` groups rows into parts of at most a given
    number of tokens, and `width` returns the tokens of a part. `recompute` makes the model recompute activations and
    returns False if it can't; `recomputes` is True once it does. `end_team` is given for a sharded base, where the
    other processes wait in a layer for one that ran out of memory: all must end and start again.
    """

    def __init__(
        self,
        usual: int,
        reduced_tokens: int | None,
        *,
        packs: bool,
        fill: Callable[[Sequence[R], int], list[list[R]]],
        width: Callable[[Sequence[R]], int],
        tell: Callable[[str], None],
        recompute: Callable[[], bool] = lambda: False,
        recomputes: bool = False,
        end_team: Callable[[Shortage], NoReturn] | None = None,
    ) -> None:
        self.tokens = reduced_tokens or usual
        self._usual = usual
        self._packs = packs
        self._fill = fill
        self._width = width
        self._tell = tell
        self._recompute = recompute
        self.recomputes = recomputes
        self._end_team = end_team

    @property
    def reduced_tokens(self) -> int | None:
        """The reduced number of tokens, which checkpoints store so that a resumed run computes alike. None if it was
        not reduced."""
        if self.tokens < self._usual:
            return self.tokens
        return None

    def parts(self, rows: Sequence[R]) -> list[list[R]]:
        limit = self.tokens if self._packs else 1
        return self._fill(rows, limit)

    def compute_in_parts(self, rows: Sequence[R], compute: Callable[[list[list[R]]], T], action: str) -> T:
        """Calls `compute` with the rows in parts, and again with smaller parts if memory runs out in any process.
        `action` says for messages when this happened. Raises TrainingFailed if a single row is too large. With a
        sharded base this does not return if memory runs out.
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
                    message = self._reduce_memory(rows, action, text, int)
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
            self._tell(self._reduce_memory(rows, action, reason, distributed.max_of_all))

    def _reduce_memory(self, rows: Sequence[R], action: str, error: str, most: Callable[[int], int]) -> str:
        """Halves `tokens` or starts to recompute, and returns a message about it. `error` is the error's text, and
        `most` returns the highest of a number in all processes. Raises TrainingFailed."""
        # Single rows are left out, since they can't be divided.
        widths = [self._width(part) for part in self.parts(rows) if len(part) > 1]
        before = most(max(widths, default=0))
        longest = most(max((self._width([row]) for row in rows), default=0))
        half = before // 2
        is_small = half < max(self._usual // BUSY_DIVISOR, 2 * longest)
        if is_small and not self.recomputes and self._recompute():
            self.recomputes = True
            return (
                f"Memory was full {action} with {before or longest:,} tokens at a time: from now on activations are "
                "recomputed in the backward pass instead of kept, which takes about a third longer."
            )
        if before:
            self.tokens = half
            return (
                f"Memory was full {action} with {before:,} tokens at a time: from now on at most {half:,} are computed "
                "at a time and their gradients added up. A step still learns from as many rows."
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
