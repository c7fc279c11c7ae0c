"""Sets up a new installation: checks each answer with Slack, then writes manifest.yml, .env and finetune.toml into a
folder. Existing files stay as they are. `bot/doctor.py` checks the result.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.outbox_sender import SCOPES, granted_scopes
from bot.resources import read_resource
from bot.settings import APP_TOKEN, BOT_TOKEN

MEMBER = re.compile(r"[UW][A-Z0-9]{4,20}")
CHANNEL = re.compile(r"[CG][A-Z0-9]{4,20}")
AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,2})?")
MOST_CHANNEL_PAGES = 20

Problem = str


@dataclass
class Answers:
    """The checked answers. `approvers` are ids of workspace members."""

    bot_token: str = ""
    app_token: str = ""
    approvers: tuple[str, ...] = ()
    monthly_usd: str = "0"
    fallback_channel: str = ""


@dataclass
class SlackCheck:
    """Checks answers with Slack. Each check returns the value to store and how to show it, or a problem with its
    cure."""

    api_url: str
    token: str = field(default="", repr=False)

    def bot_token(self, text: str) -> tuple[str, str] | Problem:
        if not BOT_TOKEN.fullmatch(text):
            return "That is not a bot token: one starts with xoxb-, and has only letters, digits and dashes."
        try:
            answer = self._client(text).auth_test()
        except (SlackApiError, URLError, OSError) as error:
            return _describe_error(error, "the token")
        granted = granted_scopes(answer.headers)
        missing = SCOPES - granted
        if granted and missing:  # a workspace that doesn't report them has none
            return f"The app lacks {', '.join(sorted(missing))}: reinstall it from manifest.yml."
        self.token = text
        return text, f"signed in to {answer.get('team')} as {answer.get('user')}"

    def app_token(self, text: str) -> tuple[str, str] | Problem:
        if not APP_TOKEN.fullmatch(text):
            return "That is not an app-level token: one starts with xapp-, and has only letters, digits and dashes."
        try:
            self._client(text).apps_connections_open(app_token=text)
        except (SlackApiError, URLError, OSError) as error:
            return _describe_error(error, "the token")
        return text, "Socket Mode works"

    def approver(self, text: str) -> tuple[str, str] | Problem:
        """`text` is an e-mail address or a member's id."""
        if "@" not in text and not MEMBER.fullmatch(text):
            return (
                f"{text!r} is neither an e-mail address nor a member's id (in a profile: ⋮ → Copy member ID)."
            )
        client = self._client(self.token)
        try:
            if "@" in text:
                answer: Any = client.users_lookupByEmail(email=text)
            else:
                answer = client.users_info(user=text)
        except (SlackApiError, URLError, OSError) as error:
            return _describe_error(error, text)
        user = answer["user"]
        if user.get("deleted") or user.get("is_bot") or user.get("is_restricted"):
            return f"{text} is a guest, a bot or deactivated, and can't be an approver."
        return str(user["id"]), f"{user.get('real_name') or user.get('name')} ({user['id']})"

    def channel(self, text: str) -> tuple[str, str] | Problem:
        """`text` is a channel's name or id."""
        name = text.removeprefix("#")
        try:
            for channel in self._channels(name):
                if name in (channel["id"], channel.get("name")):
                    return str(channel["id"]), f"#{channel.get('name')} ({channel['id']})"
        except (SlackApiError, URLError, OSError) as error:
            return _describe_error(error, text)
        return f"The bot can't see a channel {text}; in a private one, type /invite @Finetune first."

    def _channels(self, name: str) -> Iterator[Any]:
        client = self._client(self.token)
        if CHANNEL.fullmatch(name):
            yield client.conversations_info(channel=name)["channel"]
            return
        cursor = ""
        for _ in range(MOST_CHANNEL_PAGES):
            page: Any = client.conversations_list(limit=999, exclude_archived=True, cursor=cursor)
            yield from page["channels"]
            metadata = page.get("response_metadata") or {}
            cursor = str(metadata.get("next_cursor") or "")
            if not cursor:
                return

    def _client(self, token: str) -> WebClient:
        return WebClient(token, base_url=self.api_url, timeout=10, retry_handlers=[])


CURES = {
    "invalid_auth": "Slack doesn't know {what}: copy it again from api.slack.com/apps.",
    "not_allowed_token_type": "Slack expects another kind of token than {what}: copy the one that is asked for.",
    "missing_scope": "The app is not allowed to look up {what}: reinstall it from manifest.yml, or give an id.",
    "users_not_found": "Nobody in this workspace has the address {what}: check it, or give the member's id.",
    "user_not_found": "There is no member {what} in this workspace.",
    "channel_not_found": "The bot can't see a channel {what}; in a private one, type /invite @Finetune first.",
}


def _describe_error(error: Exception, what: str) -> Problem:
    if not isinstance(error, SlackApiError):
        return (
            f"Slack could not be reached: {getattr(error, 'reason', error)}. Check the network and try again."
        )
    if error.response.status_code != 200:
        return f"Slack answers with HTTP {error.response.status_code}. Try again later."
    code = str(error.response.get("error"))
    return CURES.get(code, "Slack refuses {what}: " + code + ".").format(what=what)


def dollars(text: str) -> tuple[str, str] | Problem:
    """Checks a monthly budget in dollars and cents."""
    amount = text.removeprefix("$").replace(",", "")
    if not AMOUNT.fullmatch(amount):
        return f"{text!r} is not an amount of dollars and cents, like 200."
    if Decimal(amount) == 0:
        return amount, f"${amount} a month: only runs that cost nothing can start"
    return amount, f"${amount} a month"


def manifest_link(manifest: str) -> str:
    """Returns the address of Slack's page for a new app with the manifest filled in (docs.slack.dev, "Sharing app
    manifests")."""
    return f"https://api.slack.com/apps?new_app=1&manifest_yaml={quote(manifest, safe='')}"


def write_files(folder: Path, answers: Answers) -> None:
    _write(folder / ".env", _env_text(answers), 0o600)
    _write(folder / "finetune.toml", _settings_text(answers), 0o644)


def write_manifest(folder: Path) -> None:
    _write(folder / "manifest.yml", read_resource("manifest.yml"), 0o644)


def _write(path: Path, text: str, mode: int) -> None:
    """Writes a new file; an existing one stays as it is."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _env_text(answers: Answers) -> str:
    example = read_resource("env.example").replace("# Copy to .env. Both", "# Both")
    tokens = {"SLACK_BOT_TOKEN=xoxb-…": answers.bot_token, "SLACK_APP_TOKEN=xapp-…": answers.app_token}
    for line, token in tokens.items():
        example = _fill(example, line, f"{line.split('=')[0]}={token}")
    return example


def _settings_text(answers: Answers) -> str:
    text = read_resource("finetune.example.toml").replace(
        "# Copy to finetune.toml. Everything", "# Everything"
    )
    ids = ", ".join(f'"{person}"' for person in answers.approvers)
    text = _fill(text, 'approvers = ["U0123456789"]', f"approvers = [{ids}]")
    text = _fill(text, 'monthly_usd = "200"', f'monthly_usd = "{answers.monthly_usd}"')
    if answers.fallback_channel:
        line = '#fallback_channel = "C0123456789"'
        text = _fill(text, line, f'fallback_channel = "{answers.fallback_channel}"')
    return text


def _fill(example: str, line: str, filled: str) -> str:
    """Returns the example with its first `line` replaced. Raises ValueError if the example has no such line."""
    if line not in example:
        raise ValueError(f"the example has no line {line!r}")
    return example.replace(line, filled, 1)
