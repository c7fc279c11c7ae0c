"""Looks up people, groups and channels in Slack, without a cache, but each once for a click. A look-up that fails, or
that Slack's limits leave no room for, returns None, which callers must treat as no."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web import SlackResponse

from bot.rules.permissions import Person
from bot.slack.limits import LookUpLimits

# What the SDK raises if Slack can't be reached or its answer is cut off.
NO_ANSWER = (SlackClientError, URLError, OSError, HTTPException)
# Slack's reference says of the first two that part of the operation may have succeeded.
UNCLEAR = frozenset({"internal_error", "fatal_error", "service_unavailable"})
PASSING = UNCLEAR | {"ratelimited", "rate_limited"}
LOOK_UP_TIMEOUT_S = 1
MEMBERS_A_PAGE = 999
MOST_PAGES = 20

# What Slack has answered while a delivery is handled, by the question: several rules ask the same.
_answers_in_delivery: ContextVar[dict[Hashable, Any] | None] = ContextVar(
    "_answers_in_delivery", default=None
)


def is_unavailable(error: SlackApiError) -> bool:
    """True if Slack is having trouble, rather than refusing the app."""
    return error.response.status_code >= 500 or error.response.get("error") in PASSING


def retry_after_s(error: SlackApiError) -> float | None:
    """Returns the seconds that Slack wants no further call for, None if it names none."""
    headers = {name.lower(): value for name, value in error.response.headers.items()}
    value = str(headers.get("retry-after", ""))
    return float(value) if value.isdecimal() else None


def display_names(bot_token: str, api_url: str) -> Callable[[str], str]:
    """Returns a function that gives a person's name for their id, or the id if Slack doesn't answer."""
    client = WebClient(bot_token, base_url=api_url, timeout=LOOK_UP_TIMEOUT_S, retry_handlers=[])

    @cache
    def name_of(user_id: str) -> str:
        return _name(client, user_id)

    return name_of


@dataclass(frozen=True)
class ChannelFacts:
    """What Slack says of a channel. `is_private`: only its members can read it. `is_shared`: people from another
    organisation are in it or invited to it, None if Slack doesn't say. `takes_posts`: the bot is in it."""

    is_private: bool
    is_shared: bool | None
    takes_posts: bool


NO_CHANNEL = ChannelFacts(is_private=True, is_shared=None, takes_posts=False)
"""For a private channel, or other people's direct messages, without the bot: Slack says that there is none."""


def read_channel(info: Mapping[str, Any]) -> ChannelFacts:
    """Reads the channel in an answer to conversations.info."""
    return ChannelFacts(
        is_private=_has_any(info, "is_private", "is_im", "is_mpim"),
        is_shared=_has_any(info, "is_ext_shared", "is_pending_ext_shared", "pending_shared"),
        takes_posts=_has_any(info, "is_im", "is_member"),
    )


def begin_delivery() -> None:
    """From here on, Slack is asked each question once, in this context and in those copied from it. Call it before a
    command, click, form or event is handled."""
    _answers_in_delivery.set({})


def end_delivery() -> None:
    _answers_in_delivery.set(None)


class SlackDirectory:
    """Looks things up with one client, whose timeout must fit into the three seconds in which a form has to open.
    `reserve` is the share of the calls a minute that is left to others."""

    def __init__(
        self,
        slack: WebClient,
        signed_in: SlackResponse | None,
        limits: LookUpLimits | None = None,
        *,
        reserve: float = 0.0,
    ) -> None:
        """`signed_in` is Slack's answer to auth.test, None if Slack couldn't be reached. Without `limits` it has its
        own."""
        self._slack = slack
        self._limits = limits or LookUpLimits(time.monotonic)
        self._reserve = reserve
        self._team_id: str | None = None
        self._address = ""
        self._remember_workspace(signed_in)

    def person(self, user_id: str) -> Person | None:
        """Returns None if Slack doesn't know the person or doesn't answer."""
        if self._team_id is None:
            self._remember_workspace(self._ask("auth.test", self._slack.auth_test))
        # Without our team's id, nobody could be told from a stranger of a shared channel.
        if self._team_id is None:
            return None
        answer = self._ask("users.info", self._slack.users_info, user=user_id)
        if answer is None:
            return None
        user = answer["user"]
        is_elsewhere = user.get("team_id", self._team_id) != self._team_id
        return Person(
            id=user_id,
            is_bot=_has_any(user, "is_bot", "is_app_user"),
            is_deleted=_has_any(user, "deleted"),
            is_guest=_has_any(user, "is_restricted", "is_ultra_restricted"),
            is_stranger=_has_any(user, "is_stranger") or is_elsewhere,
        )

    def name(self, user_id: str) -> str:
        """Returns the person's name, or the id if Slack doesn't answer."""
        return _name_in(self._ask("users.info", self._slack.users_info, user=user_id), user_id)

    def time_zone(self, user_id: str) -> str | None:
        """Returns the person's time zone, like 'Europe/Berlin'; None if Slack doesn't answer or names none that is
        known here."""
        answer = self._ask("users.info", self._slack.users_info, user=user_id)
        if answer is None:
            return None
        name = str(answer["user"].get("tz") or "")
        try:
            return ZoneInfo(name).key
        except (
            ValueError,
            OSError,
            ZoneInfoNotFoundError,
        ):  # none, or a newer one than those of this machine
            return None

    def members(self, group_id: str) -> frozenset[str] | None:
        """Returns the ids of a user group's members, None if unknown."""
        answer = self._ask("usergroups.users.list", self._slack.usergroups_users_list, usergroup=group_id)
        if answer is None:
            return None
        return frozenset(str(user) for user in answer.get("users") or ())

    def channel(self, channel: str) -> ChannelFacts | None:
        """Returns what a channel is, None if unknown."""
        answer = self._ask("conversations.info", self._slack.conversations_info, channel=channel)
        if answer is None:
            return None
        if answer.get("error") == "channel_not_found":
            return NO_CHANNEL
        return read_channel(answer["channel"])

    def is_private(self, channel: str) -> bool | None:
        """Returns True if only its members can read a channel, None if unknown, also if the bot can't see it."""
        facts = self.channel(channel)
        if facts is None or facts is NO_CHANNEL:
            return None
        return facts.is_private

    def is_shared(self, channel: str) -> bool | None:
        """Returns True if people from another organisation are in a channel or invited to it, None if unknown."""
        facts = self.channel(channel)
        return facts.is_shared if facts else None

    def takes_posts(self, channel: str) -> bool | None:
        """Returns True if the bot is in a channel, None if unknown."""
        facts = self.channel(channel)
        return facts.takes_posts if facts else None

    def is_member(self, person: str, channel: str) -> bool | None:
        """Returns True if a person is in a channel, None if unknown. It asks for no more than it needs."""
        for page in self._pages_of_members(channel):
            if page is None:
                return None
            if person in page:
                return True
        return False

    def channel_members(self, channel: str) -> frozenset[str] | None:
        """Returns the ids of everybody in a channel, None if unknown."""
        members: set[str] = set()
        for page in self._pages_of_members(channel):
            if page is None:
                return None
            members |= page
        return frozenset(members)

    def permalink(self, channel: str, ts: str) -> str | None:
        """Returns a message's address for a browser, None while the workspace's address is unknown. Builds the same
        address as chat.getPermalink without asking Slack, so that it can be used in a transaction."""
        if not self._address:
            return None
        return f"{self._address}archives/{channel}/p{ts.replace('.', '')}"

    def _pages_of_members(self, channel: str) -> Iterator[frozenset[str] | None]:
        """Yields the members page by page, None at the end if they are not all known."""
        cursor = ""
        for _ in range(MOST_PAGES):
            answer = self._ask(
                "conversations.members",
                self._slack.conversations_members,
                channel=channel,
                limit=MEMBERS_A_PAGE,
                cursor=cursor,
            )
            if answer is None or not answer.get("ok", True):
                yield None
                return
            yield frozenset(answer.get("members") or ())
            metadata = answer.get("response_metadata") or {}
            cursor = str(metadata.get("next_cursor") or "")
            if not cursor:
                return
        yield None

    def _ask(self, method: str, call: Callable[..., Any], **arguments: Any) -> Any:
        """Returns Slack's answer, which may be that there is no such channel; None if there is no other answer."""
        answers = _answers_in_delivery.get()
        if answers is None:
            return self._ask_slack(method, call, arguments)
        question = (method, *sorted(arguments.items()))
        if question not in answers:
            answer = self._ask_slack(method, call, arguments)
            if answer is None:
                return None  # not remembered: the next rule may find Slack answering again
            answers[question] = answer
        return answers[question]

    def _ask_slack(self, method: str, call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        if not self._limits.take(method, reserve=self._reserve):
            return None
        try:
            return call(**arguments)
        except SlackApiError as error:
            if error.response.status_code == 429:
                self._limits.close(method, retry_after_s(error))
            if error.response.get("error") == "channel_not_found":
                return error.response
            return None
        except NO_ANSWER:
            return None

    def _remember_workspace(self, signed_in: Any) -> None:
        if signed_in:
            self._team_id = str(signed_in["team_id"])
            self._address = str(signed_in.get("url") or "")


def _has_any(values: Mapping[str, Any], *properties: str) -> bool:
    return any(values.get(name) for name in properties)


def _name(slack: WebClient, user_id: str) -> str:
    return _name_in(_call_slack(slack.users_info, user=user_id), user_id)


def _name_in(answer: Any, user_id: str) -> str:
    user = answer["user"] if answer else {}
    return str(user.get("real_name") or user.get("name") or user_id)


def _call_slack(method: Callable[..., Any], **arguments: Any) -> Any:
    """Returns Slack's answer, None if Slack refuses or doesn't answer."""
    try:
        return method(**arguments)
    except NO_ANSWER:  # a refusal, SlackApiError, is a SlackClientError
        return None
