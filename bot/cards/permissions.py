"""What a rule of the policy says of an act: why somebody may not, with the cure, or why they may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from bot.cards.words import listed
from bot.rules.permissions import (
    BUILT_IN,
    MIN_WORDS,
    Action,
    Because,
    NeedsApprovers,
    NotNamed,
    OwnRequest,
    PlainBecause,
    PromotionLimits,
    TooDear,
    rule_of,
)
from trainers.money import usd_micros

SHOWN_NAMES = 10
DOING: Mapping[Action, str] = {
    "read": "see this",
    "upload": "upload data",
    "estimate": "ask for estimates",
    "measure": "measure models",
    "bar": "set a quality bar",
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
NO_MEMBER = "Only full members of this workspace may upload data and decide on runs, and this account is"
PLAIN: Mapping[PlainBecause, str] = {
    "a full member": "a full member",
    "nobody known": "Slack didn't say who you are, so nothing was done. Try again in a minute; if that doesn't help, "
    "the bot's operator runs `finetune doctor`.",
    "a bot": f"{NO_MEMBER} a bot.",
    "deactivated": f"{NO_MEMBER} deactivated.",
    "a guest": f"{NO_MEMBER} a guest.",
    "of another workspace": f"{NO_MEMBER} of another workspace.",
    "own channel": "not shared with another organisation",
    "channel unknown": "Invite me first: `/invite @Finetune`. I can't see whether this channel is shared with another "
    "organisation, so nothing was done.",
    "shared channel": "This channel is shared with another organisation (Slack Connect), where nothing is shown or "
    "decided. Ask in a channel of your own workspace.",
    "another's request": "somebody else asked for it and brought the data",
    "asked for it": "asked for it",
    "uploaded it": "uploaded it",
    "any full member": "any full member",
    "named": "named, or in a group that is",
}


def verdict_text(because: Because) -> str:
    """A no is a sentence that the person reads; a yes is for people who look through the rules."""
    match because:
        case str():
            return PLAIN[because]
        case OwnRequest(action="waive", was="uploaded"):
            return "You uploaded this data, so an approver other than you has to say why it may leave."
        case OwnRequest():
            subject = "asked for this run" if because.was == "asked for" else "uploaded this data"
            to_do = "decide what becomes of it" if because.action == "resolve" else "approve it"
            return f"You {subject}, so somebody else has to {to_do}."
        case NotNamed():
            return who_may(because)
        case NeedsApprovers():
            people = "one approver" if because.count == 1 else f"{because.count} approvers"
            return f"takes {people} for up to {usd_micros(because.maximum_micros)}"
        case TooDear():
            return (
                f"It may cost up to {usd_micros(because.maximum_micros)}, and no run may cost more than "
                f"{usd_micros(because.limit_micros)} ([policy] tiers in finetune.toml). Train on fewer rows or epochs, "
                "or a cheaper model."
            )
        case PromotionLimits():
            return limits_text(because)
    assert_never(because)


def limits_text(limits: PromotionLimits) -> str:
    """What a model has to show before it may be deployed without a reason."""
    cheaper = ""
    if limits.margin:
        cheaper = f", or one that costs less and is worse by less than {100 * limits.margin:g} points"
    floor = ""
    if limits.floor is not None:
        rows = f"{limits.floor_rows} held-out rows or more"
        floor = (
            f"; no label with {rows} may be shown to be right less than {100 * limits.floor:g}% of the time"
        )
    return f"takes a model that is shown to be better{cheaper}{floor}"


def who_may(no: NotNamed) -> str:
    """For a person who may not: who may, or how the operator changes that."""
    if no.unknown:
        return (
            f"Slack didn't say who is in the group {', '.join(no.unknown)}, so nothing was done. Try again in a "
            "minute; if that doesn't help, the app lacks usergroups:read, or the group is gone."
        )
    rule = rule_of(no.action)
    requester = "who uploaded all of it" if no.action == "delete" else "who asked for it"
    if no.others:
        names = listed([f"<@{name}>" for name in no.others], SHOWN_NAMES)
        is_approvers = rule in ("approve", "freeze", "waive", "cancel", "promote", "delete")
        kind = "an approver" if is_approvers else "who is named"
        return f"Only {kind}{f' or {requester}' if no.rule.requester else ''} may do that: {names}."
    doing = DOING[no.action]
    if no.is_one_out:
        return f"Nobody else may {doing}: the bot's operator names more approvers in finetune.toml, [people]."
    if no.rule.requester:
        return f"Only {requester} may {doing}."
    if no.rule.where == BUILT_IN and rule in ("approve", "freeze", "waive", "promote"):
        return f"Nobody may {doing} yet: the bot's operator names approvers in finetune.toml, [people]."
    return f"Nobody may {doing}: the bot's operator names people in finetune.toml, [policy.who] {rule}."


def too_few_words(why: str, example: str) -> str:
    """`why`: what a reason has to say."""
    return f"Say in at least {MIN_WORDS} words why {why}, like: {example}."
