"""Keeps look-ups within the number of calls a minute that Slack answers, so that none of them is refused in a burst.

Slack counts each method on its own. What it refuses all the same (another program may use the token) is not asked again
before the time that Slack gives with its refusal. A look-up that there is no room for isn't made and doesn't wait: the
person who waits for it reads that Slack could not be asked.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping

from bot.health import metrics

WINDOW_S = 60.0
# Calls a minute, from Slack's reference of each method: tiers 3, 4, 4 and 2.
CALLS_A_MINUTE: Mapping[str, int] = {
    "conversations.info": 50,
    "conversations.members": 100,
    "users.info": 100,
    "usergroups.users.list": 20,
}
USUAL_RETRY_S = 30.0  # if Slack's refusal names no time

for _method in CALLS_A_MINUTE:
    metrics.LOOK_UPS_REFUSED.labels(_method)  # shown from the start


class LookUpLimits:
    """Counts the calls of the last minute by method. `steady` is a monotonic clock in seconds."""

    def __init__(
        self, steady: Callable[[], float], calls_a_minute: Mapping[str, int] = CALLS_A_MINUTE
    ) -> None:
        self._steady = steady
        self._calls_a_minute = calls_a_minute
        self._lock = threading.Lock()
        self._calls: defaultdict[str, deque[float]] = defaultdict(deque)
        self._closed_until: dict[str, float] = {}

    def take(self, method: str, *, reserve: float = 0.0) -> bool:
        """Returns True if a call may be made now, and counts it. `reserve` is the share of the calls that is left to
        more urgent look-ups."""
        with self._lock:
            may_call = self._may_call(method, reserve)
            if may_call:
                self._calls[method].append(self._steady())
            else:
                metrics.LOOK_UPS_REFUSED.labels(method).inc()
            return may_call

    def close(self, method: str, retry_after_s: float | None) -> None:
        """Records that Slack refused a call, and for how many seconds it wants no other."""
        wait_s = USUAL_RETRY_S if retry_after_s is None else retry_after_s
        with self._lock:
            self._closed_until[method] = self._steady() + wait_s

    def _may_call(self, method: str, reserve: float) -> bool:
        now = self._steady()
        calls = self._calls[method]
        while calls and calls[0] <= now - WINDOW_S:
            calls.popleft()
        if now < self._closed_until.get(method, 0.0):
            return False
        most = self._calls_a_minute.get(method)
        if most is None:
            return True
        return len(calls) < most * (1 - reserve)
