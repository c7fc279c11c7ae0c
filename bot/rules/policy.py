"""The rules of finetune.toml as values: who may do what, how many approve what it costs, which data may go
where. Judges nothing; permissions.py and data_policy.py do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

Rule = Literal[
    "read",
    "upload",
    "estimate",
    "measure",
    "start",
    "approve",
    "cancel",
    "freeze",
    "waive",
    "promote",
    "try",
    "delete",
]
Action = Literal[Rule, "reject", "resolve", "pause", "unfreeze", "rollback"]
Level = Literal["advisory", "soft", "hard"]

RULES: tuple[Rule, ...] = Rule.__args__  # type: ignore[attr-defined]  # get_args, which mypy can't follow
LEVELS: tuple[Level, ...] = Level.__args__  # type: ignore[attr-defined]
# Whoever may do the one may do the other, which undoes it.
GOVERNED_BY: Mapping[Action, Rule] = {
    "reject": "approve",
    "resolve": "approve",
    "pause": "cancel",
    "unfreeze": "freeze",
    "rollback": "promote",
}
DOING: Mapping[Action, str] = {
    "read": "see this",
    "upload": "upload data",
    "estimate": "ask for estimates",
    "measure": "measure models",
    "start": "ask for a run",
    "approve": "approve a run",
    "reject": "reject a run",
    "resolve": "decide what becomes of a run in doubt",
    "cancel": "cancel it",
    "pause": "pause or resume it",
    "freeze": "freeze",
    "unfreeze": "end a freeze",
    "waive": "let personal data leave",
    "promote": "promote a model",
    "rollback": "roll a model back",
    "try": "try a model",
    "delete": "delete data",
}
BUILT_IN = "built in"
USUAL_EXPIRY_S = 24 * 3600.0
USUAL_REMINDERS_S = (4 * 3600.0,)


@dataclass(frozen=True)
class Named:
    """Whom a rule names: ids of users and of user groups; `anyone` is every full member, `requester` who asked for
    the run or measurement that it is about, or uploaded the data. `where` is the rule's place in the file."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    anyone: bool = False
    requester: bool = False
    where: str = BUILT_IN

    @property
    def is_nobody(self) -> bool:
        return not (self.users or self.groups or self.anyone or self.requester)


@dataclass(frozen=True)
class Tier:
    """How many approvers a plan needs whose maximum is up to `up_to_micros`; None: whatever it costs."""

    up_to_micros: int | None
    approvers: int
    where: str = BUILT_IN


@dataclass(frozen=True)
class Data:
    """What leaves: a dataset's name, the channels that its rows came from, and whether its check found personal
    data."""

    dataset: str
    channels: frozenset[str]
    is_personal: bool


@dataclass(frozen=True)
class DataRule:
    """Data for which all that is said here holds may go to `providers` alone. None: not said, so any.

    `name` is the team's word for the rule."""

    name: str
    level: Level
    providers: frozenset[str] | None = None
    channels: frozenset[str] | None = None
    datasets: tuple[str, ...] | None = None
    personal: bool | None = None
    where: str = BUILT_IN

    def covers(self, data: Data) -> bool:
        return bool(
            (self.channels is None or data.channels & self.channels)
            and (
                self.datasets is None or any(fnmatchcase(data.dataset, dataset) for dataset in self.datasets)
            )
            and (self.personal is None or data.is_personal == self.personal)
        )

    def allows(self, provider: str) -> bool:
        return self.providers is None or provider in self.providers


NOBODY = Named()
ANYONE = Named(anyone=True)


def usual_rules(approvers: Named) -> Mapping[Rule, Named]:
    """Without [policy.who]: every full member takes part, `approvers` decide about money."""
    requester_too = Named(approvers.users, approvers.groups, requester=True, where=approvers.where)
    return {
        **dict.fromkeys(("read", "upload", "estimate", "measure", "start", "try"), ANYONE),
        **dict.fromkeys(("approve", "freeze", "waive", "promote"), approvers),
        **dict.fromkeys(("cancel", "delete"), requester_too),
    }


@dataclass(frozen=True)
class Policy:
    """`tiers` from cheap to dear, at least one. Times in seconds: how long a plan waits for its approvals, and how
    long before that time's end approvers are reminded."""

    who: Mapping[Rule, Named] = field(default_factory=dict)
    tiers: tuple[Tier, ...] = (Tier(None, 1),)
    data: tuple[DataRule, ...] = ()
    expires_s: float = USUAL_EXPIRY_S
    remind_s: tuple[float, ...] = USUAL_REMINDERS_S

    def named(self, action: Action) -> Named:
        """Nobody, where no rule speaks of it."""
        return self.who.get(rule_of(action), NOBODY)

    def tier(self, maximum_micros: int) -> Tier | None:
        """None where the plan is dearer than every tier."""
        fits = (
            tier for tier in self.tiers if tier.up_to_micros is None or maximum_micros <= tier.up_to_micros
        )
        return next(fits, None)


def rule_of(action: Action) -> Rule:
    """Raises KeyError for what no rule can speak of."""
    if action in RULES:
        return action
    return GOVERNED_BY[action]
