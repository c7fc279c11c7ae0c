"""Renders cards and text on a terminal with rich: colours, tables, and prose wrapped with a hanging indent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TextIO, assert_never

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text as Styled

from bot.cards.common.advice import MARKS
from bot.cards.common.blocks import (
    Actions,
    CardBlock,
    Chart,
    Divider,
    Facts,
    Headline,
    Lines,
    Note,
    Steps,
    Table,
    Text,
)
from bot.cards.common.terminal import Tone, plain_text
from bot.cards.datasets.findings import WORDS

WIDEST = 120  # columns; longer lines are hard to read
COLOURS: Mapping[Tone, str] = {"good": "green", "warning": "yellow", "bad": "red", "plain": ""}
# Beginnings of lines that are coloured.
BEGINNINGS: Mapping[str, str] = {
    WORDS["blocks"].capitalize(): "bold red",
    WORDS["warns"].capitalize(): "bold yellow",
    WORDS["tells"].capitalize(): "bold cyan",
    f"• {MARKS['go']}": "green",
    f"• {MARKS['no_go']}": "red",
    f"• {MARKS['unknown']}": "yellow",
    "ok ": "green",
    "problem ": "bold red",
    "Next:": "bold",
}
_MARKED = re.compile(r"\*([^*\n]+)\*|`([^`\n]+)`")
# A wrapped line is indented to the text after the last gap of a line in columns, or after its bullet.
_INDENT = re.compile(r"(?:.*\S {2,}|\s*)(?:[•→] )?")


def print_card(parts: Iterable[CardBlock], tone: Tone, stream: TextIO) -> None:
    _print(_renderables(parts, COLOURS[tone]), stream)


def print_text(text: str, tone: Tone, stream: TextIO) -> None:
    first, *others = text.split("\n")
    lines = [_with_hanging_indent(Styled(first, style=f"bold {COLOURS[tone]}"))]
    for line in others:
        lines.append(_with_hanging_indent(_colour_beginning(Styled(line))))
    _print([Group(*lines)], stream)


def _print(paragraphs: Sequence[RenderableType], stream: TextIO) -> None:
    # Otherwise rich would colour numbers, and read brackets in people's data as markup.
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    console.width = min(console.width, WIDEST)
    for at, paragraph in enumerate(paragraphs):
        if at:
            console.print()
        console.print(paragraph)


def _renderables(parts: Iterable[CardBlock], colour: str) -> list[RenderableType]:
    """What a terminal can show of these parts."""
    shown = []
    for part in parts:
        renderable = _renderable(part, colour)
        if renderable is not None:
            shown.append(renderable)
    return shown


def _renderable(part: CardBlock, colour: str) -> RenderableType | None:
    match part:
        case Headline():
            return Styled(part.text, style=f"bold {colour}")
        case Text():
            return Group(*_lines(part.mrkdwn.split("\n")))
        case Note():
            return Group(*_lines(part.mrkdwn.split("\n"), "dim"))
        case Lines():
            return Group(*_lines(part.with_rest))
        case Facts():
            return Padding(_facts(part), (0, 0, 0, 2))
        case Table():
            return _table(part)
        case Chart() | Steps():
            return Group(*_renderables(part.otherwise, colour))
        case Divider() | Actions():
            return None
    assert_never(part)


def _lines(lines: Iterable[str], style: str = "") -> Iterator[RenderableType]:
    for line in lines:
        text = _colour_beginning(_style_mrkdwn(line))
        # Before, so that bold and code within the line keep their own style.
        text.stylize_before(style)
        yield _with_hanging_indent(text)


def _facts(facts: Facts) -> Grid:
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in facts.pairs:
        grid.add_row(f"{plain_text(name)}:", _style_mrkdwn(value))
    return grid


def _table(table: Table) -> Grid:
    """Left-aligns the first column and right-aligns the others."""
    head, *body = table.rows
    grid = Grid(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    names, *figures = head
    grid.add_column(Styled(names), overflow="fold")
    for name in figures:
        grid.add_column(Styled(name), justify="right", overflow="fold")
    for row in body:
        grid.add_row(*map(Styled, row))
    return grid


def _with_hanging_indent(line: Styled) -> RenderableType:
    match = _INDENT.match(line.plain)
    if match is None:
        return line
    indent = match.end()
    if not indent or indent == len(line.plain):
        return line
    grid = Grid.grid(expand=False)
    grid.add_column(width=cell_len(line.plain[:indent]), no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(line[:indent], line[indent:])
    return grid


def _style_mrkdwn(mrkdwn: str) -> Styled:
    """Renders mrkdwn's bold and code, and drops its other markup."""
    text = Styled()
    at = 0
    for match in _MARKED.finditer(mrkdwn):
        text.append(plain_text(mrkdwn[at : match.start()]))
        is_bold = match[1] is not None
        text.append(plain_text(match[0]), "bold" if is_bold else "cyan")
        at = match.end()
    return text.append(plain_text(mrkdwn[at:]))


def _colour_beginning(line: Styled) -> Styled:
    for beginning, style in BEGINNINGS.items():
        if line.plain.startswith(beginning):
            line.stylize(style, 0, len(beginning))
    return line
