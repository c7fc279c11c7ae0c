"""Who may approve or reject a plan: nobody, unless a rule says so. Pure; who a person is was looked up before."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, assert_never

VALID_FOR_S = 24 * 3600.0

Action = Literal["approve", "reject", "cancel", "pause", "freeze", "unfreeze", "resolve"]
UNFREEZERS = 2


@dataclass(frozen=True)
class Person:
    """As Slack describes them now. A stranger is of another organisation, in a shared channel."""

    id: str
    is_bot: bool = False
    is_deleted: bool = False
    is_guest: bool = False
    is_stranger: bool = False


@dataclass(frozen=True)
class Policy:
    """`approvers` are user ids with those of the groups already in; `unknown_groups` could not be looked up."""

    approvers: frozenset[str]
    quorum: int = 1
    unknown_groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What is asked for: `requester` wants the run, `uploader` brought the data."""

    requester: str
    uploader: str
    asked_at: float


# For an act that concerns no single run.
NO_REQUEST = Request("", "", 0.0)


@dataclass(frozen=True)
class Denied:
    reason: str


def may(person: Person | None, action: Action, request: Request, policy: Policy) -> Denied | None:
    """None is yes. Every no says which rule it is and who could."""
    denied = may_take_part(person)
    if denied or person is None:
        return denied
    if action in ("cancel", "pause") and person.id == request.requester:
        return None
    match action:
        case "reject" | "cancel" | "pause" | "freeze" | "unfreeze" | "resolve":
            own = None
        case "approve":
            own = _four_eyes(person, request)
        case _:
            assert_never(action)
    return own or (None if person.id in policy.approvers else Denied(_who_may(policy)))


def may_take_part(person: Person | None) -> Denied | None:
    """Upload data, ask for a run: any full member. None is yes."""
    if person is None:
        return Denied("Slack didn't tell who you are, so nothing was done. Try again in a minute.")
    if person.is_bot or person.is_deleted or person.is_guest or person.is_stranger:
        return Denied("Only full members of this workspace may upload data and decide on runs.")
    return None


def _four_eyes(person: Person, request: Request) -> Denied | None:
    if person.id == request.requester:
        return Denied("You asked for this run, so somebody else has to approve it.")
    if person.id == request.uploader:
        return Denied("You uploaded this data, so somebody else has to approve it.")
    return None


def is_expired(request: Request, now: float) -> bool:
    return now - request.asked_at > VALID_FOR_S


def has_quorum(approved_by: Collection[str], policy: Policy) -> bool:
    """Counted are those who may still approve now."""
    return len(set(approved_by) & policy.approvers) >= policy.quorum


def may_lift(against: Collection[str], policy: Policy) -> bool:
    """A freeze ends by the word of two different people. Counted are those who may still say it now."""
    return len(set(against) & policy.approvers) >= UNFREEZERS


def _who_may(policy: Policy) -> str:
    if policy.unknown_groups:
        return "Slack didn't tell who is in the approvers' group, so nothing was done. Try again in a minute."
    if not policy.approvers:
        return "Nobody may approve runs yet: whoever runs the bot names approvers in finetune.toml, [people]."
    return (
        "Only an approver may do that: "
        + ", ".join(f"<@{one}>" for one in sorted(policy.approvers)[:10])
        + "."
    )
