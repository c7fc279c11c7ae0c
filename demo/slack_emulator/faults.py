"""What the emulator does wrong when a test asks for it. A fault is a value; `Faults` deals them out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Fault:
    """`error` answers `{"ok": false}`; a `status` but 200 answers like a proxy; `wait` (seconds) comes first.

    `cut` closes the connection without an answer. `after_work` does what was asked and only then goes wrong:
    the caller cannot know.
    """

    error: str | None = None
    status: int = 200
    retry_after: int | None = None
    wait: float = 0.0
    cut: bool = False
    after_work: bool = False

    def after_doing(self) -> Fault:
        return replace(self, after_work=True)

    @property
    def answers(self) -> bool:
        """Whether this takes the place of the true answer; a mere delay does not."""
        return self.cut or self.status != 200 or self.error is not None


def too_many(retry_after: int = 1) -> Fault:
    """HTTP 429; `retry_after` in seconds."""
    return Fault(error="ratelimited", status=429, retry_after=retry_after)


def broken(status: int = 500) -> Fault:
    return Fault(status=status)


def refused(error: str) -> Fault:
    """For instance message_not_found, account_inactive, token_revoked, missing_scope, is_archived."""
    return Fault(error=error)


def slow(seconds: float) -> Fault:
    """The true answer, late."""
    return Fault(wait=seconds)


def cut_off() -> Fault:
    return Fault(cut=True)


@dataclass(frozen=True)
class FaultTarget:
    """Which calls a fault is for: those of a `method` ('*': any), in a `channel`, with `text` in what was sent.

    `text` may be a message's words, a file's name or a person's id: such a message fails each time it is tried.
    """

    method: str
    channel: str | None = None
    text: str | None = None

    def fits(self, method: str, args: Mapping[str, Any]) -> bool:
        return (
            self.method in (method, "*")
            and self.channel in (None, args.get("channel"), args.get("channel_id"))
            and (self.text is None or self.text in json.dumps(dict(args), ensure_ascii=False))
        )


@dataclass
class Faults:
    """Not locked: the owner deals under its own lock."""

    _queue: list[tuple[FaultTarget, Fault]] = field(default_factory=list)
    _standing: dict[FaultTarget, Fault] = field(default_factory=dict)

    def add(self, aim: FaultTarget, fault: Fault, times: int | None) -> None:
        if times is None:
            self._standing[aim] = fault
        else:
            self._queue.extend([(aim, fault)] * times)

    def clear(self) -> None:
        self._queue.clear()
        self._standing.clear()

    def next_for(self, method: str, args: Mapping[str, Any]) -> Fault | None:
        """The oldest that fits, those for a number of calls first; '*' comes after the method's own name."""
        for index, (aim, fault) in enumerate(self._queue):
            if aim.fits(method, args):
                del self._queue[index]
                return fault
        standing = sorted(self._standing.items(), key=lambda item: item[0].method == "*")
        return next((fault for aim, fault in standing if aim.fits(method, args)), None)
