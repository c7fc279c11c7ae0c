"""Follows the state of local-slack's web page over its websocket: modals, homes, edits, and whether a bot is connected.

It also does through the websocket what the page can and the control API can't: submit and close a modal.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from websocket import WebSocket, WebSocketException, create_connection

from demo.workspace import NotAnswered


class Mirror:
    """A copy of the page's state. One thread updates it; others read it under the lock."""

    def __init__(self, port: int) -> None:
        self._socket: WebSocket = create_connection(f"ws://127.0.0.1:{port}/ui", timeout=10)
        self._changed = threading.Condition()
        self._stack: list[Mapping[str, Any]] = []
        self._homes: dict[str, Mapping[str, Any]] = {}
        self._edits: Counter[tuple[str, str]] = Counter()
        self._errors: Mapping[str, str] = {}
        self._answers = 0
        self.is_bot_connected = False
        self._read(self._socket.recv())
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.close()
        self._thread.join(5)

    @property
    def modal(self) -> Mapping[str, Any] | None:
        """The top modal, None if there is none. There is one stack for the whole workspace, not one per user."""
        with self._changed:
            return self._stack[-1] if self._stack else None

    def home(self, user: str) -> Mapping[str, Any] | None:
        with self._changed:
            return self._homes.get(user)

    def edits(self, channel: str, ts: str) -> int:
        with self._changed:
            return self._edits[channel, ts]

    def submit(self, user: str, values: Mapping[str, Any], seconds: float = 6.0) -> Mapping[str, str]:
        """Submits the top modal and returns the errors that it then shows."""
        with self._changed:
            before = self._answers
            self._errors = {}
            self.send({"t": "view_submit", "user": user, "values": values})
            if not self._changed.wait_for(lambda: self._answers > before, seconds):
                raise NotAnswered(f"view_submission: nothing happened to the modal in {seconds:g} s")
            return self._errors

    def send(self, message: Mapping[str, Any]) -> None:
        self._socket.send(json.dumps(message))

    def _follow(self) -> None:
        while True:
            try:
                frame = self._socket.recv()
            except (WebSocketException, OSError):
                return
            if not frame:
                return
            self._read(frame)

    def _read(self, frame: str | bytes) -> None:
        message = json.loads(frame)
        with self._changed:
            self._note(message)
            self._changed.notify_all()

    def _note(self, message: Mapping[str, Any]) -> None:
        match message["t"]:
            case "init":
                self.is_bot_connected = any(app["connected"] for app in message["state"]["apps"])
            case "view":
                self._stack = message["stack"]
                self._answers += 1
            case "view_errors":
                self._errors = message["errors"]
                self._answers += 1
            case "home":
                self._homes[message["user"]] = message["view"]
            case "message_update" if message["message"].get("edited"):
                self._edits[message["message"]["channel"], message["message"]["ts"]] += 1
            case "socket_status":
                self.is_bot_connected = message["connected"]

    def wait_for_bot(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.is_bot_connected, seconds)
