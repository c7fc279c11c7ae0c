"""May this person do this, here and now? Looks up who and where in Slack, then asks the one rule (permission.py).

What is looked up is never kept: it is fetched at every click, and again before a job is created.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from bot.decisions import permission
from bot.decisions.approval import NO_REQUEST, Request
from bot.decisions.permission import Asking, Channel, Rules
from bot.decisions.policy import Action, Policy
from bot.results import Refusal
from bot.workflows.desk import Desk

AT_ONCE = 8
# Who else is named counts for these, not only who asks.
COUNTED: tuple[Action, ...] = ("approve", "resolve", "unfreeze")


def may(
    desk: Desk, person: str, action: Action, channel: str | None = None, request: Request = NO_REQUEST
) -> Refusal | None:
    """None is yes."""
    return refused(asking(desk, person, action, channel), action, request)


def refused(asked: Asking, action: Action, request: Request = NO_REQUEST) -> Refusal | None:
    """The same of one who was looked up before: inside a transaction nothing waits for Slack."""
    denied = permission.may(asked, action, request)
    return Refusal(denied.reason) if denied else None


def is_known(asked: Asking) -> bool:
    """Whether Slack told all that was asked of it: a no is for good only then."""
    channel_is_known = asked.channel is None or asked.channel.is_shared is not None
    return asked.person is not None and channel_is_known and None not in asked.rules.members.values()


def asking(desk: Desk, person: str, action: Action, channel: str | None = None) -> Asking:
    """All look-ups at once: one may take a second, and the ack has to come within three."""
    policy = desk.settings.policy
    with ThreadPoolExecutor(AT_ONCE) as pool:
        who = pool.submit(desk.directory.person, person)
        where = pool.submit(_channel, desk, channel) if channel else None
        groups = _wanted(policy, action, person)
        members = dict(zip(groups, pool.map(desk.directory.members, groups), strict=True))
        return Asking(who.result(), Rules(policy, members), where.result() if where else None)


def unreachable(desk: Desk, channel: str, *, by_others: bool = False) -> Refusal | None:
    """Why cards can't be shown in a channel. `by_others`: people besides the one who asks must see them."""
    if by_others and channel.startswith("D"):
        return Refusal(
            "Type this in a channel where approvers are, with me in it (`/invite @Finetune`): here nobody else would "
            "see the plan."
        )
    if desk.settings.slack.fallback_channel or desk.directory.takes_posts(channel) is not False:
        return None
    return Refusal("I'm not in this channel, so I can't post here: `/invite @Finetune`, then type it again.")


def rules(desk: Desk, action: Action) -> Rules:
    """With the members of its groups as they are now."""
    groups = _wanted(desk.settings.policy, action)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        members = dict(zip(groups, pool.map(desk.directory.members, groups), strict=True))
    return Rules(desk.settings.policy, members)


def _wanted(policy: Policy, action: Action, person: str | None = None) -> list[str]:
    """The groups to ask for: none where it is clear without them that `person` may."""
    named = policy.named(action)
    is_clear = person is not None and (named.anyone or person in named.users)
    return [] if is_clear and action not in COUNTED else sorted(named.groups)


def _channel(desk: Desk, channel: str) -> Channel:
    """A conversation with the bot alone (D…) has no others in it."""
    return Channel(channel, False if channel.startswith("D") else desk.directory.is_shared(channel))
