"""Prints results and progress. In a pipe, with NO_COLOR, or on a dumb terminal the output is plain text, always the
same bytes. On a terminal rich, which is imported only then, adds colour, tables, wrapping and a progress bar."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from bot.cards.common.blocks import CardBlock, Lines, escape
from bot.cards.common.terminal import Tone, terminal_text
from bot.mcp.reports import Report

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

A_LINE_EVERY_S = 30.0
A_REPORT_EVERY_S = 1.0  # to a program, which shows the newest only
REDRAWN_EVERY_S = 0.25
_SHARE = re.compile(r"([0-9][0-9,]*) of ([0-9][0-9,]*) ")


def is_styled(stream: TextIO) -> bool:
    """True if the stream takes colours. NO_COLOR counts unless it is empty, as no-color.org says."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def hyperlink(address: str, text: str) -> str:
    """Returns a link for terminals, by the control sequence that most of them support (OSC 8)."""
    return f"\033]8;;{address}\033\\{text}\033]8;;\033\\"


def show(parts: Sequence[CardBlock], tone: Tone = "plain", *, err: bool = False) -> None:
    """Prints a card, with its headline in the colour of `tone`."""
    stream = sys.stderr if err else sys.stdout
    if is_styled(stream):
        from bot.cli.rich_cards import print_card

        print_card(parts, tone, stream)
    else:
        click.echo(terminal_text(parts), err=err)


def show_text(text: str, tone: Tone = "plain") -> None:
    """Prints plain text, with its first line in the colour of `tone`."""
    if is_styled(sys.stdout):
        from bot.cli.rich_cards import print_text

        print_text(text, tone, sys.stdout)
    else:
        click.echo(text)


def show_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def is_for_program() -> bool:
    """True with the hidden option --for-program, by which `finetune mcp` starts commands: the text is printed after the
    JSON then, and progress as one JSON object a line (bot/mcp/reports.py)."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().params.get("for_program"))


def wants_text(*, as_json: bool) -> bool:
    return not as_json or is_for_program()


def tell_program(report: Report) -> None:
    """Reports something to the program that started the command; tells a person nothing."""
    if is_for_program():
        click.echo(report.to_line(), err=True)


def text_block(text: str) -> Lines:
    """Returns plain text as a block of a card."""
    return Lines([escape(line) for line in text.split("\n")])


class Ticker:
    """Shows a command's progress on stderr: a bar on a terminal, otherwise a line at most twice a minute, or for a
    program a report at most every second.

    Call it with a sentence. "20 of 97 questions answered" moves the bar; any other text makes it pulse. Call `done`
    before printing anything else, which would otherwise land on the bar's line."""

    def __init__(self) -> None:
        self._last = ""
        self._printed_at = time.monotonic()
        self._reported_at = -A_REPORT_EVERY_S
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.done()

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if is_for_program():
            self._report(text, now)
        elif sys.stderr.isatty():
            self._move_bar(text)
        elif text != self._last and now - self._printed_at >= A_LINE_EVERY_S:
            click.echo(text, err=True)
            self._last = text
            self._printed_at = now

    def keep(self, text: str) -> None:
        """Prints a line that stays."""
        if is_for_program():
            tell_program(Report(progress=text))
        elif self._bar:
            self._bar[0].console.print(text)
        else:
            click.echo(text, err=True)

    def done(self) -> None:
        """Removes the bar and shows the cursor again. The next call draws a new bar."""
        if self._bar:
            self._bar[0].stop()
            self._bar = None

    def _report(self, text: str, now: float) -> None:
        if text == self._last or now - self._reported_at < A_REPORT_EVERY_S:
            return
        tell_program(Report(progress=text))
        self._last = text
        self._reported_at = now

    def _move_bar(self, text: str) -> None:
        progress, task = self._bar = self._bar or _new_bar()
        share = _SHARE.match(text)
        done = 0
        total = None
        if share:
            done, total = (int(number.replace(",", "")) for number in share.groups())
        progress.update(task, description=text, completed=done, total=total)


def _new_bar() -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        BarColumn(20),
        # Brackets in a text are not markup.
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False, markup=False, emoji=False),
        transient=True,
        redirect_stdout=False,  # otherwise output for a pipe would go to stderr
        redirect_stderr=False,
        refresh_per_second=1 / REDRAWN_EVERY_S,
    )
    progress.start()
    return progress, progress.add_task("", total=None)
