"""Does a run fit into the month's budget? Integer micro-dollars, pure."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.money import usd_micros

WARN_AT_PERCENT = (50, 80, 100)


@dataclass(frozen=True)
class Budget:
    """Of one calendar month, UTC. `committed` is spent and reserved together."""

    limit_micros: int
    committed_micros: int

    @property
    def left_micros(self) -> int:
        return self.limit_micros - self.committed_micros

    def warnings(self) -> tuple[int, ...]:
        """The percents that are reached, of those at which people are warned."""
        reached = 100 * self.committed_micros
        return tuple(
            one for one in WARN_AT_PERCENT if self.limit_micros and reached >= one * self.limit_micros
        )

    def refusal(self, asked_micros: int) -> str | None:
        """Why `asked_micros` don't fit; None where they do. What costs nothing always fits."""
        if asked_micros <= max(self.left_micros, 0):
            return None
        return (
            f"This run may cost up to {usd_micros(asked_micros)}, and {usd_micros(max(self.left_micros, 0))} of this "
            f"month's {usd_micros(self.limit_micros)} are left. Raise `monthly_usd` under [budget] in finetune.toml, "
            f"or wait for next month."
        )
