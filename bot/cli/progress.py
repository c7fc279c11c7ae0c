"""How far a command is, on stderr: a bar on a terminal, else a line twice a minute where there is something new."""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

A_LINE_EVERY_S = 30.0
REDRAWN_EVERY_S = 0.25
_SHARE = re.compile(r"([0-9][0-9,]*) of ([0-9][0-9,]*) ")


class Ticker:
    """Called with a sentence on how far it is; "20 of 97 questions answered" moves the bar, anything else lets it
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
