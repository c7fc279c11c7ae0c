"""Prints a live transcript of a workspace's channels in the terminal: who did what, and what the bot said.

On a terminal, a card that is edited in place stays at the bottom and is redrawn. Elsewhere (a log, a pipe) a line is
printed when its bar has moved by a tenth or its stage has changed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from demo.drawing import Names, headline, mrkdwn, render, render_modal, texts
from demo.workspace import Answers, Modal, PostedMessage, Workspace, WorkspaceError

_BAR = re.compile(r"(\d{1,3})\s?% [█░]{4,}")
_RESTS = re.compile(r"^✓ |: 0 of [\d,]+$")  # an item of a list that is finished or has not begun
_LOOK_EVERY = 0.2
_SOON = 10.0
_LOOK_LATER = 1.0

Seen = TypeVar("Seen")


class Transcript:
    """`channels` are ids. Messages in any but the first are printed with the channel's name."""

    def __init__(self, workspace: Workspace, channels: Sequence[str], console: Console) -> None:
        self._workspace = workspace
        self._channels = tuple(channels)
        self._console = console
        self._names = names_in(workspace)
        self._shown: dict[tuple[str, str], PostedMessage] = {}
        self._noted: dict[tuple[str, str], str] = {}
        self._live: Live | None = None

    @contextmanager
    def running(self) -> Iterator[Transcript]:
        """While this is open, moving cards are redrawn on a terminal; at its end they are printed."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(console=self._console, transient=True, refresh_per_second=8) as self._live:
            yield self
        self._live = None
        for message in self._shown.values():
            if bar_percent(message, self._names) is not None:
                self._print_message(message, edited=True)

    def did(self, user: str, what: str) -> None:
        """Prints an action that leaves no message, such as a command or a click."""
        self.refresh()
        line = Text(self._names[user], style="bold green")
        line.append(f"  {what}", style="not bold green")
        self._print(line)

    def printed(self, text: str) -> None:
        """Prints what a command has printed in a terminal."""
        self._print(Padding(Text(text), (0, 0, 0, 2), expand=False))

    def filled(self, user: str, modal: Modal, answers: Answers, files: Names | None = None) -> None:
        """Prints a form as a person filled it in. `files` are the names of files among the answers, by their ids."""
        self.did(user, "fills in")
        names = {**self._names, **(files or {})}
        self._print(render_modal(modal, answers, names))

    def refresh(self) -> None:
        """Prints new messages in the order in which they were posted."""
        moving = []
        for message in self._everything():
            key = (message.channel, message.ts)
            before = self._shown.get(key)
            if before != message:
                self._shown[key] = message
                self._show(key, before, message)
            if bar_percent(message, self._names) is not None:
                moving.append(message)
        if self._live:
            drawn = [render(message, self._names) for message in moving]
            self._live.update(Group(*drawn))

    def until(self, look: Callable[[], Seen | None], what: str, *, seconds: float) -> Seen:
        """Keeps printing until `look` returns something, and returns that. `what` is for the error if the seconds run
        out."""
        start = time.monotonic()
        while True:
            self.refresh()
            seen = look()
            if seen:
                return seen
            waited = time.monotonic() - start
            if waited > seconds:
                raise WorkspaceError(f"waited {seconds:g} s for {what} without success")
            pause = _LOOK_EVERY
            if waited >= _SOON:
                # Each look takes 10 ms of both cores, which the training needs.
                pause = _LOOK_LATER
            time.sleep(pause)

    def _everything(self) -> list[PostedMessage]:
        messages: list[PostedMessage] = []
        for channel in self._channels:
            messages += self._workspace.messages(channel)
        for person in self._workspace.people:
            messages += self._workspace.ephemerals(person.id)
        return sorted(messages, key=lambda message: float(message.ts))

    def _show(self, key: tuple[str, str], before: PostedMessage | None, message: PostedMessage) -> None:
        is_moving = bar_percent(message, self._names) is not None
        if is_moving and self._live:
            return  # it is redrawn at the bottom
        note = progress_key(message, self._names) or ""
        if before is None:
            self._noted[key] = note
            self._print_message(message, edited=False)
        elif not is_moving:
            self._noted.pop(key, None)
            self._print_message(message, edited=True)
        elif self._noted.get(key) != note:
            self._noted[key] = note
            line = progress_line(message, self._names)
            self._print(Text(f"  {line}", style="cyan"))

    def _print_message(self, message: PostedMessage, *, edited: bool) -> None:
        if message.channel != self._channels[0] and message.only_for is None:
            place = self._names.get(message.channel, "direct messages")
            self._print(Text(f"— {place} —", style="dim"))
        self._print(render(message, self._names, edited=edited))

    def _print(self, what: RenderableType) -> None:
        self._console.print(what)
        if not isinstance(what, Text):
            self._console.print()


def names_in(workspace: Workspace) -> Names:
    names = {channel.id: f"#{channel.name}" for channel in workspace.channels}
    for person in workspace.people:
        names[person.id] = person.real_name
        names[workspace.dm(person.id)] = f"{person.real_name}'s direct messages"
    names[workspace.access.bot_user] = "Finetune"
    return names


def bar_percent(message: PostedMessage, names: Names) -> int | None:
    """Returns the percentage of the card's progress bar, None if it has none."""
    for text in texts(message, names):
        match = _BAR.search(text.plain)
        if match:
            return int(match[1])
    return None


def progress_key(message: PostedMessage, names: Names) -> str | None:
    """Returns a text that changes when a new line should be printed: with the headline, the stages, or a tenth of the
    bar. None if the card has no bar."""
    bar = bar_percent(message, names)
    if bar is None:
        return None
    plain_texts = [text.plain for text in texts(message, names)]
    stages = [text for text in plain_texts if "›" in text]
    return f"{headline(message, names)}|{stages}|{bar // 10}"


def progress_line(message: PostedMessage, names: Names) -> str:
    """Returns the card's progress in one line: its bar, the time left, its numbers, without finished or waiting
    items."""
    parts = [" › ".join(_stages(message, names))]
    for text in texts(message, names):
        if "›" in text.plain:
            # The stages, of which only the current one is shown.
            continue
        for line in text.plain.splitlines():
            if not _RESTS.search(line):
                parts.append(line.removeprefix("• "))
    return " · ".join(part for part in parts if part)


def _stages(message: PostedMessage, names: Names) -> Iterator[str]:
    """Yields the current stage, which is the one in bold."""
    for block in message.blocks:
        if block["type"] != "section":
            continue
        text = (block.get("text") or {}).get("text", "")
        if "›" in text:
            for word in re.findall(r"\*[^*]+\*", text):
                yield mrkdwn(word, names).plain
