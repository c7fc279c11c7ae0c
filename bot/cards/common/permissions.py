"""A policy decision in words: why a person may not do something, with the cure, or why they may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from bot.cards.common.words import listed, pluralize
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
    governing_rule,
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
    "resolve": "decide on a run whose job is uncertain",
    "cancel": "cancel it",
    "pause": "pause or resume it",
    "freeze": "freeze spending",
    "unfreeze": "lift a freeze",
    "waive": "let personal data leave",
    "promote": "promote a model",
    "rollback": "roll a model back",
    "try": "try a model",
    "delete": "delete data",
}
NOT_IN_CHANNEL = (
    "By what Slack says, you are not in the channel that this form was opened in, so nothing was done. If you are, "
    "`/invite @Finetune` there and try again."
)
NO_MEMBER = "Only full members of this workspace may upload data and decide on runs, but this account is"
PLAIN: Mapping[PlainBecause, str] = {
    "a full member": "a full member",
    "nobody known": "Slack didn't say who you are, so nothing was done. Try again in a minute. If that doesn't help, "
    "ask the bot's operator to run `finetune doctor`.",
    "a bot": f"{NO_MEMBER} a bot.",
    "deactivated": f"{NO_MEMBER} deactivated.",
    "a guest": f"{NO_MEMBER} a guest.",
    "of another workspace": f"{NO_MEMBER} from another workspace.",
    "own channel": "not shared with another organisation",
    "channel unknown": "Slack didn't say whether this channel is shared with another organisation, so nothing was "
    "done. If I am not in it, `/invite @Finetune`; otherwise try again in a minute.",
    "shared channel": "This channel is shared with another organisation (Slack Connect), so nothing is shown or "
    "decided here. Use a channel of your own workspace.",
    "another's request": "somebody else requested it and uploaded the data",
    "asked for it": "requested it",
    "uploaded it": "uploaded it",
    "any full member": "any full member",
    "named": "named, or in a named group",
}
NAME_OTHERS = "The bot's operator can name others in finetune.toml, [people]."


def verdict_text(because: Because) -> str:
    """A refusal is a sentence for the person; a permission is a phrase for `finetune policy explain`."""
    match because:
        case str():
            return PLAIN[because]
        case OwnRequest(action="waive", was="uploaded"):
            return "You uploaded this data, so another approver has to record why it may leave."
        case OwnRequest():
            # The cards say who asked and who uploaded, so the sentence says which of the two it is.
            did = "uploaded this data"
            if because.was == "asked for":
                did = "requested this"
            to_do = "approve it"
            if because.action == "resolve":
                to_do = "decide on it"
            return f"You {did}, so somebody else has to {to_do}."
        case NotNamed():
            return who_may(because)
        case NeedsApprovers():
            people = f"{because.count} approvers"
            if because.count == 1:
                people = "one approver"
            return f"needs {people} for up to {usd_micros(because.maximum_micros)}"
        case TooDear():
            return (
                f"It may cost up to {usd_micros(because.maximum_micros)}, but no run may cost more than "
                f"{usd_micros(because.limit_micros)} ([policy] tiers in finetune.toml). Use fewer rows or epochs, or a "
                "cheaper model."
            )
        case PromotionLimits():
            return limits_text(because)
    assert_never(because)


def limits_text(limits: PromotionLimits) -> str:
    """What a model needs to be deployed without a reason."""
    cheaper = ""
    if limits.margin:
        cheaper = f", or one that costs less and is worse by less than {100 * limits.margin:g} points"
    floor = ""
    if limits.floor is not None:
        rows = f"at least {limits.floor_rows} held-out rows"
        floor = f"; no label with {rows} may be clearly right less than {100 * limits.floor:g}% of the time"
    return f"needs a model that is clearly better{cheaper}{floor}"


def who_may(no: NotNamed) -> str:
    """For a person who may not: who may, or how the operator can change that."""
    if no.unknown:
        # The person may be in that group, so this is not a refusal for good.
        return (
            f"Slack didn't say who is in the group {', '.join(no.unknown)}, so nothing was done. Try again in a "
            "minute. If that doesn't help, the app lacks usergroups:read or the group no longer exists."
        )
    rule = governing_rule(no.action)
    requester = "the person who requested it"
    if no.action == "delete":
        requester = "the person who uploaded all of it"
    if no.others:
        kinds = "a named person"
        if rule in ("approve", "freeze", "waive", "cancel", "promote", "delete"):
            kinds = "an approver"
        if no.rule.requester:
            kinds += f" or {requester}"
        return f"Only {kinds} may do that: {_mentions(no.others)}."
    doing = DOING[no.action]
    if no.is_one_out:
        return f"Nobody else may {doing}. The bot's operator can add approvers in finetune.toml, [people]."
    if no.rule.requester:
        return f"Only {requester} may {doing}."
    if no.rule.where == BUILT_IN and rule in ("approve", "freeze", "waive", "promote"):
        return f"Nobody may {doing} yet. The bot's operator can add approvers in finetune.toml, [people]."
    return f"Nobody may {doing}. The bot's operator can add people in finetune.toml, [policy.who] {rule}."


def too_few_approvers(needed: int, able: Sequence[str], gone: Sequence[str]) -> str:
    """Why a plan that takes `needed` approvers could never start. `able` can approve it; `gone` are named, but are no
    longer full members."""
    there = f"there are only {_mentions(able)}"
    if not able:
        there = "there is nobody"
    elif len(able) == 1:
        there = f"there is only {_mentions(able)}"
    approvers = pluralize(needed, "approver")
    text = f"This takes {approvers} besides you and the person who uploaded the data, and {there}."
    if gone:
        text = f"{text} {gone_text(gone)}"
    return f"{text} {NAME_OTHERS}"


def gone_text(gone: Sequence[str]) -> str:
    """Who is named as an approver and can't approve any more."""
    why = "is deactivated or no longer a full member of this workspace"
    if len(gone) > 1:
        why = "are deactivated or no longer full members of this workspace"
    return f"{_mentions(gone)} {why}."


def _mentions(people: Sequence[str]) -> str:
    return listed([f"<@{person}>" for person in people], SHOWN_NAMES)


def too_few_words(why: str, example: str) -> str:
    """`why` is what the reason has to explain."""
    return f"Explain in at least {MIN_WORDS} words why {why}, for example: {example}."
