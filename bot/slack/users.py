"""Looks up people, groups and channels in Slack, without a cache. A look-up that fails returns None, which callers must
treat as no."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from http.client import HTTPException
from typing import Any
from urllib.error import URLError

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web import SlackResponse

from bot.rules.permissions import Person

# What the SDK raises if Slack can't be reached or its answer is cut off.
NO_ANSWER = (SlackClientError, URLError, OSError, HTTPException)
# Slack's reference says of the first two that part of the operation may have succeeded.
UNCLEAR = frozenset({"internal_error", "fatal_error", "service_unavailable"})
PASSING = UNCLEAR | {"ratelimited", "rate_limited"}
LOOK_UP_TIMEOUT_S = 1
MEMBERS_A_PAGE, MOST_PAGES = 999, 20


def is_unavailable(error: SlackApiError) -> bool:
    """True if Slack is having trouble, rather than refusing the app."""
    return error.response.status_code >= 500 or error.response.get("error") in PASSING


def display_names(bot_token: str, api_url: str) -> Callable[[str], str]:
    """Returns a function that gives a person's name for their id, or the id if there is no token or Slack doesn't
    answer."""
    client = WebClient(bot_token, base_url=api_url, timeout=LOOK_UP_TIMEOUT_S, retry_handlers=[])

    @cache
    def name_of(user_id: str) -> str:
        return _name(client, user_id) if bot_token else user_id

    return name_of


class SlackDirectory:
    """Looks things up with one client, whose timeout must fit into the three seconds of an ack."""

    def __init__(self, slack: WebClient, signed_in: SlackResponse | None) -> None:
        """`signed_in` is Slack's answer to auth.test, None if Slack couldn't be reached."""
        self._slack = slack
        self._team_id: str | None = None
        self._address = ""
        self._remember_workspace(signed_in)

    def person(self, user_id: str) -> Person | None:
        """Returns None if Slack doesn't know the person or doesn't answer."""
        if self._team_id is None:
            self._remember_workspace(_call_slack(self._slack.auth_test))
        answer = _call_slack(self._slack.users_info, user=user_id) if self._team_id else None
        if answer is None:
            return None
        user = answer["user"]
        return Person(
            id=user_id,
            is_bot=bool(user.get("is_bot") or user.get("is_app_user")),
            is_deleted=bool(user.get("deleted")),
            is_guest=bool(user.get("is_restricted") or user.get("is_ultra_restricted")),
            is_stranger=bool(user.get("is_stranger")) or user.get("team_id", self._team_id) != self._team_id,
        )

    def name(self, user_id: str) -> str:
        """Returns the person's name, or the id if Slack doesn't answer."""
        return _name(self._slack, user_id)

    def members(self, group_id: str) -> frozenset[str] | None:
        """Returns the ids of a user group's members, None if unknown."""
        answer = _call_slack(self._slack.usergroups_users_list, usergroup=group_id)
        return None if answer is None else frozenset(str(user) for user in answer.get("users") or ())

    def is_private(self, channel: str) -> bool | None:
        """Returns True if only its members can read a channel, None if unknown."""
        return self._has_any(channel, "is_private", "is_im", "is_mpim")

    def takes_posts(self, channel: str) -> bool | None:
        """Returns True if the bot is in a channel, None if unknown."""
        try:
            info: Any = self._slack.conversations_info(channel=channel)["channel"]
        except SlackApiError as error:
            # a private channel, or other people's direct messages, without the bot
            return False if error.response.get("error") == "channel_not_found" else None
        except NO_ANSWER:
            return None
        return True if info.get("is_im") else info.get("is_member")

    def is_member(self, person: str, channel: str) -> bool | None:
        """Returns True if a person is in a channel, None if unknown."""
        cursor = ""
        for _ in range(MOST_PAGES):
            answer = _call_slack(
                self._slack.conversations_members, channel=channel, limit=MEMBERS_A_PAGE, cursor=cursor
            )
            if answer is None:
                return None
            if person in (answer.get("members") or ()):
                return True
            cursor = str((answer.get("response_metadata") or {}).get("next_cursor") or "")
            if not cursor:
                return False
        return None

    def is_shared(self, channel: str) -> bool | None:
        """Returns True if people from another organisation are in a channel or invited to it, None if unknown."""
        return self._has_any(channel, "is_ext_shared", "is_pending_ext_shared", "pending_shared")

    def permalink(self, channel: str, ts: str) -> str | None:
        """Returns a message's address for a browser, None while the workspace's address is unknown. Builds the same
        address as chat.getPermalink without asking Slack, so that it can be used in a transaction."""
        return f"{self._address}archives/{channel}/p{ts.replace('.', '')}" if self._address else None

    def _has_any(self, channel: str, *properties: str) -> bool | None:
        answer = _call_slack(self._slack.conversations_info, channel=channel)
        return None if answer is None else any(answer["channel"].get(name) for name in properties)

    def _remember_workspace(self, signed_in: Any) -> None:
        if signed_in:
            self._team_id = str(signed_in["team_id"])
            self._address = str(signed_in.get("url") or "")


def _name(slack: WebClient, user_id: str) -> str:
    answer = _call_slack(slack.users_info, user=user_id)
    user = answer["user"] if answer else {}
    return str(user.get("real_name") or user.get("name") or user_id)


def _call_slack(method: Callable[..., Any], **arguments: Any) -> Any:
    """Returns Slack's answer, None if Slack refuses or doesn't answer."""
    try:
        return method(**arguments)
    except NO_ANSWER:  # a refusal, SlackApiError, is a SlackClientError
        return None
