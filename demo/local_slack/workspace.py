"""local-slack as a Workspace: people act through its control API, and a bot connects by Socket Mode."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.forms import fill_in
from demo.local_slack.front import PageProxy
from demo.local_slack.mirror import Mirror
from demo.local_slack.process import APP, APP_TOKEN, BOT_TOKEN, SIGNING_SECRET, Running, dm_of, start
from demo.people import ANA, BEN, BOT, TICKETS
from demo.workspace import (
    Answers,
    Block,
    BotAccess,
    Channel,
    Home,
    Modal,
    NotAnswered,
    Person,
    PostedMessage,
    Submission,
    Unsupported,
    WorkspaceError,
    escape_command,
    file_of,
    find_element,
    modal_of,
)

_LATE = 4.9


class LocalSlack:
    """A context manager that runs local-slack. `folder` receives its configuration and the uploaded files."""

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        people: tuple[Person, ...] = (ANA, BEN),
        channels: tuple[Channel, ...] = (TICKETS,),
    ) -> None:
        self._binary = binary
        self._folder = folder
        self._people = people
        self._channels = channels

    def __enter__(self) -> LocalSlack:
        self._running: Running = start(self._binary, self._folder, self._people, self._channels)
        self._mirror = Mirror(self._running.port)
        self._proxy = PageProxy(self._running.port)
        self._proxy.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.stop()
        self._mirror.close()
        self._running.stop()

    @property
    def url(self) -> str:
        return self._proxy.url

    @property
    def access(self) -> BotAccess:
        return BotAccess(self._running.api_url, BOT_TOKEN, SIGNING_SECRET, BOT.id, APP_TOKEN)

    @property
    def people(self) -> tuple[Person, ...]:
        return self._people

    @property
    def channels(self) -> tuple[Channel, ...]:
        return self._channels

    def wait_for_bot(self, seconds: float = 20.0) -> None:
        """Waits until a bot is connected by Socket Mode. Before that, actions are lost."""
        if not self._mirror.wait_for_bot(seconds):
            raise NotAnswered(f"no bot connected to local-slack by Socket Mode within {seconds:g} s")

    # What people do.

    def command(self, user: str, channel: str, line: str) -> None:
        name, _, text = line.partition(" ")
        sentence = escape_command(text.strip(), self._people, self._channels)
        self._act("command", name, user=user, channel=channel, command=name, text=sentence)

    def say(self, user: str, channel: str, text: str, *, thread_ts: str | None = None) -> str:
        body = {"user": user, "channel": channel, "text": text}
        if thread_ts:
            body["thread_ts"] = thread_ts
        answer = self._post("/_control/message", body)
        return str(answer["message"]["ts"])

    def upload(self, user: str, path: Path, *, channel: str | None = None, text: str = "") -> str:
        """Uploads a file. Without a channel it belongs to the bot, since in local-slack people can't upload without a
        message."""
        if channel is None:
            return self._upload_unshared(path)
        fields = {"user": user, "channel": channel, "text": text}
        body, kind = multipart(fields, path)
        answer = self._request("POST", "/_control/upload", body, kind)
        return str(answer["message"]["files"][0]["id"])

    def click(self, user: str, channel: str, ts: str, action_id: str, *, value: str | None = None) -> None:
        blocks = next((message.blocks for message in self._all(channel) if message.ts == ts), None)
        if blocks is None:
            raise WorkspaceError(f"there is no message {ts} in {channel}")
        action = action_payload(find_element(blocks, action_id, value), value)
        self._act("interact", action_id, user=user, channel=channel, messageTs=ts, action=action)

    def press(self, user: str, action_id: str, *, value: str | None = None, home: bool = False) -> None:
        """Presses a button in the App Home only, as local-slack sends no clicks in a modal. The payload has no
        `view`."""
        if not home:
            raise Unsupported(f"local-slack cannot press {action_id} in {user}'s modal")
        view = self._mirror.home(user)
        if view is None:
            raise Unsupported(f"local-slack cannot press {action_id} in {user}'s home")
        action = action_payload(find_element(view["blocks"], action_id, value), value)
        where = {"channel": "", "messageTs": "", "appId": APP}
        self._mirror.send({"t": "block_action", "user": user, "action": action, **where})

    def submit_modal(self, user: str, answers: Answers) -> Submission:
        view = self._open_modal()
        filled = fill_in(view["blocks"], answers, self._file)
        if filled.errors:
            return Submission(False, filled.errors)
        errors = self._mirror.submit(user, filled.values)
        return Submission(self._mirror.modal is None, errors)

    def close_modal(self, user: str) -> None:
        self._open_modal()
        self._mirror.send({"t": "view_close", "user": user})

    def message_shortcut(self, user: str, channel: str, ts: str, callback_id: str) -> None:
        raise Unsupported(f"local-slack has no message shortcuts ({callback_id})")

    def global_shortcut(self, user: str, callback_id: str) -> None:
        raise Unsupported(f"local-slack has no shortcuts ({callback_id})")

    def open_home(self, user: str) -> None:
        self._act("open-home", "app_home_opened", user=user)

    # What people see.

    def dm(self, user: str) -> str:
        return dm_of(user)

    def messages(self, channel: str) -> tuple[PostedMessage, ...]:
        return tuple(message for message in self._all(channel) if message.only_for is None)

    def ephemerals(self, user: str) -> tuple[PostedMessage, ...]:
        places = [channel.id for channel in self._channels]
        places += [dm_of(person.id) for person in self._people]
        messages: list[PostedMessage] = []
        for place in places:
            messages += [message for message in self._all(place) if message.only_for == user]
        return tuple(messages)

    def view(self, user: str) -> Modal | None:
        """Returns the workspace's top modal, no matter who opened it."""
        view = self._mirror.modal
        if view is None:
            return None
        return modal_of(view)

    def home(self, user: str) -> Home | None:
        view = self._mirror.home(user)
        if view is None:
            return None
        return Home(tuple(view["blocks"]))

    # How it reaches local-slack.

    def _all(self, channel: str) -> list[PostedMessage]:
        result = self._request("GET", f"/_control/messages/{channel}")["messages"]
        return [_posted(body, self._mirror.edits(channel, body["ts"])) for body in result]

    def _open_modal(self) -> Mapping[str, Any]:
        view = self._mirror.modal
        if view is None:
            raise WorkspaceError("no modal is open")
        nameless = [
            block for block in view["blocks"] if block["type"] == "input" and not block.get("block_id")
        ]
        if nameless:
            raise WorkspaceError("an input block has no block_id: local-slack would lose its value")
        return view

    def _file(self, file_id: str) -> Block:
        values: Block = self._request("GET", f"/api/files.info?file={file_id}")["file"]
        return values

    def _upload_unshared(self, path: Path) -> str:
        content = path.read_bytes()
        values = {"filename": path.name, "length": len(content)}
        place = self._post("/api/files.getUploadURLExternal", values)
        upload = "/" + place["upload_url"].split("/", 3)[3]
        self._raw("POST", upload, content, "application/octet-stream")
        self._post("/api/files.completeUploadExternal", {"files": [{"id": place["file_id"]}]})
        return str(place["file_id"])

    def _act(self, verb: str, what: str, **body: Any) -> None:
        """Acts, and checks by the elapsed time whether the bot acked, since local-slack gives up silently after 5 s."""
        if not self._mirror.is_bot_connected:
            raise NotAnswered(f"{what}: no bot is connected to local-slack")
        start = time.monotonic()
        self._post(f"/_control/{verb}", body)
        if time.monotonic() - start > _LATE:
            raise NotAnswered(f"{what}: the bot gave no ack in {_LATE} s")

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._request("POST", path, json.dumps(body).encode(), "application/json")

    def _request(self, verb: str, path: str, body: bytes = b"", kind: str = "") -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._raw(verb, path, body, kind))
        if answer.get("ok") is False:
            raise WorkspaceError(f"{verb} {path}: local-slack answered {answer.get('error')}")
        return answer

    def _raw(self, verb: str, path: str, body: bytes, kind: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._running.port, timeout=20)
        headers = {"Authorization": f"Bearer {BOT_TOKEN}"}
        if kind:
            headers["Content-Type"] = kind
        try:
            connection.request(verb, path, body, headers)
            return connection.getresponse().read()
        finally:
            connection.close()


def action_payload(element: Block, value: str | None) -> dict[str, Any]:
    """Returns what the page sends for a click. `value` is the option chosen in a select."""
    keys = ("type", "action_id", "block_id", "value", "text")
    action = {key: element[key] for key in keys if key in element}
    for option in element.get("options", ()):
        if option["value"] == value:
            action["selected_option"] = option
    return action


def multipart(fields: Mapping[str, str], path: Path) -> tuple[bytes, str]:
    """Returns the body of a form with one file, and its content type."""
    border = uuid.uuid4().hex
    parts = [
        f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
        if value
    ]
    file = f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n'
    head = f"{file}Content-Type: application/octet-stream\r\n\r\n".encode()
    body = b"".join([*parts, head, path.read_bytes(), f"\r\n--{border}--\r\n".encode()])
    return body, f"multipart/form-data; boundary={border}"


def _posted(body: Mapping[str, Any], edits: int) -> PostedMessage:
    return PostedMessage(
        ts=body["ts"],
        channel=body["channel"],
        user=body["user"],
        text=body.get("text") or "",
        thread_ts=body.get("thread_ts"),
        blocks=tuple(body.get("blocks") or ()),
        files=tuple(file_of(file) for file in body.get("files", ()) if "mimetype" in file),
        edits=edits,
        only_for=body.get("ephemeral_to"),
    )
