"""What the commands print. In a pipe, with NO_COLOR and on a dumb terminal it is plain text, the same bytes each time;
on a terminal rich, which is imported only then, adds colour, tables and wrapped prose."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal, TextIO

import click

from bot.cards.blocks import CardBlock, Lines, escape
from bot.cards.terminal import terminal_text

Tone = Literal["good", "warning", "bad", "plain"]


def is_styled(stream: TextIO) -> bool:
    """NO_COLOR as no-color.org has it: any value but an empty one."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def show(parts: Sequence[CardBlock], tone: Tone = "plain", *, err: bool = False) -> None:
    """Prints a card, its headline in the colour of the `tone`."""
    stream = sys.stderr if err else sys.stdout
    if is_styled(stream):
        from bot.cli.styled import print_card

        print_card(parts, tone, stream)
    else:
        click.echo(terminal_text(parts), err=err)


def show_text(text: str, tone: Tone = "plain") -> None:
    """Prints plain text, its first line in the colour of the `tone`."""
    if is_styled(sys.stdout):
        from bot.cli.styled import print_text

        print_text(text, tone, sys.stdout)
    else:
        click.echo(text)


def show_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def text_block(text: str) -> Lines:
    """Plain text as a part of a card."""
    return Lines([escape(line) for line in text.split("\n")])
