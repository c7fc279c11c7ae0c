"""Who is asked to approve, when a request expires, and which decisions are enough. Whether a person may
decide is answered in permissions.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bot.rules.policy import Policy
from storage.jobs import InterventionChoice, InterventionDecision

# How long a measurement waits for a yes to its cost.
VALID_FOR_S = 24 * 3600.0
UNFREEZERS = 2
MIN_WORDS = 3


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


def check_reason(reason: str) -> Denied | None:
    """None where `reason` says why a plan is approved whose verdict is not go."""
    if has_words(reason):
        return None
    return Denied(
        f"Its verdict is not go: say in at least {MIN_WORDS} words why it should be trained all the same, like: "
        "quality counts here, not cost."
    )


def has_words(reason: str) -> bool:
    """A few words that have letters in them."""
    words = [word for word in reason.split() if any(letter.isalpha() for letter in word)]
    return len(words) >= MIN_WORDS


def is_expired(request: Request, now: float, policy: Policy) -> bool:
    return now - request.asked_at > policy.expires_s


def reminder_due(request: Request, now: float, policy: Policy) -> float | None:
    """How long before the end (seconds) the reminder stands that is due now: of several that have passed, the last."""
    left = request.asked_at + policy.expires_s - now
    return min((value for value in policy.remind_s if 0 <= left <= value), default=None)


# What people may decide on a run whose money is in doubt, and by how many. Pure.


# What creates again may pay twice, what frees the money may let it be spent twice: four eyes. A job that is named is
# compared with the plan where it runs, so one person's word is enough. Who asked for the run has none (permission.py).
WORDS_NEEDED: dict[InterventionChoice, int] = {"retry": 2, "adopt": 1, "give_up": 2}


def decisive_words(
    words: Sequence[InterventionDecision], approvers: Collection[str]
) -> list[InterventionDecision]:
    """Those words of one choice that are enough to carry it out, none where none is. Counted are people who may still
    decide now; of several choices the one that was spoken for last."""
    for choice in dict.fromkeys(word.choice for word in reversed(words)):
        counted = [word for word in words if word.choice == choice and word.person in approvers]
        if len({word.person for word in counted}) >= WORDS_NEEDED[choice]:
            return counted
    return []
