"""The Slack emulator's state: messages, files, views, triggers, and every call that was made.

Slack's objects are kept in Slack's JSON, with attributes that Slack doesn't expose (who sees a message, how often it
was edited) beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from demo.people import BOT
from demo.workspace import Channel, Person

Json = dict[str, Any]

TEAM = "T0STANDIN"
ELSEWHERE = "T0ELSEWHERE"  # another organisation
APP = "A0FINETUNE"
BOT_ID = "B0FINETUNE"
ALL_SCOPES = frozenset(
    [
        "commands",
        "chat:write",
        "app_mentions:read",
        "files:read",
        "files:write",
        "users:read",
        "users:read.email",
        "usergroups:read",
        "channels:read",
        "groups:read",
        "im:history",
        "im:write",
    ]
)
RESPONSE_SECONDS = 1_800.0
RESPONSE_USES = 5


class SlackError(Exception):
    """An `{"ok": false}` answer. `details` become `response_metadata.messages`."""

    def __init__(self, code: str, details: Sequence[str] = (), *, needed: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.details = tuple(details)
        self.needed = needed


@dataclass(frozen=True)
class Call:
    """A request by the bot. `at` is time.monotonic(); `error` is Slack's code, None if it succeeded."""

    method: str
    args: Mapping[str, Any]
    at: float
    status: int
    error: str | None


@dataclass
class Stored:
    body: Json
    only_for: str | None = None
    edits: int = 0


@dataclass
class StoredFile:
    """A file. `content` is None until it was uploaded; `shown` is True once it may be requested."""

    body: Json
    owner: str
    length: int
    content: bytes | None = None
    shown: bool = False


@dataclass
class Trigger:
    user: str
    at: float
    used: bool = False


@dataclass
class ResponseUrl:
    user: str
    channel: str
    ts: str | None
    at: float
    uses: int = 0


@dataclass
class State:
    """The whole state. Hold `lock` to read or write it. `patience` is the time limit of acks and triggers in
    seconds."""

    people: tuple[Person, ...]
    channels: dict[str, Channel]
    groups: Mapping[str, tuple[str, ...]]
    scopes: frozenset[str]
    bot_token: str
    signing_secret: str
    patience: float
    base: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)
    messages: dict[str, list[Stored]] = field(default_factory=dict)
    files: dict[str, StoredFile] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)
    modals: dict[str, list[Json]] = field(default_factory=dict)
    homes: dict[str, Json] = field(default_factory=dict)
    triggers: dict[str, Trigger] = field(default_factory=dict)
    response_urls: dict[str, ResponseUrl] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    _last_ts: float = 0.0
    _ids: int = 0

    def new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}{self._ids:09d}"

    def new_ts(self) -> str:
        """Returns a new message id: the time in seconds, made unique by its six decimals."""
        self._last_ts = max(time.time(), self._last_ts + 0.000002)
        return f"{self._last_ts:.6f}"

    def new_trigger(self, user: str) -> str:
        name = f"{self.new_id('')}.{self.new_id('')}.trigger"
        self.triggers[name] = Trigger(user, time.monotonic())
        return name

    def new_response_url(self, user: str, channel: str, ts: str | None) -> str:
        name = self.new_id("R")
        self.response_urls[name] = ResponseUrl(user, channel, ts, time.monotonic())
        return f"{self.base}/response/{name}"

    def person(self, user: str) -> Person:
        for person in (BOT, *self.people):
            if person.id == user:
                return person
        raise SlackError("user_not_found")

    def channel(self, name: object) -> Channel:
        """Returns the channel with this id, name or '#name', or the direct messages with this user id."""
        if isinstance(name, str):
            if name in [person.id for person in self.people]:
                return self.open_dm(name)
            for channel in self.channels.values():
                if name in (channel.id, f"#{channel.name}", channel.name):
                    return channel
        raise SlackError("channel_not_found")

    def open_dm(self, user: str) -> Channel:
        dm = Channel(f"D{self.person(user).id[1:]}", f"dm-{user}", (user, BOT.id))
        return self.channels.setdefault(dm.id, dm)

    def find(self, channel: str, ts: object) -> Stored:
        for stored in self.messages.get(channel, []):
            if stored.body["ts"] == ts:
                return stored
        raise SlackError("message_not_found")

    def add(self, channel: str, body: Json, *, only_for: str | None = None) -> Stored:
        """Stores a message. Like Slack, gives it a ts, and a block_id to every block without one."""
        stored = Stored({"type": "message", "ts": self.new_ts(), **body}, only_for)
        stored.body["blocks"] = self.with_ids(body.get("blocks") or [])
        self.messages.setdefault(channel, []).append(stored)
        return stored

    def with_ids(self, blocks: Sequence[Mapping[str, Any]]) -> list[Json]:
        return [{**block, "block_id": block.get("block_id") or self.new_id("b")} for block in blocks]

    def post_as_bot(self, channel: str, args: Mapping[str, Any], *, only_for: str | None = None) -> Stored:
        fields = ("text", "blocks", "attachments", "thread_ts", "metadata", "files")
        body = {name: args[name] for name in fields if args.get(name)}
        frame = {"user": BOT.id, "bot_id": BOT_ID, "app_id": APP, "text": ""}
        return self.add(channel, {**frame, **body}, only_for=only_for)

    def edit(self, stored: Stored, args: Mapping[str, Any]) -> None:
        """Edits a message. As in Slack, text without blocks removes the blocks."""
        stored.body["text"] = args.get("text") or ""
        stored.body["blocks"] = self.with_ids(args.get("blocks") or [])
        stored.body["edited"] = {"user": BOT.id, "ts": self.new_ts()}
        stored.edits += 1

    def top_modal(self, user: str) -> Json | None:
        stack = self.modals.get(user)
        if not stack:
            return None
        return stack[-1]


def channel_json(channel: Channel) -> Json:
    is_im = channel.id.startswith("D")
    pending_shared = []
    if channel.invited:
        pending_shared = [ELSEWHERE]
    return {
        "id": channel.id,
        "name": channel.name,
        "is_channel": not channel.private,
        "is_group": channel.private and not is_im,
        "is_im": is_im,
        "is_private": channel.private,
        "is_archived": channel.archived,
        "is_member": BOT.id in channel.members,
        "is_ext_shared": channel.shared,
        "is_pending_ext_shared": channel.invited,
        "pending_shared": pending_shared,
        "num_members": len(channel.members),
    }


def person_json(person: Person) -> Json:
    team = TEAM
    if person.kind == "stranger":
        team = ELSEWHERE
    return {
        "id": person.id,
        "team_id": team,
        "name": person.name,
        "real_name": person.real_name,
        "deleted": person.kind == "deleted",
        "is_bot": person.id == BOT.id or person.kind == "bot",
        "is_restricted": person.kind == "guest",
        "tz": "Europe/Berlin",
        "profile": {"real_name": person.real_name, "display_name": person.name, "email": person.email},
    }
