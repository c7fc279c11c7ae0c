"""What a person can do and see in a Slack workspace: the interface through which the demo and the tests act as people.

There are two implementations: `slack_emulator` (our own, strict) and `local_slack` (a third party's, with a web page).
This module knows nothing about the bot and prints nothing; `transcript` does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

Block = Mapping[str, Any]
"""A Block Kit block or element, as in Slack's JSON."""

Answers = Mapping[str, str | Sequence[str]]
"""A person's input in a modal by `block_id`: text, the value of an option, several values, or file ids."""

Seen = TypeVar("Seen")


class WorkspaceError(Exception):
    """An action that no person could do there, or whose failure a person would see."""


class NotAnswered(WorkspaceError):
    """The bot sent no ack within Slack's three seconds, or answered with an HTTP error."""


class Unsupported(WorkspaceError):
    """This workspace has no such control."""


@dataclass(frozen=True)
class Person:
    """A person. A `stranger` belongs to another organisation, in a shared channel."""

    id: str
    name: str
    real_name: str
    email: str = ""
    kind: Literal["member", "guest", "bot", "deleted", "stranger"] = "member"


@dataclass(frozen=True)
class Channel:
    """A channel. `members` are user ids, including the bot's if it was invited. A `shared` channel is shared with
    another organisation; with `invited`, that organisation has been invited but has not accepted."""

    id: str
    name: str
    members: tuple[str, ...]
    private: bool = True
    archived: bool = False
    shared: bool = False
    invited: bool = False


@dataclass(frozen=True)
class SharedFile:
    """A file in Slack. `size` is in bytes."""

    id: str
    name: str
    mimetype: str
    size: int


@dataclass(frozen=True)
class PostedMessage:
    """A message. `edits` counts chat.update and replace_original; `only_for` is the user who sees an ephemeral one."""

    ts: str
    channel: str
    user: str
    text: str
    thread_ts: str | None = None
    blocks: tuple[Block, ...] = ()
    files: tuple[SharedFile, ...] = ()
    edits: int = 0
    only_for: str | None = None


@dataclass(frozen=True)
class Modal:
    id: str
    callback_id: str
    title: str
    blocks: tuple[Block, ...]
    submit: str | None = None
    private_metadata: str = ""


@dataclass(frozen=True)
class Home:
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Submission:
    """The outcome of submitting a modal: its errors by block_id, and whether no modal is open any more."""

    closed: bool
    errors: Mapping[str, str]

    @property
    def accepted(self) -> bool:
        return not self.errors


@dataclass(frozen=True)
class BotAccess:
    """What the bot needs to connect: settings for its WebClient, and tokens for Socket Mode (`app_token`) or HTTP
    mode."""

    api_url: str
    bot_token: str
    signing_secret: str
    bot_user: str
    app_token: str | None = None


class Workspace(Protocol):
    """Users, channels, messages and files are given by Slack's ids; `user` is the person who acts or looks."""

    @property
    def url(self) -> str | None:
        """The web page on which a person can take part, None if there is none."""

    @property
    def access(self) -> BotAccess: ...

    @property
    def people(self) -> tuple[Person, ...]: ...

    @property
    def channels(self) -> tuple[Channel, ...]: ...

    def command(self, user: str, channel: str, line: str) -> None:
        """Types `/name text`. The bot's answer is in `ephemerals` or `messages`. Raises NotAnswered."""

    def say(self, user: str, channel: str, text: str, *, thread_ts: str | None = None) -> str:
        """Posts a message and returns its ts. A mention of the bot is sent to it as app_mention."""

    def upload(self, user: str, path: Path, *, channel: str | None = None, text: str = "") -> str:
        """Uploads a file and returns its id. Without a channel it is in no message, for a modal's file_input."""

    def click(self, user: str, channel: str, ts: str, action_id: str, *, value: str | None = None) -> None:
        """Presses a message's button, or chooses `value` in its select; a confirmation dialog is accepted."""

    def press(self, user: str, action_id: str, *, value: str | None = None, home: bool = False) -> None:
        """Does the same in the user's modal, or in the App Home."""

    def submit_modal(self, user: str, answers: Answers) -> Submission: ...

    def close_modal(self, user: str) -> None: ...

    def message_shortcut(self, user: str, channel: str, ts: str, callback_id: str) -> None: ...

    def global_shortcut(self, user: str, callback_id: str) -> None: ...

    def open_home(self, user: str) -> None:
        """Opens the App Home tab, of which the bot is notified; `home` returns the view that it publishes."""

    def dm(self, user: str) -> str:
        """Returns the id of the direct messages between this user and the bot."""

    def messages(self, channel: str) -> tuple[PostedMessage, ...]:
        """Returns the channel's messages, including threads but not ephemeral ones, oldest first."""

    def ephemerals(self, user: str) -> tuple[PostedMessage, ...]: ...

    def view(self, user: str) -> Modal | None: ...

    def home(self, user: str) -> Home | None: ...


def modal_of(view: Block) -> Modal:
    return Modal(
        id=view["id"],
        callback_id=view.get("callback_id", ""),
        title=view["title"]["text"],
        blocks=tuple(view["blocks"]),
        submit=(view.get("submit") or {}).get("text"),
        private_metadata=view.get("private_metadata", ""),
    )


def file_of(body: Block) -> SharedFile:
    return SharedFile(body["id"], body["name"], body["mimetype"], body["size"])


def wait_until(look: Callable[[], Seen | None], what: str, *, seconds: float = 10.0) -> Seen:
    """Calls `look` every 20 ms, and after two seconds every 100 ms, until its result is true, and returns that. `what`
    is for the error if the seconds run out."""
    started = time.monotonic()
    while not (seen := look()):
        waited_s = time.monotonic() - started
        if waited_s > seconds:
            raise WorkspaceError(f"waited {seconds:g} s for {what} without success")
        time.sleep(0.02 if waited_s < 2 else 0.1)
    return seen


def find_element(blocks: Sequence[Block], action_id: str, value: str | None = None) -> Block:
    """Returns the element with this action_id, with its `block_id`. `value` distinguishes several with the same id."""
    for element in elements(blocks):
        if element["action_id"] == action_id and (value is None or offers(element, value)):
            return element
    there = ", ".join(sorted({element["action_id"] for element in elements(blocks)})) or "nothing"
    meant = action_id if value is None else f"{action_id} with the value {value}"
    raise WorkspaceError(f"there is no {meant} to press, but {there}")


def elements(blocks: Sequence[Block]) -> Iterator[Block]:
    """Yields every element that can be pressed: in actions, in a section's accessory, in cards."""
    for index, block in enumerate(blocks):
        holders = [block.get("accessory"), *block.get("elements", ()), *block.get("actions", ())]
        for element in holders:
            if isinstance(element, Mapping) and "action_id" in element:
                yield {"block_id": block.get("block_id", f"b{index}"), **element}


def offers(element: Block, value: str) -> bool:
    if element.get("type") == "button":
        return element.get("value") == value
    return "options" not in element or value in [option["value"] for option in element["options"]]


def escape_command(text: str, people: Sequence[Person], channels: Sequence[Channel]) -> str:
    """Returns the text after a command as Slack sends it with `should_escape: true`: with entities, links and names."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"(?<!\S)https?://\S+", r"<\g<0>>", text)
    text = re.sub(r"(?<!\S)[\w.-]+\.(?:com|org|net)\b", r"<http://\g<0>|\g<0>>", text)
    for person in people:
        text = re.sub(rf"(?<!\S)@{re.escape(person.name)}\b", f"<@{person.id}|{person.name}>", text)
    for channel in channels:
        text = re.sub(rf"(?<!\S)#{re.escape(channel.name)}\b", f"<#{channel.id}|{channel.name}>", text)
    return text
