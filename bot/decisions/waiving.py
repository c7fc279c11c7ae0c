"""Personal data on its way to a vendor: when it takes somebody's recorded word, and whose word counts. Pure."""

from __future__ import annotations

from collections.abc import Collection

from bot.decisions.approval import Denied, Person, Policy, may_take_part

PERSONAL_DATA = "personal_data"  # the finding's code, as in trainers/dataset/rules/sensitive.py
LEAST_WORDS = 3


def needs_waiver(codes: Collection[str], *, stays_here: bool) -> bool:
    """`codes` of a report's findings. `stays_here`: it goes to our own trainer on this machine and no further."""
    return PERSONAL_DATA in codes and not stays_here


def may_waive(person: Person | None, uploader: str, policy: Policy) -> Denied | None:
    """None is yes: an approver, and not who brought the data. Two people have then seen what leaves."""
    denied = may_take_part(person)
    if denied or person is None:
        return denied
    if person.id == uploader:
        return Denied("You uploaded this data, so an approver other than you has to say why it may leave.")
    if person.id in policy.approvers:
        return None
    return Denied(_who_may(uploader, policy))


def is_no_reason(reason: str) -> Denied | None:
    """None where `reason` says something: a few words that have letters in them."""
    words = [word for word in reason.split() if any(letter.isalpha() for letter in word)]
    if len(words) >= LEAST_WORDS:
        return None
    return Denied(
        f"Say in at least {LEAST_WORDS} words why this data may leave, "
        f"like: the customers agreed, ticket LEGAL-12."
    )


def _who_may(uploader: str, policy: Policy) -> str:
    if policy.unknown_groups:
        return "Slack didn't tell who is in the approvers' group, so nothing was recorded. Try again in a minute."
    others = sorted(policy.approvers - {uploader})
    if not others:
        return (
            "Nobody may say so yet: whoever runs the bot names approvers, other than who uploaded the data, "
            "in finetune.toml, [people]."
        )
    return "Only an approver may say so: " + ", ".join(f"<@{one}>" for one in others[:10]) + "."
