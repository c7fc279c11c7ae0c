"""How long something has waited, by a clock that nobody sets. The machine's may be put forward or back meanwhile.

Records keep the machine's time; it decides only about what was before this process knew of a wait.
"""

from __future__ import annotations

from collections.abc import Callable


class Waits:
    """`clock` gives unix seconds, `steady` seconds that pass."""

    def __init__(self, clock: Callable[[], float], steady: Callable[[], float]) -> None:
        self._clock = clock
        self._steady = steady
        self._known: dict[float, tuple[float, float]] = {}

    def since(self, at: float) -> float:
        """Seconds since `at` (unix seconds). It is told when a wait begins, and asked as it goes on."""
        now = self._steady()
        before, known_at = self._known.setdefault(at, (max(self._clock() - at, 0.0), now))
        return before + now - known_at
