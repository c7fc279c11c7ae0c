"""How many tokens are computed at a time: half as many each time that memory proves too small, and how a run
ends when nothing smaller is left or a disk is full."""

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

from trainers.local.job_directory import append_event, is_disk_full, read_json, replace_json
from trainers.local.launch import SHORT
from trainers.local.training import distributed
from trainers.local.training.errors import TrainingFailed, TrainingPaused, pause_for_disk, write_failure


@dataclass(frozen=True)
class Shortage:
    """`told` to the user. The next start computes `tokens` at a time; `failed`: there is nothing to take less of."""

    told: str
    failed: TrainingFailed | None = None
    tokens: int = 0
    recomputes: bool = False


def end_team(folder: Path, shortage: Shortage) -> NoReturn:
    """Where the base is divided, the others wait for this process inside a layer and can't be told. It writes what the
    next start needs into the job's folder and exits without leaving the group, which could wait for them; the launcher
    ends them, and the server starts the job again from its checkpoint."""
    print(shortage.told, file=sys.stderr, flush=True)
    if shortage.failed is not None:
        write_failure(folder, shortage.failed)
        os._exit(1)
    append_event(folder, shortage.told, level="warn")
    less = {"tokens": shortage.tokens, "recomputes": shortage.recomputes}
    replace_json(folder / f"room-{distributed.rank()}.json", less)  # several processes may write at once
    os._exit(SHORT)


def tokens_after_shortage(folder: Path) -> tuple[int, bool] | None:
    """The least tokens at a time of all shortages, and whether activations are computed again; None without any. The
    first process looks for all: the others may be on machines that don't have it."""
    return distributed.ask_first(lambda: _read_shortage(folder))


def _read_shortage(folder: Path) -> tuple[int, bool] | None:
    notes = [read_json(path) or {} for path in folder.glob("room-*.json")]
    if not notes:
        return None
    return min(note["tokens"] for note in notes), any(note["recomputes"] for note in notes)


R = TypeVar("R")
T = TypeVar("T")
SAID_BY_ALLOCATORS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)  # MPS and CUDA's driver, CPU, CPU on Windows, CUDA's libraries
KEEPS_BUSY = 4  # a quarter of the usual tokens keeps a device as busy; recomputing costs a third of its time


class MicroBatcher(Generic[R]):
    """At most `tokens` at a time, a row that is longer alone; `packs` False: always one row. The gradients of the parts
    are added up, so the batch that a step learns from stays the same.

    Each time that memory proves too small, half as many. Activations are computed again instead of kept before parts
    shrink to single rows, or to less than a quarter of what is usual.

    `fill` makes groups of at most so many tokens, `width` says how many a group takes. `recompute` makes the model
    keep less, for more time; False where it can't. `recomputes`: it does so already. `end_team`: where the base is
    divided, the others wait in a layer for what a process without memory can't give: all end, and start again.
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
        """What a checkpoint keeps, so that a run that goes on computes as this one does."""
        return self.tokens if self.tokens < self._usual else None

    def parts(self, rows: Sequence[R]) -> list[list[R]]:
        return self._fill(rows, self.tokens if self._packs else 1)

    def try_out(self, rows: Sequence[R], compute: Callable[[list[list[R]]], T], doing: str) -> T:
        """`compute` the rows in parts, and again in smaller parts where memory is full. `compute` starts again.

        In a team all do so where one has to. Raises TrainingFailed where one row alone is too much. Does not return
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
                self._end_team(self._shortage(rows, doing, text))
            if not distributed.any_of(bool(text)):
                return result
            gc.collect()  # the frames that held the tensors are gone only now
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._tell(self._take_less(rows, doing, text or "in another process", distributed.maximum))

    def _shortage(self, rows: Sequence[R], doing: str, sentence: str) -> Shortage:
        """By this process alone: the others can't be asked."""
        try:
            text = self._take_less(rows, doing, sentence, int)
        except TrainingFailed as failed:
            return Shortage(failed.message, failed)
        return Shortage(text, None, self.tokens, self.recomputes)

    def _take_less(self, rows: Sequence[R], doing: str, sentence: str, most: Callable[[int], int]) -> str:
        """What is told of it. `most`: the highest of all processes. Raises TrainingFailed."""
        before = most(max((self._width(part) for part in self.parts(rows) if len(part) > 1), default=0))
        longest = most(max((self._width([row]) for row in rows), default=0))
        half = before // 2
        is_small = half < max(self._usual // KEEPS_BUSY, 2 * longest)
        if is_small and not self.recomputes and self._recompute():
            self.recomputes = True
            return (
                f"Memory was full {doing} with {before or longest:,} tokens at a time: from now on activations are "
                "computed again on the way back instead of kept, which takes about a third longer."
            )
        if before:
            self.tokens = half
            return (
                f"Memory was full {doing} with {before:,} tokens at a time: from now on at most {half:,}, their "
                "gradients added up. A step still learns from as many rows."
            )
        text = (
            f"Memory is too small for one row of {longest} tokens at a time ({sentence}). "
            "Set max_length or lora_r lower, or take a smaller model."
        )
        raise TrainingFailed("out_of_memory", text, "max_length")


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        s in text for s in SAID_BY_ALLOCATORS
    )


@contextmanager
def map_machine_errors(folder: Path) -> Iterator[None]:
    """A full disk pauses the job, a full accelerator fails it. Raises TrainingPaused, TrainingFailed."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        pause_for_disk(folder, error)
        raise TrainingPaused from error
    except torch.OutOfMemoryError as error:
        text = f"The accelerator's memory is full: {error}. Set max_length or lora_r lower, or take a smaller model."
        raise TrainingFailed("out_of_memory", text, "max_length") from error
