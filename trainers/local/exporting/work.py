"""What is asked for (Order), and the same once nothing speaks against it (Work). Values only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.local.exporting.bases import Base
from trainers.local.exporting.card import Measured
from trainers.local.exporting.hub import Upload
from trainers.local.exporting.rows import Questions
from trainers.local.exporting.sources import Source

To = Literal["merged", "gguf", "ollama", "vllm", "hub"]
Say = Callable[[str], None]
NO_UPLOAD = Upload(None, False)


@dataclass(frozen=True)
class Order:
    """`data` are data folders of trainers, `tools` is where the converter is kept. None: as the base has it."""

    model: str
    to: To
    out: Path
    data: Sequence[Path]
    tools: Path
    dtype: str | None = None
    rows: Path | None = None
    base_id: str | None = None
    licence: str | None = None
    upload: Upload = NO_UPLOAD
    measured: Measured | None = None


@dataclass(frozen=True)
class Work:
    """An order that nothing speaks against. `prompts` are the questions as token ids; `ours` our server's answers."""

    order: Order
    source: Source
    base: Base
    questions: Questions
    dtype: str
    prompts: Sequence[Sequence[int]]
    ours: Sequence[str]

    @property
    def name(self) -> str:
        """As people call the model, in letters that file names and commands take."""
        called = self.order.measured.name if self.order.measured else self.source.name.removeprefix("ft:")
        return re.sub(r"[^\w.-]+", "-", called).strip("-.")
