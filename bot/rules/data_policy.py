"""Where a dataset may go and who may see its rows: egress to a provider, waivers for personal data,
visibility in channels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from bot.rules.permissions import BUILT_IN, MIN_WORDS, Data, DataRule, Denied, Policy, has_words

# May this data go to that provider? Every rule that covers the data has to allow it; the strictest no
# decides. Pure.
#
# Data that no rule covers stays on this machine, once there are rules; where rows came from several
# channels, those of each have to be covered. Personal data needs a waiver as well.


NO_RULE = f"{BUILT_IN}: data that no [[policy.data]] covers stays on this machine"
EXAMPLE_REASON = "because=the customers agreed, ticket LEGAL-12"


@dataclass(frozen=True)
class EgressDecision:
    """`refusal` None: it may. `notes` are sentences for the card, `overridden` the names of the soft rules that the
    reason sets aside. `where` is the place of the rule that decided; '' where none had a say."""

    refusal: str | None = None
    notes: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    where: str = ""


def decide_egress(
    policy: Policy, data: Data, provider: str, *, stays_here: bool, reason: str | None
) -> EgressDecision:
    """`stays_here`: the provider is on this machine. `reason`: why soft rules should not hold."""
    covering = [rule for rule in policy.data if rule.covers(data)]
    if policy.data and not stays_here and not _is_covered(policy, data):
        return EgressDecision(_uncovered(data, provider), where=NO_RULE)
    if not covering:
        return EgressDecision()
    against = [rule for rule in covering if not rule.allows(provider)]
    hard = next((rule for rule in against if rule.level == "hard"), None)
    soft = [rule for rule in against if rule.level == "soft"]
    if hard:
        return EgressDecision(f"{_no(hard, provider)} {_cure(hard)}", where=hard.where)
    if soft and not reason:
        return EgressDecision(
            f"{_no(soft[0], provider)} {_cure(soft[0])} Who has a reason to set the rule aside gives it at the end "
            f"of the command, where it is recorded and shown: `{EXAMPLE_REASON}`.",
            where=soft[0].where,
        )
    notes = [*(f"{_no(rule, provider)} Set aside because: {reason}" for rule in soft)]
    notes += [f"{_no(rule, provider)} The rule is advisory." for rule in against if rule.level == "advisory"]
    decided = against[0] if against else covering[0]
    return EgressDecision(None, tuple(notes), tuple(rule.name for rule in soft), decided.where)


def _is_covered(policy: Policy, data: Data) -> bool:
    """Rows of one channel don't leave by a rule about another's."""
    each = [replace(data, channels=frozenset({channel})) for channel in data.channels]
    return all(any(rule.covers(data) for rule in policy.data) for data in each)


def _no(rule: DataRule, provider: str) -> str:
    return f"The rule “{rule.name}” ({rule.where}) doesn't let this data go to {provider}."


def _cure(rule: DataRule) -> str:
    allowed = ", ".join(sorted(rule.providers or ()))
    return (
        f"It may go to {allowed}."
        if allowed
        else "It may go nowhere: the bot's operator names providers there."
    )


def _uncovered(data: Data, provider: str) -> str:
    return (
        f"No rule under [[policy.data]] in finetune.toml speaks of {data.dataset} from its channel, so it doesn't go "
        f"to {provider}. It may go to a trainer on this machine, or the bot's operator adds a rule."
    )


# Personal data on its way to a vendor: when it takes somebody's recorded word, and what such a word is.
# Pure.


PERSONAL_DATA, SECRET = (
    "personal_data",
    "secret",
)  # codes of findings, as in trainers/dataset/sensitive_data.py


def needs_waiver(codes: Collection[str], *, stays_here: bool) -> bool:
    """`codes` of a report's findings. `stays_here`: it goes to our own trainer on this machine and no further."""
    return PERSONAL_DATA in codes and not stays_here


def check_waiver_reason(reason: str) -> Denied | None:
    """None where `reason` says why the data may leave."""
    if has_words(reason):
        return None
    return Denied(
        f"Say in at least {MIN_WORDS} words why this data may leave, "
        f"like: the customers agreed, ticket LEGAL-12."
    )


# Who may know of a dataset, and where customers' words may be shown. Pure.
#
# A dataset belongs to a channel. Where that is private, the dataset doesn't exist for anybody else.


RowDelivery = Literal["thread", "direct"]


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
) -> RowDelivery | Denied:
    """Where a file of rows goes when `person` asks for it: into the thread of its card, to them alone, or nowhere."""
    if not may_use(home):
        return Denied(
            "The file holds customers' words of a channel that you are not in, so it is not sent to you."
        )
    if in_thread:
        return "thread"
    if person == uploader:
        return "direct"
    return Denied(
        "The file holds customers' words and others than the dataset's channel can read here, so it is not posted. "
        f"<@{uploader}>, who uploaded it, gets it as a direct message by pressing the button."
    )
