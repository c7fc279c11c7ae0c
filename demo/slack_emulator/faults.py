"""Faults that a test can inject into the emulator. A fault is a value; `Faults` decides which call gets it."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Fault:
    """A failure of one call.

    `wait` delays the answer by seconds. `error` is Slack's code in an `{"ok": false}` answer; a `status` other than 200
    without an error looks like a proxy's. `cut` closes the connection without an answer. With `after_work` the call is
    carried out before it fails, which the caller can't know.
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
        """True if this replaces the real answer, as opposed to a mere delay."""
        return self.cut or self.status != 200 or self.error is not None


def too_many(retry_after: int = 1) -> Fault:
    """An HTTP 429. `retry_after` is in seconds."""
    return Fault(error="ratelimited", status=429, retry_after=retry_after)


def broken(status: int = 500) -> Fault:
    """An HTTP error without Slack's JSON."""
    return Fault(status=status)


def refused(error: str) -> Fault:
    """An error of Slack's, such as message_not_found, account_inactive, token_revoked, missing_scope, is_archived."""
    return Fault(error=error)


def slow(seconds: float) -> Fault:
    """The real answer, delayed."""
    return Fault(wait=seconds)


def cut_off() -> Fault:
    return Fault(cut=True)


@dataclass(frozen=True)
class FaultTarget:
    """The calls that get a fault: those of a `method` ('*' for any), in a `channel`, with `text` in their arguments.

    `text` may be a message's words, a file's name or a person's id, so that a certain message fails on every try.
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


# Slack's tiers of the look-ups that a bot makes, in calls a minute.
TIERS: Mapping[str, int] = {
    "conversations.info": 50,
    "conversations.members": 100,
    "users.info": 100,
    "usergroups.users.list": 20,
}
WINDOW_S = 60.0


@dataclass
class Faults:
    """The injected faults. Not thread-safe: the owner holds its own lock. `calls_a_minute` limits methods: further
    calls are refused as Slack refuses them."""

    calls_a_minute: Mapping[str, int] = field(default_factory=dict)
    _calls: defaultdict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
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
        """Returns the fault for a call, None if there is none. Faults for a number of calls come first, the oldest
        first; then the lasting ones, those for a certain method before '*'."""
        for index, (aim, fault) in enumerate(self._queue):
            if aim.fits(method, args):
                del self._queue[index]
                return fault
        refusal = self._refuse_by_tier(method)
        if refusal:
            return refusal
        standing = sorted(self._standing.items(), key=lambda item: item[0].method == "*")
        return next((fault for aim, fault in standing if aim.fits(method, args)), None)

    def _refuse_by_tier(self, method: str) -> Fault | None:
        """Counts a call of a limited method, and refuses it if there were too many in the last minute."""
        if method not in self.calls_a_minute:
            return None
        now = time.monotonic()
        calls = self._calls[method]
        while calls and calls[0] <= now - WINDOW_S:
            calls.popleft()
        if len(calls) >= self.calls_a_minute[method]:
            return too_many(math.ceil(calls[0] + WINDOW_S - now))
        calls.append(now)
        return None
