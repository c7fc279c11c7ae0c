"""Slack's answers about people, groups and channels, remembered for a few minutes.

For what people read: a list of all datasets depends on every channel that owns one, and Slack answers fifty such
questions a minute. Whatever gives somebody something (an approval, a start, rows) asks Slack itself. Slack's events
make the bot forget an answer as soon as it has changed (events.py).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from bot.rules.permissions import Person
from bot.slack.users import NO_CHANNEL, ChannelFacts, SlackDirectory

FRESH_S = 300.0
# While Slack doesn't answer, an older answer is better than a list without the dataset.
USABLE_S = 900.0
MOST_ANSWERS = 20_000  # then all are forgotten; it is more than a workspace has in USABLE_S

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Remembered:
    answer: Any
    at: float


class RecentAnswers:
    """A Directory. `steady` is a monotonic clock in seconds."""

    def __init__(self, slack: SlackDirectory, steady: Callable[[], float]) -> None:
        self._slack = slack
        self._steady = steady
        self._remembered: dict[Hashable, _Remembered] = {}
        # One lock for each question: twenty people who ask the same at once cost one call.
        self._locks: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)

    def person(self, user_id: str) -> Person | None:
        return self._recall(("person", user_id), lambda: self._slack.person(user_id))

    def name(self, user_id: str) -> str:
        name = self._recall(("name", user_id), lambda: self._slack.name(user_id))
        return name or user_id

    def time_zone(self, user_id: str) -> str | None:
        return self._recall(("time zone", user_id), lambda: self._slack.time_zone(user_id))

    def members(self, group_id: str) -> frozenset[str] | None:
        return self._recall(("group", group_id), lambda: self._slack.members(group_id))

    def is_private(self, channel: str) -> bool | None:
        facts = self._facts(channel)
        if facts is None:
            return None
        return facts.is_private

    def takes_posts(self, channel: str) -> bool | None:
        facts = self._facts(channel)
        if facts is None:
            return None
        return facts.takes_posts

    def is_shared(self, channel: str) -> bool | None:
        facts = self._facts(channel)
        if facts is None:
            return None
        return facts.is_shared

    def is_member(self, person: str, channel: str) -> bool | None:
        if self._facts(channel) is NO_CHANNEL:  # nobody can show that they are in it
            return False
        members = self._recall(("members", channel), lambda: self._slack.channel_members(channel))
        if members is None:
            return None
        return person in members

    def permalink(self, channel: str, ts: str) -> str | None:
        return self._slack.permalink(channel, ts)

    def forget_channel(self, channel: str) -> None:
        """Forgets what a channel is and who is in it."""
        self._forget(("channel", channel))
        self._forget(("members", channel))

    def forget_group(self, group_id: str) -> None:
        self._forget(("group", group_id))

    def _facts(self, channel: str) -> ChannelFacts | None:
        return self._recall(("channel", channel), lambda: self._slack.channel(channel))

    def _forget(self, question: Hashable) -> None:
        # Waits for a look-up that is under way: its answer may be from before the change.
        with self._locks[question]:
            self._remembered.pop(question, None)

    def _recall(self, question: Hashable, ask: Callable[[], Answer | None]) -> Answer | None:
        """Returns the remembered answer, or Slack's. Returns None if Slack doesn't answer now and hasn't lately."""
        with self._locks[question]:
            before = self._remembered.get(question)
            if before and self._age_s(before) < FRESH_S:
                remembered: Answer = before.answer
                return remembered
            answer = ask()
            if answer is None:
                if before and self._age_s(before) < USABLE_S:
                    older: Answer = before.answer
                    return older
                return None
            if len(self._remembered) >= MOST_ANSWERS:
                self._remembered.clear()
            self._remembered[question] = _Remembered(answer, self._steady())
            return answer

    def _age_s(self, remembered: _Remembered) -> float:
        return self._steady() - remembered.at
