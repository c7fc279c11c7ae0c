"""Decides how many tokens are computed at a time, half as many each time that memory is too small, and ends a run where
nothing smaller is left or a disk is full."""

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
from trainers.local.launch import SHORT
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
BUSY_DIVISOR = (
    4  # a quarter of the usual tokens keeps a device as busy; recomputing costs a third of its time
)


@dataclass(frozen=True)
class Shortage:
    """`message` is for the user. The next start computes `tokens` at a time. `failed`: nothing smaller is left."""

    message: str
    failed: TrainingFailed | None = None
    tokens: int = 0
    recomputes: bool = False


def end_team(folder: Path, shortage: Shortage) -> NoReturn:
    """Ends all processes of a team whose base is divided. The others wait for this process inside a layer and can't be
    reached, so it writes what the next start needs into the job's folder and exits without leaving the group, which
    could wait for them. The launcher ends them, and the server starts the job again from its checkpoint."""
    print(shortage.message, file=sys.stderr, flush=True)
    if shortage.failed is not None:
        write_failure(folder, shortage.failed)
        os._exit(1)
    append_event(folder, shortage.message, level="warn")
    less = {"tokens": shortage.tokens, "recomputes": shortage.recomputes}
    replace_json(folder / f"room-{distributed.rank()}.json", less)  # several processes may write at once
    os._exit(SHORT)


def tokens_after_shortage(folder: Path) -> tuple[int, bool] | None:
    """Returns the fewest tokens at a time of all shortages, and whether activations are computed again; None without
    any shortage. The first process reads for all, as the others may be on machines that lack the files."""

    def read() -> tuple[int, bool] | None:
        notes = [read_json(path) or {} for path in folder.glob("room-*.json")]
        if not notes:
            return None
        return min(note["tokens"] for note in notes), any(note["recomputes"] for note in notes)

    return distributed.run_in_first(read)


def fill_parts(rows: Sequence[R], limit: int, width: Callable[[Sequence[R]], int]) -> list[list[R]]:
    """Groups rows in their order, so that a group takes at most `limit` tokens by `width`. A wider row is a group of
    its own."""
    parts: list[list[R]] = []
    for row in rows:
        if parts and width([*parts[-1], row]) <= limit:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


class MicroBatcher(Generic[R]):
    """Divides a step's rows into parts of at most `tokens` tokens; a longer row is a part of its own, and without
    `packs` each row is. The gradients of the parts are added up, so the batch that a step learns from stays the same.

    Each time that memory is too small, `tokens` is halved. Before parts would shrink to single rows, or to less than a
    quarter of what is usual, activations are computed again instead of kept.

    `fill` makes groups of at most so many tokens, `width` tells how many a group takes. `recompute` makes the model
    keep less, for more time, and returns False where it can't; `recomputes`: it does so already. `end_team` is for a
    divided base, where the others wait in a layer for a process that ran out of memory: all end, and start again.
    """

    def __init__(
        self,
        usual: int,
        remembered: int | None,
        *,
        packs: bool,
        fill: Callable[[Sequence[R], int], list[list[R]]],
        width: Callable[[Sequence[R]], int],
        tell: Callable[[str], None],
        recompute: Callable[[], bool] = lambda: False,
        recomputes: bool = False,
        end_team: Callable[[Shortage], NoReturn] | None = None,
    ) -> None:
        self.tokens = remembered or usual
        self._usual = usual
        self._packs = packs
        self._fill = fill
        self._width = width
        self._tell = tell
        self._recompute = recompute
        self.recomputes = recomputes
        self._end_team = end_team

    @property
    def remembered(self) -> int | None:
        """The number for checkpoints, so that a resumed run computes as this one does; None: the usual one."""
        return self.tokens if self.tokens < self._usual else None

    def parts(self, rows: Sequence[R]) -> list[list[R]]:
        return self._fill(rows, self.tokens if self._packs else 1)

    def compute_in_parts(self, rows: Sequence[R], compute: Callable[[list[list[R]]], T], action: str) -> T:
        """Calls `compute` with the rows in parts, and again with smaller parts where memory is full.

        In a team all do so where one has to. Raises TrainingFailed where a single row is too much. Does not return
        where memory is full and the base is divided.
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
                try:  # alone, since the others can't be asked
                    message = self._reduce_memory(rows, action, text, int)
                except TrainingFailed as failed:
                    self._end_team(Shortage(failed.message, failed))
                self._end_team(Shortage(message, None, self.tokens, self.recomputes))
            if not distributed.any_process(bool(text)):
                return result
            gc.collect()  # the frames that held the tensors are gone only now
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._tell(
                self._reduce_memory(rows, action, text or "in another process", distributed.max_of_all)
            )

    def _reduce_memory(
        self, rows: Sequence[R], action: str, sentence: str, most: Callable[[int], int]
    ) -> str:
        """Takes fewer tokens or recomputes, and returns a message about it. `most` returns the highest number of all
        processes. Raises TrainingFailed."""
        before = most(max((self._width(part) for part in self.parts(rows) if len(part) > 1), default=0))
        longest = most(max((self._width([row]) for row in rows), default=0))
        half = before // 2
        is_small = half < max(self._usual // BUSY_DIVISOR, 2 * longest)
        if is_small and not self.recomputes and self._recompute():
            self.recomputes = True
            return (
                f"Memory was full {action} with {before or longest:,} tokens at a time: from now on activations are "
                "computed again on the way back instead of kept, which takes about a third longer."
            )
        if before:
            self.tokens = half
            return (
                f"Memory was full {action} with {before:,} tokens at a time: from now on at most {half:,}, their "
                "gradients added up. A step still learns from as many rows."
            )
        text = (
            f"Memory is too small for one row of {longest} tokens at a time ({sentence}). "
            "Set max_length or lora_r lower, or take a smaller model."
        )
        raise TrainingFailed("out_of_memory", text, "max_length")


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    is_typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_typed or any(words in text for words in OUT_OF_MEMORY_TEXTS)


@contextmanager
def map_machine_errors(folder: Path) -> Iterator[None]:
    """Pauses the job where the disk is full, and fails it where the accelerator's memory is. Raises TrainingPaused,
    TrainingFailed."""
    with pause_on_full_disk(folder):
        try:
            yield
        except torch.OutOfMemoryError as error:
            cure = "Set max_length or lora_r lower, or take a smaller model."
            text = f"The accelerator's memory is full: {error}. {cure}"
            raise TrainingFailed("out_of_memory", text, "max_length") from error
