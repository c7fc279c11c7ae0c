"""The Slack emulator as a Workspace: people act in it from Python, and to a bot it looks like Slack in HTTP mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from demo.forms import fill_in
from demo.people import ANA, BEN, BOT, TICKETS
from demo.slack_emulator import chat, files, payloads, views
from demo.slack_emulator.delivery import BotClient, Delivery
from demo.slack_emulator.faults import TIERS, Fault, Faults, FaultTarget
from demo.slack_emulator.server import SlackServer
from demo.slack_emulator.state import ALL_SCOPES, Call, Json, State, Stored
from demo.workspace import (
    Answers,
    BotAccess,
    Channel,
    Home,
    Modal,
    NotAnswered,
    Person,
    PostedMessage,
    Submission,
    WorkspaceError,
    file_of,
    find_element,
    modal_of,
)


class SlackEmulator:
    """A context manager. Call `deliver_to` with the bot's address before anybody acts.

    `groups` are user groups by id; `patience` replaces Slack's three seconds for acks and trigger_ids.
    """

    def __init__(
        self,
        *,
        people: tuple[Person, ...] = (ANA, BEN),
        channels: tuple[Channel, ...] = (TICKETS,),
        groups: Mapping[str, tuple[str, ...]] | None = None,
        scopes: Iterable[str] = ALL_SCOPES,
        patience: float = 3.0,
    ) -> None:
        self._state = State(
            people=people,
            channels={channel.id: channel for channel in channels},
            groups=groups or {},
            scopes=frozenset(scopes),
            patience=patience,
            bot_token="xoxb-stand-in",  # noqa: S106  opens nothing but this emulator
            signing_secret="stand-in-signing-secret",  # noqa: S106
        )
        self._faults = Faults()
        self._server = SlackServer(self._state, self._faults)
        self._deliveries: list[Delivery] = []
        # Called after each ack. Tests set it, to wait until the bot has done what was asked.
        self.settle: Callable[[], None] = lambda: None
        self._client: BotClient | None = None

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    # For the bot and the tests.

    @property
    def url(self) -> None:
        return None

    @property
    def access(self) -> BotAccess:
        state = self._state
        return BotAccess(f"{state.base}/api/", state.bot_token, state.signing_secret, BOT.id)

    @property
    def people(self) -> tuple[Person, ...]:
        return self._state.people

    @property
    def channels(self) -> tuple[Channel, ...]:
        with self._state.lock:
            return tuple(self._state.channels.values())

    def deliver_to(self, request_url: str) -> None:
        """Sets the bot's address for Slack's requests, such as 'http://127.0.0.1:3000/slack/events'."""
        self._client = BotClient(request_url, self._state.signing_secret, self._state.patience)

    def fail(
        self,
        method: str,
        fault: Fault,
        *,
        times: int | None = 1,
        channel: str | None = None,
        text: str | None = None,
    ) -> None:
        """Makes the next `times` calls of `method` fail ('*' for any, 'download' for a file); None means until
        `clear_faults`.

        `channel` and `text` (as in `FaultTarget`) limit the fault to a channel or a message.
        """
        with self._state.lock:
            self._faults.add(FaultTarget(method, channel, text), fault, times)

    def clear_faults(self) -> None:
        with self._state.lock:
            self._faults.clear()

    def limit_calls(self, calls_a_minute: Mapping[str, int] = TIERS) -> None:
        """Answers further calls of a method with 429, as Slack does; by default with Slack's own limits."""
        with self._state.lock:
            self._faults.calls_a_minute = calls_a_minute

    def calls(self, method: str | None = None) -> tuple[Call, ...]:
        """Returns the bot's calls in order, including failed ones."""
        with self._state.lock:
            return tuple(call for call in self._state.calls if method in (None, call.method))

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """The requests to the bot, with its answers."""
        return tuple(self._deliveries)

    def repeat(self, sent: Delivery, *, retry: int = 1) -> Delivery:
        """Sends the same request again, as Slack does if it got no ack."""
        return self._sent(self._bot().deliver(sent.what, sent.body, sent.content_type, retry=retry))

    def archive(self, channel: str) -> None:
        self._change(channel, archived=True)
        self._announce({"type": "channel_archive", "channel": channel})

    def remove_member(self, channel: str, person: str) -> None:
        members = tuple(user for user in self._state.channels[channel].members if user != person)
        self._change(channel, members=members)

    def unarchive(self, channel: str) -> None:
        self._change(channel, archived=False)

    def make_public(self, channel: str) -> None:
        self._change(channel, private=False)

    def share(self, channel: str) -> None:
        """Shares the channel with another organisation (Slack Connect)."""
        self._change(channel, shared=True)
        self._announce({"type": "channel_shared", "channel": channel})

    def invite_organisation(self, channel: str) -> None:
        """Invites another organisation, which has not accepted yet."""
        self._change(channel, invited=True)

    def set_group(self, group: str, members: tuple[str, ...]) -> None:
        with self._state.lock:
            self._state.groups = {**self._state.groups, group: members}
        self._announce({"type": "subteam_members_changed", "subteam_id": group})

    def set_kind(self, user: str, kind: Literal["guest", "deleted"]) -> None:
        with self._state.lock:
            people = []
            for person in self._state.people:
                if person.id == user:
                    person = replace(person, kind=kind)
                people.append(person)
            self._state.people = tuple(people)

    def remove_bot(self, channel: str) -> None:
        members = tuple(user for user in self._state.channels[channel].members if user != BOT.id)
        self._change(channel, members=members)
        self._announce({"type": "channel_left", "channel": channel})

    def add_bot(self, channel: str) -> None:
        """Adds the bot to the channel, as `/invite` does."""
        self._change(channel, members=(*self._state.channels[channel].members, BOT.id))
        self._announce({"type": "member_joined_channel", "channel": channel, "user": BOT.id})

    def grant(self, *scopes: str) -> None:
        """Grants scopes, as reinstalling the app does."""
        with self._state.lock:
            self._state.scopes = self._state.scopes | frozenset(scopes)

    def revoke(self, *scopes: str) -> None:
        with self._state.lock:
            self._state.scopes = self._state.scopes - frozenset(scopes)

    # What people do.

    def command(self, user: str, channel: str, line: str) -> None:
        with self._state.lock:
            form = payloads.slash_command(self._state, user, self._state.channel(channel), line)
        sent = self._acked(self._bot().form(form["command"], form))
        if sent.ack:
            with self._state.lock:
                chat.answer(self._state, user, form["channel_id"], sent.ack)

    def say(self, user: str, channel: str, text: str, *, thread_ts: str | None = None) -> str:
        body = {"user": user, "text": text}
        if thread_ts:
            body["thread_ts"] = thread_ts
        with self._state.lock:
            place = self._state.channel(channel)
            stored = self._state.add(place.id, body)
        if f"<@{BOT.id}>" in text and BOT.id in place.members:
            self._event({**body, "type": "app_mention", "channel": place.id, "ts": stored.body["ts"]})
        if place.id.startswith("D") and user != BOT.id:
            here = {"channel": place.id, "channel_type": "im", "ts": stored.body["ts"]}
            self._event({**body, "type": "message", **here})
        return str(stored.body["ts"])

    def upload(self, user: str, path: Path, *, channel: str | None = None, text: str = "") -> str:
        content = path.read_bytes()
        with self._state.lock:
            file = files.person_upload(self._state, user, path.name, content)
            file_id = str(file.body["id"])
            if channel is None:
                return file_id
            place = self._state.channel(channel)
            stored = self._state.add(
                place.id, {"subtype": "file_share", "user": user, "text": text, "files": [file.body]}
            )
            files.record_share(self._state, file, place.id, stored.body["ts"])
        if BOT.id in place.members:
            shared = {"type": "file_shared", "file_id": file_id, "file": {"id": file_id}}
            self._event({**shared, "user_id": user, "channel_id": place.id})
        return file_id

    def click(self, user: str, channel: str, ts: str, action_id: str, *, value: str | None = None) -> None:
        with self._state.lock:
            place = self._state.channel(channel)
            stored = self._seen(place.id, ts, user)
            action = payloads.action_payload(find_element(stored.body["blocks"], action_id, value), value)
            payload = payloads.message_action(self._state, user, place, stored, action)
        self._interact(payload)

    def press(self, user: str, action_id: str, *, value: str | None = None, home: bool = False) -> None:
        with self._state.lock:
            if home:
                place = "App Home"
                view = self._state.homes.get(user)
            else:
                place = "modal"
                view = self._state.top_modal(user)
            if view is None:
                raise WorkspaceError(f"{user} sees no {place} to press {action_id} in")
            action = payloads.action_payload(find_element(view["blocks"], action_id, value), value)
            payload = payloads.view_action(self._state, user, view, action)
        self._interact(payload)

    def submit_modal(self, user: str, answers: Answers) -> Submission:
        with self._state.lock:
            view = self._open_modal(user)
            filled = fill_in(view["blocks"], answers, lambda file: self._state.files[file].body)
            payload = payloads.view_submission(self._state, user, view, filled.values)
        if filled.errors:
            return Submission(False, filled.errors)
        ack = self._interact(payload).ack
        with self._state.lock:
            errors = views.apply_ack(self._state, user, ack)
            return Submission(self._state.top_modal(user) is None, errors)

    def close_modal(self, user: str) -> None:
        with self._state.lock:
            view = self._open_modal(user)
            self._state.modals[user].pop()
            payload = payloads.view_closed(self._state, user, view)
        if view.get("notify_on_close"):
            self._interact(payload)

    def message_shortcut(self, user: str, channel: str, ts: str, callback_id: str) -> None:
        with self._state.lock:
            place = self._state.channel(channel)
            stored = self._seen(place.id, ts, user)
            payload = payloads.message_shortcut(self._state, user, place, stored, callback_id)
        self._interact(payload)

    def global_shortcut(self, user: str, callback_id: str) -> None:
        with self._state.lock:
            payload = payloads.global_shortcut(self._state, user, callback_id)
        self._interact(payload)

    def open_home(self, user: str) -> None:
        with self._state.lock:
            event: Json = {"type": "app_home_opened", "user": user, "channel": self.dm(user), "tab": "home"}
            if user in self._state.homes:
                event["view"] = self._state.homes[user]
        self._event(event)

    # What people see.

    def dm(self, user: str) -> str:
        with self._state.lock:
            return self._state.open_dm(user).id

    def messages(self, channel: str) -> tuple[PostedMessage, ...]:
        with self._state.lock:
            place = self._state.channel(channel).id
            storeds = self._state.messages.get(place, [])
            return tuple(_posted(place, stored) for stored in storeds if stored.only_for is None)

    def content(self, file_id: str) -> bytes:
        """Returns the content of a file."""
        with self._state.lock:
            return self._state.files[file_id].content or b""

    def ephemerals(self, user: str) -> tuple[PostedMessage, ...]:
        with self._state.lock:
            posted = []
            for place, messages in self._state.messages.items():
                for stored in messages:
                    if stored.only_for == user:
                        posted.append(_posted(place, stored))
            return tuple(posted)

    def view(self, user: str) -> Modal | None:
        with self._state.lock:
            view = self._state.top_modal(user)
            if view is None:
                return None
            return modal_of(view)

    def home(self, user: str) -> Home | None:
        with self._state.lock:
            view = self._state.homes.get(user)
            if view is None:
                return None
            return Home(tuple(view["blocks"]))

    # How it reaches the bot.

    def _bot(self) -> BotClient:
        if self._client is None:
            raise WorkspaceError("the emulator does not know the bot's address: call deliver_to(url) first")
        return self._client

    def _interact(self, payload: Json) -> Delivery:
        return self._acked(self._bot().payload(payload))

    def _announce(self, what: Json) -> None:
        """Sends an event about a change in the workspace, if a bot is there."""
        if self._client is not None:
            self._event(what)

    def _event(self, what: Json) -> Delivery:
        """Sends an event. Nobody sees whether it was acked, except in `deliveries`."""
        with self._state.lock:
            event = payloads.event(self._state, what)
        return self._sent(self._bot().event(event))

    def _acked(self, sent: Delivery) -> Delivery:
        self._sent(sent)
        if sent.status is None:
            raise NotAnswered(f"{sent.what}: the bot gave no answer in {sent.seconds:.1f} s")
        if not sent.acked:
            raise NotAnswered(f"{sent.what}: the bot answered with HTTP {sent.status}: {sent.answer[:200]!r}")
        return sent

    def _sent(self, sent: Delivery) -> Delivery:
        self._deliveries.append(sent)
        if sent.acked:
            self.settle()
        return sent

    def _seen(self, channel: str, ts: str, user: str) -> Stored:
        stored = self._state.find(channel, ts)
        if stored.only_for not in (None, user):
            raise WorkspaceError(f"message {ts} in {channel} is visible to {stored.only_for} only")
        return stored

    def _open_modal(self, user: str) -> Json:
        view = self._state.top_modal(user)
        if view is None:
            raise WorkspaceError(f"{user} has no modal open")
        return view

    def _change(self, channel: str, **what: Any) -> None:
        with self._state.lock:
            self._state.channels[channel] = replace(self._state.channels[channel], **what)


def _posted(channel: str, stored: Stored) -> PostedMessage:
    body = stored.body
    return PostedMessage(
        ts=body["ts"],
        channel=channel,
        user=body["user"],
        text=body["text"],
        thread_ts=body.get("thread_ts"),
        blocks=tuple(body["blocks"]),
        files=tuple(file_of(file) for file in body.get("files", ())),
        edits=stored.edits,
        only_for=stored.only_for,
    )
