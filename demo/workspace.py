"""What a person can do and see in a Slack workspace: the seam at which the demo and the tests act as people.

Two workspaces stand behind it: `slack_emulator` (ours, strict) and `local_slack` (not ours, with a web page).
It does not know the bot, and it does not draw: `transcript` does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

Block = Mapping[str, Any]
"""A Block Kit block or element as Slack's JSON has it."""

Answers = Mapping[str, str | Sequence[str]]
"""What a person puts into a modal, by `block_id`: text, an option's value, several such, file ids."""

Seen = TypeVar("Seen")


class WorkspaceError(Exception):
    """Something that no person could do there, or that a person would see go wrong."""


class NotAnswered(WorkspaceError):
    """The bot gave no ack within Slack's three seconds, or answered with an HTTP error."""


class Unsupported(WorkspaceError):
    """This workspace has no such control."""


@dataclass(frozen=True)
class Person:
    """A `stranger` is of another organisation, in a shared channel."""

    id: str
    name: str
    real_name: str
    email: str = ""
    kind: Literal["member", "guest", "bot", "deleted", "stranger"] = "member"


@dataclass(frozen=True)
class Channel:
    """`members` are user ids, the bot's among them where it was invited. `shared` with another organisation, or
    `invited`: asked to be, which nobody there has accepted yet."""

    id: str
    name: str
    members: tuple[str, ...]
    private: bool = True
    archived: bool = False
    shared: bool = False
    invited: bool = False


@dataclass(frozen=True)
class SharedFile:
    """`size` in bytes."""

    id: str
    name: str
    mimetype: str
    size: int


@dataclass(frozen=True)
class PostedMessage:
    """`edits` counts chat.update and replace_original; `only_for` is the one user who sees an ephemeral."""

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
    """`errors` by block_id, as the modal shows them; `closed` when no modal is left."""

    closed: bool
    errors: Mapping[str, str]

    @property
    def accepted(self) -> bool:
        return not self.errors


@dataclass(frozen=True)
class BotAccess:
    """What the bot needs to come in: settings for its WebClient and for one of the two modes."""

    api_url: str
    bot_token: str
    signing_secret: str
    bot_user: str
    app_token: str | None = None


class Workspace(Protocol):
    """Users, channels, messages and files go by Slack's ids; `user` is who acts or looks."""

    @property
    def url(self) -> str | None:
        """The page on which a person can join in, where there is one."""

    @property
    def access(self) -> BotAccess: ...

    @property
    def people(self) -> tuple[Person, ...]: ...

    @property
    def channels(self) -> tuple[Channel, ...]: ...

    def command(self, user: str, channel: str, line: str) -> None:
        """Type `/name text`. Raises NotAnswered; the bot's answer is in `ephemerals` or `messages`."""

    def say(self, user: str, channel: str, text: str, *, thread_ts: str | None = None) -> str:
        """Post a message, give its ts. A mention of the bot reaches it as app_mention."""

    def upload(self, user: str, path: Path, *, channel: str | None = None, text: str = "") -> str:
        """Give the new file's id. Without a channel it is put into no message: for a modal's file_input."""

    def click(self, user: str, channel: str, ts: str, action_id: str, *, value: str | None = None) -> None:
        """Press a message's button, or choose `value` in its select; a confirm is answered with yes."""

    def press(self, user: str, action_id: str, *, value: str | None = None, home: bool = False) -> None:
        """The same in the user's modal, or in the App Home."""

    def submit_modal(self, user: str, answers: Answers) -> Submission: ...

    def close_modal(self, user: str) -> None: ...

    def message_shortcut(self, user: str, channel: str, ts: str, callback_id: str) -> None: ...

    def global_shortcut(self, user: str, callback_id: str) -> None: ...

    def open_home(self, user: str) -> None:
        """Open the App Home tab, which tells the bot; `home` shows what it published."""

    def dm(self, user: str) -> str:
        """The channel between this user and the bot."""

    def messages(self, channel: str) -> tuple[PostedMessage, ...]:
        """What stands in the channel now, threads among it, oldest first; no ephemerals."""

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
    """Look every 20 ms, and after two seconds every 100 ms, until there is something (not None, not False, not empty),
    and give it."""
    started = time.monotonic()
    while not (seen := look()):
        waited_s = time.monotonic() - started
        if waited_s > seconds:
            raise WorkspaceError(f"waited {seconds:g} s for {what}, in vain")
        time.sleep(0.02 if waited_s < 2 else 0.1)
    return seen


def find_element(blocks: Sequence[Block], action_id: str, value: str | None = None) -> Block:
    """The element that a person means, with its `block_id`; `value` tells apart two of the same action_id."""
    for element in elements(blocks):
        if element["action_id"] == action_id and (value is None or offers(element, value)):
            return element
    there = ", ".join(sorted({element["action_id"] for element in elements(blocks)})) or "nothing"
    meant = action_id if value is None else f"{action_id} with the value {value}"
    raise WorkspaceError(f"there is no {meant} to press: there is {there}")


def elements(blocks: Sequence[Block]) -> Iterator[Block]:
    """Everything that can be pressed: in actions, in a section's accessory, in cards."""
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
    """What was typed after a command, as an app with `should_escape: true` gets it: entities, links, names."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"(?<!\S)https?://\S+", r"<\g<0>>", text)
    text = re.sub(r"(?<!\S)[\w.-]+\.(?:com|org|net)\b", r"<http://\g<0>|\g<0>>", text)
    for person in people:
        text = re.sub(rf"(?<!\S)@{re.escape(person.name)}\b", f"<@{person.id}|{person.name}>", text)
    for channel in channels:
        text = re.sub(rf"(?<!\S)#{re.escape(channel.name)}\b", f"<#{channel.id}|{channel.name}>", text)
    return text
