"""What the stand-in does wrong when a test asks for it. A fault is a value; `Faults` deals them out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


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

    def though_done(self) -> Fault:
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


@dataclass
class Faults:
    """Not locked: the owner deals under its own lock."""

    _queue: list[tuple[str, Fault]] = field(default_factory=list)
    _standing: dict[str, Fault] = field(default_factory=dict)

    def add(self, method: str, fault: Fault, times: int | None) -> None:
        if times is None:
            self._standing[method] = fault
        else:
            self._queue.extend([(method, fault)] * times)

    def clear(self) -> None:
        self._queue.clear()
        self._standing.clear()

    def next_for(self, method: str) -> Fault | None:
        """The oldest that fits; '*' fits every method."""
        for index, (name, fault) in enumerate(self._queue):
            if name in (method, "*"):
                del self._queue[index]
                return fault
        return self._standing.get(method) or self._standing.get("*")
