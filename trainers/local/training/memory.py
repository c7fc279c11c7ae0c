"""How many tokens are computed at a time: half as many each time that memory proves too small, down to one row; then
activations are computed again instead of kept.

The gradients of the parts are added up, so the batch that a step learns from stays the same.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from trainers.local.training import team
from trainers.local.training.failures import TrainingFailed

R = TypeVar("R")
T = TypeVar("T")
SAID_BY_ALLOCATORS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
)  # MPS, CPU, CPU on Windows


class Room(Generic[R]):
    """At most `tokens` at a time, a row that is longer alone; `packs` False: always one row.

    `fill` makes groups of at most so many tokens, `width` says how many a group takes. `recompute` makes the model
    keep less, for more time; False where it can't. `recomputes`: it does so already.
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
    ) -> None:
        self.tokens = remembered or usual
        self._usual = usual
        self._packs = packs
        self._fill = fill
        self._width = width
        self._tell = tell
        self._recompute = recompute
        self._recomputes = recomputes

    @property
    def remembered(self) -> int | None:
        """What a checkpoint keeps, so that a run that goes on computes as this one does."""
        return self.tokens if self.tokens < self._usual else None

    def parts(self, rows: Sequence[R]) -> list[list[R]]:
        return self._fill(rows, self.tokens if self._packs else 1)

    def try_out(self, rows: Sequence[R], compute: Callable[[list[list[R]]], T], doing: str) -> T:
        """`compute` the rows in parts, and again in smaller parts where memory is full. `compute` starts anew.

        In a team all do so where one has to. Raises TrainingFailed where one row alone is too much.
        """
        while True:
            said = ""
            try:
                result = compute(self.parts(rows))
            except (RuntimeError, MemoryError) as error:  # OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error):
                    raise
                said = str(error).partition("\n")[0]
            if not team.any_of(bool(said)):
                return result
            gc.collect()  # the frames that held the tensors are gone only now
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._take_less(rows, doing, said)

    def _take_less(self, rows: Sequence[R], doing: str, said: str) -> None:
        several = [self._width(part) for part in self.parts(rows) if len(part) > 1]
        before = team.most(max(several, default=0))
        if not before:
            longest = team.most(max((self._width([row]) for row in rows), default=0))
            self._keep_less(longest, doing, said or "in another process")
            return
        self.tokens = before // 2
        self._tell(
            f"Memory was full {doing} with {before:,} tokens at a time: from now on at most {self.tokens:,}, their "
            f"gradients added up. A step still learns from as many rows."
        )

    def _keep_less(self, longest: int, doing: str, said: str) -> None:
        if self._recomputes or not self._recompute():
            text = (
                f"Memory is too small for one row of {longest} tokens at a time ({said}). "
                "Set max_length or lora_r lower, or take a smaller model."
            )
            raise TrainingFailed("out_of_memory", text, "max_length")
        self._recomputes = True
        self._tell(
            f"Memory was full {doing} with one row of {longest:,} tokens: from now on activations are computed again "
            "on the way back instead of kept, which takes about a third longer."
        )


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        s in text for s in SAID_BY_ALLOCATORS
    )
