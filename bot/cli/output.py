"""What the commands print, and how far they are. In a pipe, with NO_COLOR and on a dumb terminal it is plain text, the
same bytes each time; on a terminal rich, which is imported only then, adds colour, tables, wrapped prose and a bar."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

import click

from bot.cards.blocks import CardBlock, Lines, escape
from bot.cards.terminal import terminal_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

A_LINE_EVERY_S = 30.0
REDRAWN_EVERY_S = 0.25
_SHARE = re.compile(r"([0-9][0-9,]*) of ([0-9][0-9,]*) ")
Tone = Literal["good", "warning", "bad", "plain"]


def is_styled(stream: TextIO) -> bool:
    """NO_COLOR as no-color.org has it: any value but an empty one."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def hyperlink(address: str, text: str) -> str:
    """A link in a terminal, by the control sequence that most of them know (OSC 8)."""
    return f"\033]8;;{address}\033\\{text}\033]8;;\033\\"


def show(parts: Sequence[CardBlock], tone: Tone = "plain", *, err: bool = False) -> None:
    """Prints a card, its headline in the colour of the `tone`."""
    stream = sys.stderr if err else sys.stdout
    if is_styled(stream):
        from bot.cli.rich_cards import print_card

        print_card(parts, tone, stream)
    else:
        click.echo(terminal_text(parts), err=err)


def show_text(text: str, tone: Tone = "plain") -> None:
    """Prints plain text, its first line in the colour of the `tone`."""
    if is_styled(sys.stdout):
        from bot.cli.rich_cards import print_text

        print_text(text, tone, sys.stdout)
    else:
        click.echo(text)


def show_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def text_block(text: str) -> Lines:
    """Plain text as a part of a card."""
    return Lines([escape(line) for line in text.split("\n")])


class Ticker:
    """How far a command is, on stderr: a bar on a terminal, else a line twice a minute where there is something new.
    Called with a sentence on how far it is; "20 of 97 questions answered" moves the bar, anything else lets it
    swing. `done` before anything else is printed: it would stand in the bar's line."""

    def __init__(self) -> None:
        self._last = ""
        self._printed_at = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.done()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            self._move_bar(text)
        elif text != self._last and now - self._printed_at >= A_LINE_EVERY_S:
            click.echo(text, err=True)
            self._last, self._printed_at = text, now

    def keep(self, text: str) -> None:
        """Prints a line that stays."""
        if self._bar:
            self._bar[0].console.print(text)
        else:
            click.echo(text, err=True)

    def done(self) -> None:
        """Takes the bar away and shows the cursor again; the next call draws a new one."""
        if self._bar:
            self._bar[0].stop()
            self._bar = None

    def _move_bar(self, text: str) -> None:
        progress, task = self._bar = self._bar or _new_bar()
        share = _SHARE.match(text)
        done, total = (int(number.replace(",", "")) for number in share.groups()) if share else (0, None)
        progress.update(task, description=text, completed=done, total=total)


def _new_bar() -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        BarColumn(20),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False, markup=False, emoji=False),
        transient=True,
        redirect_stdout=False,  # else what goes into a pipe would come out on stderr
        redirect_stderr=False,
        refresh_per_second=1 / REDRAWN_EVERY_S,
    )
    progress.start()
    return progress, progress.add_task("", total=None)
