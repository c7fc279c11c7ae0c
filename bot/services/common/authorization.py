"""Decides what a person may do, which datasets they may know about, and where rows may be shown.

What gives somebody something, such as an approval or rows, is looked up in Slack every time. What people only read
depends on every channel that owns a dataset, so Slack's answers of the last minutes decide it (`context.recent`). The
decisions are in bot/rules. Anyone who acts in a channel is a member, so that is not looked up for the datasets of that
channel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

from bot.cards.common.blocks import code
from bot.cards.common.permissions import verdict_text
from bot.cards.datasets.datasets import no_such_dataset, unchecked_dataset
from bot.command_options import Subject
from bot.context import AppContext, Directory
from bot.rules import data_policy as rules
from bot.rules import permissions
from bot.rules.data_policy import DatasetChannel, NoDelivery, RowDelivery
from bot.rules.permissions import (
    NO_REQUEST,
    RULES,
    Action,
    Caller,
    Channel,
    Policy,
    Request,
    Rule,
    Rules,
)
from bot.values.runs import Refusal
from storage.records import Dataset, Measurement, Run

PARALLEL_LOOKUPS = 8
# These depend on everybody whom the rule names, so its groups are always looked up.
DEPENDS_ON_OTHERS: tuple[Action, ...] = ("approve", "resolve", "unfreeze")
Row = TypeVar("Row", Run, Measurement)
PARALLEL_MEMBERSHIP_LOOKUPS = 16
LOOK_UP_S = 1.2  # a form has to open within three seconds, and the person was looked up before


def refusal(
    context: AppContext,
    person: str,
    action: Action,
    channel: str | None = None,
    request: Request = NO_REQUEST,
) -> Refusal | None:
    """Looks the person up in Slack. Returns why they may not do it, None if they may."""
    caller = look_up(context, person, action, channel)
    return refusal_for(caller, action, request)


def refusal_for(caller: Caller, action: Action, request: Request = NO_REQUEST) -> Refusal | None:
    """Like `refusal`, for somebody who was already looked up: a transaction must not wait for Slack."""
    denied = permissions.may(caller, action, request)
    if denied is None:
        return None
    return Refusal(verdict_text(denied.because))


def look_up(context: AppContext, person: str, action: Action, channel: str | None = None) -> Caller:
    groups = _groups_to_look_up(context.settings.policy, action, person)
    directory = context.directory
    if action == "read":
        # What Slack said a while ago is enough; to act, a person is looked up now.
        directory = context.recent
    return _look_up(context, directory, person, channel, groups)


def rights(context: AppContext, person: str, channel: str) -> Sequence[tuple[Rule, str | None]] | Refusal:
    """Returns each right with the reason why it is denied, None if it is granted. Returns a refusal if all are denied
    for the same reason.

    No particular run or dataset is meant, so rules about the requester and the cost are not considered.
    """
    policy = context.settings.policy
    groups = set[str]()
    for rule in RULES:
        groups |= policy.named(rule).groups
    caller = _look_up(context, context.recent, person, channel, sorted(groups))
    verdicts: list[tuple[Rule, str | None]] = []
    for rule in RULES:
        denied = permissions.may(caller, rule)
        reason = None
        if denied:
            reason = verdict_text(denied.because)
        verdicts.append((rule, reason))
    reasons = {reason for _, reason in verdicts}
    # One reason for all, such as that nobody knows the person, is said once.
    (first, *others) = reasons
    if others or first is None:
        return verdicts
    return Refusal(first)


def _look_up(
    context: AppContext, directory: Directory, person: str, channel: str | None, groups: Sequence[str]
) -> Caller:
    """Looks everything up in parallel: a look-up may take a second, and a form has to open within three."""
    with ThreadPoolExecutor(PARALLEL_LOOKUPS) as pool:
        # Each with a copy of this thread's context, in which Slack is asked each question once.
        who = pool.submit(copy_context().run, directory.person, person)
        where = None
        if channel:
            where = pool.submit(copy_context().run, _describe_channel, directory, channel)
        members = _look_up_members(pool, directory, groups)
        rules = Rules(context.settings.policy, members)
        described = None
        if where is not None:
            described = where.result()
        return Caller(who.result(), rules, described)


def channel_refusal(context: AppContext, channel: str, *, by_others: bool = False) -> Refusal | None:
    """Returns why cards can't be posted in a channel, None if they can. `by_others` says that other people have to see
    them, too."""
    if by_others and channel.startswith("D"):
        return Refusal(
            "Nobody else would see the plan here. Type this in a channel that approvers and I are in (`/invite "
            "@Finetune`)."
        )
    if context.directory.takes_posts(channel) is not False:
        return None
    # What belongs to a private channel never goes to the fallback channel, nor what may do so.
    has_fallback = bool(context.settings.slack.fallback_channel)
    if has_fallback and context.directory.is_private(channel) is False:
        return None
    return Refusal("I'm not in this channel, so I can't post here: `/invite @Finetune`, then type it again.")


def current_rules(context: AppContext, action: Action, directory: Directory | None = None) -> Rules:
    """Returns the rules with the current members of the groups that decide about the action."""
    groups = _groups_to_look_up(context.settings.policy, action)
    directory = directory or context.directory
    with ThreadPoolExecutor(PARALLEL_LOOKUPS) as pool:
        members = _look_up_members(pool, directory, groups)
    return Rules(context.settings.policy, members)


def _look_up_members(
    pool: ThreadPoolExecutor, directory: Directory, groups: Sequence[str]
) -> dict[str, frozenset[str] | None]:
    future_by_group = {}
    for group in groups:
        future_by_group[group] = pool.submit(copy_context().run, directory.members, group)
    return {group: future.result() for group, future in future_by_group.items()}


def _groups_to_look_up(policy: Policy, action: Action, person: str | None = None) -> list[str]:
    """Returns the groups to look up; none if `person` is allowed without them."""
    named = policy.named(action)
    is_clear = False
    if person is not None:
        is_clear = bool(named.anyone) or person in named.users
    if is_clear and action not in DEPENDS_ON_OTHERS:
        return []
    return sorted(named.groups)


def _describe_channel(directory: Directory, channel: str) -> Channel:
    """Looks up whether the channel is shared. A direct conversation with the bot (D…) never is."""
    if _is_direct(channel):
        return Channel(channel, False)
    return Channel(channel, directory.is_shared(channel))


class VisibleDatasets(frozenset[str]):
    """The names of the datasets that a person may know about. Slack said nothing of `unchecked` channels, so their
    datasets are left out."""

    unchecked: int

    def __new__(cls, names: Iterable[str], unchecked: int = 0) -> VisibleDatasets:
        visible = super().__new__(cls, names)
        visible.unchecked = unchecked
        return visible


def visible_datasets(context: AppContext, person: str, here: str | None) -> VisibleDatasets:
    """Returns the datasets that a person may know about. `here` is the channel in which they ask, None if in no
    channel."""
    owners = context.store.datasets.owners()
    home_by_owner = dataset_homes(context, set(owners.values()), person, here)
    names = [name for name, owner in owners.items() if rules.may_use(home_by_owner[owner])]
    unchecked = count_unknown(home_by_owner.values())
    return VisibleDatasets(names, unchecked)


def count_unknown(homes: Iterable[DatasetChannel]) -> int:
    """Returns the number of channels about which Slack could have said that the person may know their datasets."""
    unknown = [home for home in homes if home.is_unknown]
    return sum(not _is_direct(home.channel) for home in unknown)


def may_use_dataset(context: AppContext, dataset: str, person: str, here: str | None) -> bool:
    """True if there is a dataset of this name and the person may know about it."""
    owner = context.store.datasets.owners().get(dataset)
    if owner is None:
        return False
    homes = dataset_homes(context, {owner}, person, here)
    return rules.may_use(homes[owner])


def may_know_result(context: AppContext, subject: Subject, person: str, here: str | None) -> bool:
    """True if there is such a run or measurement, and the person may know about its dataset."""
    row: Run | Measurement | None
    if subject.is_measurement:
        row = context.store.measurements.get(subject.number)
    else:
        row = context.store.runs.get(subject.number)
    if row is None:
        return False
    dataset = context.store.datasets.get(row.dataset_id)
    return may_use_dataset(context, dataset.name, person, here)


def may_act_on(context: AppContext, dataset: str, person: str, here: str | None) -> bool | None:
    """Like `may_use_dataset`, but asks Slack, for somebody who acts on the dataset. None if Slack doesn't say."""
    owner = context.store.datasets.owners().get(dataset)
    if owner is None:
        return False
    home = dataset_home(context, owner, person, here)
    if home.is_unknown:
        return None
    return rules.may_use(home)


def button_refusal(context: AppContext, dataset: str, person: str, hidden: Refusal) -> Refusal | None:
    """Asks Slack whether somebody who pressed a button may know about its dataset, since a button carries only a name
    or a number and may be pressed elsewhere. Returns `hidden` if they may not."""
    may_act = may_act_on(context, dataset, person, None)
    if may_act is None:
        return Refusal(
            "Slack did not say just now whether you are in the dataset's channel. Try again in a minute."
        )
    if not may_act:
        return hidden
    return None


def dataset_button_refusal(
    context: AppContext, action: Action, dataset: Dataset, person: str, request: Request = NO_REQUEST
) -> Refusal | None:
    """Returns why this person can't do `action` by a button that names a version of a dataset, None if they can."""
    refused = refusal(context, person, action, dataset.channel, request)
    if refused:
        return refused
    gone = Refusal("There is no such dataset any more.")
    return button_refusal(context, dataset.name, person, gone)


def filter_known(context: AppContext, rows: Iterable[Row], names: Collection[str]) -> Iterator[Row]:
    """Yields the runs or measurements whose dataset is in `names`."""
    for row in rows:
        dataset = context.store.datasets.get(row.dataset_id)
        if dataset.name in names:
            yield row


def dataset_refusal(
    context: AppContext, dataset: str, person: str, here: str, *, is_posted: bool = False
) -> Refusal | None:
    """Returns why a person can't use a dataset in the channel `here`, None if they can. The text is the same whether
    the dataset is hidden from them or doesn't exist. `is_posted` says that the outcome is posted in that channel."""
    owners = context.store.datasets.owners()
    owner = owners.get(dataset)
    if owner == here:
        return None
    home_by_owner = dict(dataset_homes(context, set(owners.values()), person, here))
    if owner is not None:  # somebody acts on this one, so Slack is asked
        home_by_owner[owner] = dataset_home(context, owner, person, here)
    if owner is None or not rules.may_use(home_by_owner[owner]):
        if count_unknown(home_by_owner.values()):
            return Refusal(unchecked_dataset(dataset))
        visible = [name for name, other in owners.items() if rules.may_use(home_by_owner[other])]
        return Refusal(no_such_dataset(dataset, visible))
    if is_posted and not rules.may_post(home_by_owner[owner], here):
        return Refusal(
            f"{code(dataset)} belongs to <#{owner}>, which is private. Ask there, so that the results stay among its "
            "members."
        )
    return None


def may_act_in(context: AppContext, channel: str, person: str) -> bool:
    """True if a channel is public or the person is in it now, by Slack. For channels that are named by a form or by the
    number on a card: only somebody who acts in a channel is a member without being looked up."""
    if _is_direct(channel):
        return True
    home = dataset_home(context, channel, person, None)
    return rules.may_use(home)


def dataset_home(context: AppContext, owner: str, person: str, here: str | None) -> DatasetChannel:
    """Asks Slack about one channel, for somebody who acts on its dataset."""
    if owner == here or _is_direct(owner):
        return _home_without_look_up(owner, here)
    return _look_up_home(context.directory, owner, person)


def _home_without_look_up(owner: str, here: str | None) -> DatasetChannel:
    """Only somebody who is in a channel can act in it. Of another channel, nothing is known."""
    is_member = True if owner == here else None
    return DatasetChannel(owner, None, is_member)


def dataset_homes(
    context: AppContext, owners: Collection[str], person: str, here: str | None
) -> Mapping[str, DatasetChannel]:
    """Returns what is known of the channels, for somebody who reads about their datasets. What isn't known is looked up
    in parallel. Without an answer in time, a channel's facts count as unknown."""
    homes = {owner: _home_without_look_up(owner, here) for owner in owners}
    # Not a `with`: that would wait for the look-ups which take too long.
    pool = ThreadPoolExecutor(PARALLEL_MEMBERSHIP_LOOKUPS)
    future_by_owner = {}
    for owner in owners:
        if owner != here and not _is_direct(owner):
            future_by_owner[owner] = pool.submit(_look_up_home, context.recent, owner, person)
    done, _ = wait(future_by_owner.values(), timeout=LOOK_UP_S)
    pool.shutdown(wait=False, cancel_futures=True)
    for owner, future in future_by_owner.items():
        if future in done:
            homes[owner] = future.result()
    return homes


def may_show_rows(context: AppContext, dataset: Dataset, channel: str) -> bool:
    """True if the dataset's rows, which may quote customers, may be posted in `channel`."""
    is_private: bool | None = True
    is_shared: bool | None = False
    if not _is_direct(channel):
        is_private = context.directory.is_private(channel)
        is_shared = context.directory.is_shared(channel)
    return rules.may_show_rows(
        dataset.owner,
        dataset.source_channels,
        channel,
        is_private=is_private,
        is_shared=is_shared,
    )


def row_delivery(context: AppContext, dataset: Dataset, person: str) -> RowDelivery | NoDelivery:
    """Returns where rows of a dataset may be shown when this person asks for them."""
    home = dataset_home(context, dataset.owner, person, here=None)
    in_thread = may_show_rows(context, dataset, dataset.channel)
    return rules.choose_row_delivery(home, person, dataset.uploaded_by, in_thread=in_thread)


def _look_up_home(directory: Directory, owner: str, person: str) -> DatasetChannel:
    is_private = directory.is_private(owner)
    is_member = None
    if is_private is not False:  # of a public channel it doesn't matter, and Slack is asked once less
        is_member = directory.is_member(person, owner)
    return DatasetChannel(owner, is_private, is_member)


def _is_direct(channel: str) -> bool:
    """True for a direct conversation with the bot, which has no other members and about which Slack can't be asked."""
    return channel.startswith("D")
