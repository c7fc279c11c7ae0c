"""May this person do this, here and now? Looks up who and where in Slack, then asks the one rule (permission.py).

What is looked up is never kept: it is fetched at every click, and again before a job is created.
"""

from __future__ import annotations

from collections.abc import Mapping

from bot.decisions import permission
from bot.decisions.approval import NO_REQUEST, Person, Request
from bot.decisions.permission import Asking, Channel, Rules
from bot.decisions.policy import Action
from bot.results import Refusal
from bot.workflows.desk import Desk

# Who else is named counts for these, not only who asks.
COUNTED: tuple[Action, ...] = ("approve", "unfreeze")


def may(
    desk: Desk, person: str, action: Action, channel: str | None = None, request: Request = NO_REQUEST
) -> Refusal | None:
    """None is yes."""
    return refused(asking(desk, person, action, channel), action, request)


def refused(asked: Asking, action: Action, request: Request = NO_REQUEST) -> Refusal | None:
    """The same of one who was looked up before: inside a transaction nothing waits for Slack."""
    denied = permission.may(asked, action, request)
    return Refusal(denied.reason) if denied else None


def asking(desk: Desk, person: str, action: Action, channel: str | None = None) -> Asking:
    """The first look-up that fails is the last: the answer is no, and has to come within Slack's three seconds."""
    found = desk.directory.person(person)
    nothing = Rules(desk.settings.policy)
    if found is None or not found.is_member:
        return Asking(found, nothing)
    where = _channel(desk, channel) if channel else None
    if where is not None and where.is_shared is not False:
        return Asking(found, nothing, where)
    return Asking(found, rules(desk, action, found), where)


def rules(desk: Desk, action: Action, person: Person | None = None) -> Rules:
    """With the members of its groups as they are now, unless it is clear without them that `person` may."""
    policy = desk.settings.policy
    named = policy.named(action)
    is_clear = person is not None and (named.anyone or person.id in named.users)
    if is_clear and action not in COUNTED:
        return Rules(policy)
    return Rules(policy, _members(desk, named.groups))


def _members(desk: Desk, groups: frozenset[str]) -> Mapping[str, frozenset[str] | None]:
    """After one that Slack doesn't tell the others are not asked for."""
    found: dict[str, frozenset[str] | None] = {}
    for group in sorted(groups):
        found[group] = desk.directory.members(group)
        if found[group] is None:
            break
    return found


def _channel(desk: Desk, channel: str) -> Channel:
    """A conversation with the bot alone (D…) has no others in it."""
    return Channel(channel, False if channel.startswith("D") else desk.directory.is_shared(channel))
