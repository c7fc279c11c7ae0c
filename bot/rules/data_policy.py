"""Where a dataset may go and who may see its rows: egress to a provider, waivers for personal data, visibility in
channels. Pure.

Every rule that covers the data has to allow the provider; the strictest refusal decides. If there are any rules, data
that none of them covers stays on this machine; the rows of each channel that they came from have to be covered.
Personal data needs a waiver as well. A dataset belongs to a channel: if that channel is private, the dataset is
invisible to everybody outside it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from bot.rules.permissions import BUILT_IN, Data, DataRule, Policy

NO_RULE = f"{BUILT_IN}: data that no [[policy.data]] covers stays on this machine"
# Codes of findings, as in trainers/dataset/sensitive_data.py.
PERSONAL_DATA = "personal_data"
SECRET = "secret"  # noqa: S105  the code of a finding
RowDelivery = Literal["thread", "direct"]
NoDelivery = Literal["not in the channel", "others read here"]


@dataclass(frozen=True)
class EgressDecision:
    """Whether data may go to a provider; `refused` is None if it may. `against` are the rules that don't allow the
    provider, the deciding one first; if the data may go all the same, a reason overrode the soft ones. `where` is the
    deciding rule's place in the settings, '' if no rule applied."""

    refused: Literal["no rule", "hard rule", "soft rule"] | None = None
    against: tuple[DataRule, ...] = ()
    where: str = ""

    @property
    def overridden(self) -> tuple[str, ...]:
        """The names of the soft rules that the reason overrides."""
        if self.refused:
            return ()
        return tuple(rule.name for rule in self.against if rule.level == "soft")


def decide_egress(
    policy: Policy, data: Data, provider: str, *, stays_here: bool, reason: str | None
) -> EgressDecision:
    """`stays_here` is true if the provider is on this machine. `reason` is a person's reason to override soft rules."""
    covering = [rule for rule in policy.data if rule.covers(data)]
    if policy.data and not stays_here and not _are_all_covered(policy, data):
        return EgressDecision("no rule", where=NO_RULE)
    against = [rule for rule in covering if not rule.allows(provider)]
    hard = [rule for rule in against if rule.level == "hard"]
    if hard:
        return EgressDecision("hard rule", tuple(hard), hard[0].where)
    soft = [rule for rule in against if rule.level == "soft"]
    if soft and not reason:
        return EgressDecision("soft rule", tuple(soft), soft[0].where)
    advisory = [rule for rule in against if rule.level == "advisory"]
    where = ""
    if against:
        where = against[0].where
    elif covering:
        where = covering[0].where
    return EgressDecision(None, (*soft, *advisory), where)


def _are_all_covered(policy: Policy, data: Data) -> bool:
    """True if some rule covers the rows of each channel. A rule about one channel's rows must not let the rows of
    another channel leave."""
    for channel in data.channels:
        rows = replace(data, channels=frozenset({channel}))
        if not any(rule.covers(rows) for rule in policy.data):
            return False
    return True


def needs_waiver(codes: Collection[str], *, stays_here: bool) -> bool:
    """True if sending the data takes somebody's recorded reason. `codes` are those of the report's findings;
    `stays_here` is true if the data only goes to our own trainer on this machine."""
    return PERSONAL_DATA in codes and not stays_here


@dataclass(frozen=True)
class DatasetChannel:
    """The channel that a dataset belongs to, and whether the caller is a member, as just looked up in Slack. None means
    that Slack gave no answer, which never counts as a yes."""

    channel: str
    is_private: bool | None
    is_member: bool | None

    @property
    def is_unknown(self) -> bool:
        """True if Slack's answer could still be that the caller may know about its datasets."""
        if may_use(self):
            return False
        return self.is_private is None or self.is_member is None


def may_use(home: DatasetChannel) -> bool:
    """True if the caller may know about its datasets: their states, figures and models."""
    return home.is_private is False or home.is_member is True


def may_post(home: DatasetChannel, channel: str) -> bool:
    """True if cards about its datasets may be posted in `channel`."""
    return home.is_private is False or channel == home.channel


def may_show_rows(
    owner: str, sources: Collection[str], channel: str, *, is_private: bool | None, is_shared: bool | None
) -> bool:
    """True if rows, which may quote customers, may be posted in `channel`: it has to be the private channel that the
    dataset (`owner`) and all its rows (`sources`) belong to, and must not be shared with another organisation."""
    if channel != owner or set(sources) != {owner}:
        return False
    # Slack's silence (None) never counts as a yes.
    return is_private is True and is_shared is False


def choose_row_delivery(
    home: DatasetChannel, person: str, uploader: str, *, in_thread: bool
) -> RowDelivery | NoDelivery:
    """Returns where a file of rows is posted when `person` asks for it: in the card's thread, in a direct message, or
    why nowhere."""
    if not may_use(home):
        return "not in the channel"
    if in_thread:
        return "thread"
    # The uploader has the file already, so a copy in a direct message tells nobody anything new.
    if person == uploader:
        return "direct"
    return "others read here"
