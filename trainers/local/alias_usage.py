"""Counts the calls and tokens of each alias by day (UTC) and by the model that answered.

FOLDER/2026-11-27.json: {"team/tickets": {"ft:…": [calls, prompt tokens, completion tokens]}}. A day's file is small, so
it is rewritten with every answer, and a killed trainer loses nothing. It is not synced to disk, which would delay the
answers, so a power cut may lose the counts of the last seconds.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from trainers.local.job_directory import read_json
from trainers.local.serving.values import (
    AnswerEnd,
    Embeddings,
    GenerationEngine,
    Outcome,
    PendingRequest,
    Ticket,
)
from trainers.types import AliasUsage

USAGE_FOLDER = "alias_usage"
Counts = dict[str, dict[str, list[int]]]  # by alias, by model

log = logging.getLogger(__name__)


class AliasCounts:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._day = ""
        self._counts = Counts()

    def count(self, alias: str, model: str, calls: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Adds to today's counts. A full disk is logged and doesn't fail the answer."""
        with self._lock:
            day = datetime.now(UTC).date().isoformat()
            if day != self._day:
                self._day = day
                self._counts = self._read(day)
            by_model = self._counts.setdefault(alias, {})
            before = by_model.get(model, [0, 0, 0])
            by_model[model] = [
                before[0] + calls,
                before[1] + prompt_tokens,
                before[2] + completion_tokens,
            ]
            try:
                self._write(day, self._counts)
            except OSError as error:
                log.warning("counting the calls of %s: %s", alias, error)

    def usage_since(self, alias: str, day: str) -> list[AliasUsage]:
        """Returns the counts from `day` (YYYY-MM-DD) on, oldest first."""
        usage = []
        for counted_day in self._days():
            if counted_day < day:
                continue
            counts = self._read(counted_day)
            for model, row in counts.get(alias, {}).items():
                usage.append(AliasUsage(counted_day, model, *row))
        return usage

    def forget(self, alias: str) -> None:
        with self._lock:
            for day in self._days():
                counts = self._read(day)
                if counts.pop(alias, None) is not None:
                    self._write(day, counts)
            self._day = ""

    def _days(self) -> Iterator[str]:
        return iter(sorted(path.stem for path in self._folder.glob("*.json")))

    def _read(self, day: str) -> Counts:
        path = self._folder / f"{day}.json"
        try:
            return read_json(path) or {}
        except ValueError:  # truncated by a power cut
            log.warning("%s can't be read: its counts are lost", path)
            return {}

    def _write(self, day: str, counts: Counts) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / f"{day}.json"
        partial = target.with_name(f"{target.name}.tmp")
        partial.write_text(json.dumps(counts), encoding="utf-8")
        partial.replace(target)


@dataclass(frozen=True)
class CountingEngine:
    """Passes requests on to `engine` and counts its answers as calls of the alias. Unfinished answers don't count."""

    engine: GenerationEngine
    usage: AliasCounts
    alias: str
    model: str

    def submit(self, request: PendingRequest) -> Ticket:
        def emit(outcome: Outcome) -> object:
            match outcome:
                case AnswerEnd(index=index, prompt_tokens=prompt, completion_tokens=completion):
                    # A request for several answers is one call: the first answer counts it, with the prompt's tokens.
                    if index == 0:
                        self.usage.count(self.alias, self.model, 1, prompt, completion)
                    else:
                        self.usage.count(self.alias, self.model, 0, 0, completion)
                case Embeddings(tokens=tokens):
                    self.usage.count(self.alias, self.model, 1, tokens, 0)
            return request.emit(outcome)

        return self.engine.submit(replace(request, emit=emit))

    def forget_texts(self) -> None:
        self.engine.forget_texts()

    def stop(self) -> None:
        self.engine.stop()
