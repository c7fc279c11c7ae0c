"""Who decides about a plan, and until when: the values, and the counting of approvals. Pure.

Whether a person may is `permission.py`'s answer; who they are was looked up before.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.decisions.policy import Policy

# How long a measurement waits for a yes to its cost.
VALID_FOR_S = 24 * 3600.0
UNFREEZERS = 2
LEAST_WORDS = 3


@dataclass(frozen=True)
class Person:
    """As Slack describes them now. A stranger is of another organisation, in a shared channel."""

    id: str
    is_bot: bool = False
    is_deleted: bool = False
    is_guest: bool = False
    is_stranger: bool = False

    @property
    def is_member(self) -> bool:
        return not (self.is_bot or self.is_deleted or self.is_guest or self.is_stranger)


@dataclass(frozen=True)
class Request:
    """What is asked for: `requester` wants the run, `uploader` brought the data, it may cost `maximum_micros`."""

    requester: str
    uploader: str
    asked_at: float
    maximum_micros: int = 0


# For an act that concerns no single run.
NO_REQUEST = Request("", "", 0.0)


@dataclass(frozen=True)
class Denied:
    reason: str


def is_no_reason(reason: str) -> Denied | None:
    """None where `reason` says why a plan is approved whose verdict is not go."""
    if says_something(reason):
        return None
    return Denied(
        f"Its verdict is not go: say in at least {LEAST_WORDS} words why it should be trained all the same, like: "
        "quality counts here, not cost."
    )


def says_something(reason: str) -> bool:
    """A few words that have letters in them."""
    words = [word for word in reason.split() if any(letter.isalpha() for letter in word)]
    return len(words) >= LEAST_WORDS


def is_expired(request: Request, now: float, policy: Policy) -> bool:
    return now - request.asked_at > policy.expires_s


def reminder_due(request: Request, now: float, policy: Policy) -> float | None:
    """How long before the end (seconds) the reminder stands that is due now: of several that have passed, the last."""
    left = request.asked_at + policy.expires_s - now
    return min((one for one in policy.remind_s if 0 <= left <= one), default=None)
