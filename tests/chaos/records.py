"""What happened at a peer, one JSON line each, written before its answer leaves. The checker reads these and no more.

Appended to a file that outlives every process: the bot's word for what it did is never asked.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Record:
    """Append-only. A line is one write, so lines of several threads never mix."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, what: str, **facts: object) -> None:
        line = json.dumps({"what": what, "at": time.time(), **facts}) + "\n"
        os.write(self._file, line.encode())

    def close(self) -> None:
        os.close(self._file)


def read(path: Path, *what: str) -> list[Line]:
    """Oldest first; only lines of these kinds, where any are named."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if not what or line["what"] in what]
