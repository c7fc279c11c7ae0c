"""A file with one JSON line for each thing that happened at a peer, written before the peer's answer is sent.

The verdict is computed from these files, which outlive every process, and not from the bot's own data.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Record:
    """Append-only. Each line is one write, so lines of several threads never mix."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, what: str, **facts: object) -> None:
        line = json.dumps({"what": what, "at": time.time(), **facts}) + "\n"
        os.write(self._file, line.encode())

    def close(self) -> None:
        os.close(self._file)


def read(path: Path, *what: str) -> list[Line]:
    """Returns the lines of these kinds, or all lines, oldest first."""
    text = path.read_text(encoding="utf-8")
    # A line that is being written may be cut off anywhere: it counts at the next look.
    complete = text[: text.rfind("\n") + 1]
    lines = [json.loads(line) for line in complete.splitlines()]
    return [line for line in lines if not what or line["what"] in what]
