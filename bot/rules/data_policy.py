"""Where a dataset may go and who may see its rows: egress to a provider, waivers for personal data, visibility in
channels. Pure.

Every rule that covers the data has to allow a provider; the strictest no decides. Once there are rules, data that no
rule covers stays on this machine; where rows came from several channels, those of each have to be covered. Personal
data needs a waiver as well. A dataset belongs to a channel: where that is private, the dataset doesn't exist for
anybody else.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from bot.rules.permissions import BUILT_IN, Data, DataRule, Policy

NO_RULE = f"{BUILT_IN}: data that no [[policy.data]] covers stays on this machine"
# Codes of findings, as in trainers/dataset/sensitive_data.py.
PERSONAL_DATA, SECRET = "personal_data", "secret"
RowDelivery = Literal["thread", "direct"]
NoDelivery = Literal["not in the channel", "others read here"]


@dataclass(frozen=True)
class EgressDecision:
    """Whether data may go to a provider. `refused` None: it may. `against` are the rules that don't let it go there,
    the one that decides first: where it may, soft ones were set aside by a reason. `where` is the place of the rule
    that decided; '' where none had a say."""

    refused: Literal["no rule", "hard rule", "soft rule"] | None = None
    against: tuple[DataRule, ...] = ()
    where: str = ""

    @property
    def overridden(self) -> tuple[str, ...]:
        """The names of the rules that the reason sets aside."""
        return () if self.refused else tuple(rule.name for rule in self.against if rule.level == "soft")


def decide_egress(
    policy: Policy, data: Data, provider: str, *, stays_here: bool, reason: str | None
) -> EgressDecision:
    """`stays_here`: the provider is on this machine. `reason`: why soft rules should not hold."""
    covering = [rule for rule in policy.data if rule.covers(data)]
    # Rows of one channel don't leave by a rule about another's.
    by_channel = [replace(data, channels=frozenset({channel})) for channel in data.channels]
    is_covered = all(any(rule.covers(rows) for rule in policy.data) for rows in by_channel)
    if policy.data and not stays_here and not is_covered:
        return EgressDecision("no rule", where=NO_RULE)
    against = [rule for rule in covering if not rule.allows(provider)]
    hard = [rule for rule in against if rule.level == "hard"]
    if hard:
        return EgressDecision("hard rule", tuple(hard), hard[0].where)
    soft = [rule for rule in against if rule.level == "soft"]
    if soft and not reason:
        return EgressDecision("soft rule", tuple(soft), soft[0].where)
    decided = next(iter([*against, *covering]), None)
    advisory = [rule for rule in against if rule.level == "advisory"]
    return EgressDecision(None, (*soft, *advisory), decided.where if decided else "")


def needs_waiver(codes: Collection[str], *, stays_here: bool) -> bool:
    """Whether it takes somebody's recorded reason. `codes` of a report's findings; `stays_here`: it goes to our own
    trainer on this machine and no further."""
    return PERSONAL_DATA in codes and not stays_here


@dataclass(frozen=True)
class DatasetChannel:
    """The channel that a dataset belongs to, and whether the person who asks is in it, as Slack said just now.
    None: it didn't tell, which never counts as a yes."""

    channel: str
    is_private: bool | None
    is_member: bool | None


def may_use(home: DatasetChannel) -> bool:
    """Whether that person may know of its datasets: their states, figures and models."""
    return home.is_private is False or home.is_member is True


def may_post(home: DatasetChannel, channel: str) -> bool:
    """Whether cards about its datasets may stand in `channel`."""
    return home.is_private is False or channel == home.channel


def may_show_rows(
    owner: str, sources: Collection[str], channel: str, *, is_private: bool | None, is_shared: bool | None
) -> bool:
    """Whether customers' words may be posted in `channel`, which is private and shared with another organisation or
    not: only in the channel that the dataset belongs to, and only where all its rows came from there."""
    return channel == owner and set(sources) == {owner} and is_private is True and is_shared is False


def choose_row_delivery(
    home: DatasetChannel, person: str, uploader: str, *, in_thread: bool
) -> RowDelivery | NoDelivery:
    """Where a file of rows goes when `person` asks for it: into the thread of its card, to them alone, or nowhere."""
    if not may_use(home):
        return "not in the channel"
    if in_thread:
        return "thread"
    return "direct" if person == uploader else "others read here"
