"""What a command tells the program that started it with the hidden option --for-program: one JSON object a line, on
stderr, among sentences for people. Written by `bot/cli/output.py` and `evaluations.py`, read by `processes.py`."""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from dataclasses import asdict, dataclass, fields
from typing import Self

PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Report:
    """`progress` is a sentence for people. Amounts are in micro-dollars.

    `refused_micros` is what an evaluation could have cost, if that was more than --max-usd allowed. `most_micros` is
    the most that it is going to cost, reported before the first question is sent; `spent_micros` is what it has cost,
    reported once no question is under way. After a crash there is no `spent_micros`.
    """

    progress: str | None = None
    refused_micros: int | None = None
    most_micros: int | None = None
    spent_micros: int | None = None

    def to_line(self) -> str:
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(values)

    @classmethod
    def from_line(cls, line: str) -> Self | None:
        """Returns None for a line that is no report but a sentence."""
        if not line.startswith("{"):
            return None
        try:
            values = json.loads(line)
        except ValueError:
            return None
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not values.keys() <= names:
            return None
        return cls(**values)


def end_with_parent() -> None:
    """Makes the kernel interrupt this process, as Ctrl-C does, when the process that started it dies. Linux only: on
    macOS, a command whose server was killed goes on to its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
