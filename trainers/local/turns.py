"""How answers and trainings on the same processor take turns: while questions wait, a training pauses between two parts
of a step, for at most as long as it has computed, and an answer waits for the end of a part. Imports no torch.

Two programs that each use all cores slow each other down to less than half: torch's threads wait actively for one
another, and one whose core is taken keeps the others waiting. Turns are locks on three files, which the kernel releases
if a process dies:

    answers     held by the server while there are questions
    pass        held by the server during a pass of a model
    training    held, together with others, by each training process from when it wants to compute a part to its end
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path

FOLDER = "turns"  # in the trainer's data folder
VARIABLE = "FINETUNE_TURNS"  # tells a training process that folder
POLL_S = 0.005
TRIES = 10
# What a training saves up while nobody asks. Longer waits would look like a training that hangs.
MOST_SAVED_S = 5.0
# A part usually ends within a second. A larger model's takes longer, and then both compute at the same time.
LONGEST_PART_S = 2.0


class Lock:
    """A lock on a file. The file is opened when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self, *, shared: bool = False) -> bool:
        """Returns False if another process, or another Lock in this one, holds it. Several may hold it `shared`."""
        kind = fcntl.LOCK_EX
        if shared:
            kind = fcntl.LOCK_SH
        try:
            fcntl.flock(self._open(), kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def take_soon(self, *, shared: bool = False) -> None:
        """Takes it, also if another process is just looking whether it is free."""
        for _ in range(TRIES):
            if self.take(shared=shared):
                return
            time.sleep(POLL_S)

    def release(self) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def is_free(self) -> bool:
        """True if nobody holds it. Takes and releases it, so ask only for a lock that one doesn't hold."""
        if not self.take(shared=True):
            return False
        self.release()
        return True

    def _open(self) -> int:
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            weakref.finalize(self, os.close, self._descriptor)
        return self._descriptor


class AnswerTurns:
    """The server's side. Without a folder nobody takes turns."""

    def __init__(self, folder: Path | None) -> None:
        self._answers: Lock | None = None
        self._pass: Lock | None = None
        self._training: Lock | None = None
        if folder is not None:
            self._answers = Lock(folder / "answers")
            self._pass = Lock(folder / "pass")
            self._training = Lock(folder / "training")
        self._gave_up = False

    def begin(self) -> None:
        """Tells trainings that there are questions. May be called again before `end`."""
        if self._answers is not None:
            self._answers.take_soon()

    def end(self) -> None:
        if self._answers is not None:
            self._answers.release()

    def is_training(self) -> bool:
        """True if a training computes a part now, and it is worth waiting for the part's end."""
        if self._training is None:
            return False
        if self._training.take():  # nobody else holds it, shared or not
            self._training.release()
            self._gave_up = False
            return False
        return not self._gave_up

    def begin_pass(self) -> None:
        if self._pass is not None:
            self._pass.take_soon()

    def end_pass(self) -> None:
        if self._pass is not None:
            self._pass.release()

    def wait(self) -> None:
        """Waits until no training computes, but no longer than a usual part takes. After a longer one, it waits no more
        until that part has ended."""
        deadline = time.monotonic() + LONGEST_PART_S
        while self.is_training():
            if time.monotonic() >= deadline:
                self._gave_up = True
            else:
                time.sleep(POLL_S)


class TrainingTurns:
    """A training's side, for a process that trains alone."""

    def __init__(self, folder: Path) -> None:
        self._answers = Lock(folder / "answers")
        self._pass = Lock(folder / "pass")
        self._training = Lock(folder / "training")
        self._began: float | None = None
        self._saved_s = 0.0

    def take(self, check: Callable[[], None]) -> None:
        """To be called before each part of a step. Lets the server answer first, for at most as long as this training
        has computed since it last waited. `check` is called meanwhile, and may raise to end the wait."""
        if self._began is not None:
            computed_s = time.monotonic() - self._began
            self._saved_s = min(MOST_SAVED_S, self._saved_s + computed_s)
        self._began = None
        self._training.release()
        waited_s = _wait_for(self._answers, self._saved_s, check)
        self._training.take_soon(shared=True)
        # The server has seen that now, and makes no other pass.
        waited_s += _wait_for(self._pass, LONGEST_PART_S, check)
        self._saved_s = max(0.0, self._saved_s - waited_s)
        self._began = time.monotonic()


def _wait_for(lock: Lock, most_s: float, check: Callable[[], None]) -> float:
    """Returns the seconds that it took until nobody held the lock, at most `most_s`."""
    start = time.monotonic()
    while not lock.is_free() and time.monotonic() - start < most_s:
        check()
        time.sleep(POLL_S)
    return time.monotonic() - start


def training_turns() -> TrainingTurns | None:
    """Returns None if no server on this machine answers beside this process."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    return TrainingTurns(Path(folder))
