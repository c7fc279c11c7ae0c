"""What the executor asks of a place where jobs run. An attempt is one start of a job's training there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from trainers.local.jobs import JobRecord

LOOK_S = 0.05


@dataclass(frozen=True)
class Exit:
    """How an attempt ended: `why` continues "the training process …"; None where nobody saw it. `code` where known."""

    code: int | None
    why: str | None


class Attempt(Protocol):
    record: JobRecord
    is_being_cancelled: bool
    is_beside_serving: bool  # on the GPU that answers, or on a machine without any

    @property
    def has_begun(self) -> bool:
        """False while it waits for a machine."""
        ...

    @property
    def exit(self) -> Exit | None:
        """None as long as it is there. Answers at once."""
        ...

    def end(self) -> bool:
        """End it, within about 10 s. False where it may still be at work."""
        ...

    def let_go(self) -> None:
        """The server ends. Returns once nothing here looks after it any more."""
        ...


class Place(Protocol):
    """`lag_s`: how much later than on this machine an exit may be seen. `is_here`: jobs use this machine's memory.
    `processes`: how many train one job, on how many machines `nodes`.
    """

    lag_s: float
    is_here: bool
    processes: int
    nodes: int

    def shortage(self) -> str | None:
        """Why no job can begin there as things stand, in a sentence; None where nothing is known to lack."""
        ...

    def start(self, record: JobRecord) -> Attempt: ...

    def adopt(self, record: JobRecord) -> Attempt | None:
        """The attempt that an earlier server, or somebody by hand, started and that may still be at work."""
        ...

    def close(self) -> None:
        """After all attempts were let go."""
        ...


def exits_within(attempt: Attempt, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while attempt.exit is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_S)
    return True
