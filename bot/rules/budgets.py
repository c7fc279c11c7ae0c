"""Does a run fit into this month's budgets: the team's, its channel's, its person's? Integer micro-dollars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainers.money import usd_micros

WARN_AT_PERCENT = (50, 80, 100)

Kind = Literal["team", "channel", "person"]


@dataclass(frozen=True)
class Budget:
    """Of one calendar month, UTC. `committed` is spent and reserved together. `id` is of the channel or person whose
    limit it is; '' is the team's."""

    limit_micros: int
    committed_micros: int
    kind: Kind = "team"
    id: str = ""

    @property
    def whose(self) -> str:
        """Its name in the store: 'team', 'channel C1', 'person U1'."""
        return f"{self.kind} {self.id}".strip()

    @property
    def left_micros(self) -> int:
        return self.limit_micros - self.committed_micros

    def warnings(self) -> tuple[int, ...]:
        """The percents that are reached, of those at which people are warned."""
        reached = 100 * self.committed_micros
        return tuple(
            value for value in WARN_AT_PERCENT if self.limit_micros and reached >= value * self.limit_micros
        )

    def refusal(self, asked_micros: int) -> str | None:
        """Why `asked_micros` don't fit; None where they do. What costs nothing always fits."""
        if asked_micros <= max(self.left_micros, 0):
            return None
        left, limit = usd_micros(max(self.left_micros, 0)), usd_micros(self.limit_micros)
        return (
            f"This run may cost up to {usd_micros(asked_micros)}, and {left} of this month's {limit}{self.owner} are "
            f"left. Raise {self.setting} in finetune.toml, or wait for next month."
        )

    @property
    def owner(self) -> str:
        """' for …', as mrkdwn; '' for the team's."""
        match self.kind:
            case "team":
                return ""
            case "channel":
                return f" for <#{self.id}>"
            case "person":
                return f" for <@{self.id}>"

    @property
    def setting(self) -> str:
        match self.kind:
            case "team":
                return "`monthly_usd` under [budget]"
            case "channel":
                return f"{self.id} under [budget.channels], or `per_channel_usd` under [budget],"
            case "person":
                return f"{self.id} under [budget.people], or `per_person_usd` under [budget],"


def tightest(budgets: Sequence[Budget]) -> Budget:
    """The one with the least left; of equals the first."""
    return min(budgets, key=lambda budget: budget.left_micros)


def refusal(budgets: Sequence[Budget], asked_micros: int) -> str | None:
    """The tightest one's; what fits there fits everywhere."""
    return tightest(budgets).refusal(asked_micros)
