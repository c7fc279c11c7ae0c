"""On which line of a TOML file each key and table stands, which tomllib doesn't tell. Reads what tomllib has read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

# A place: keys, and for the rows of [[a.b]] their numbers from 0: ("a", "b", 0, "c").
Place = tuple[str | int, ...]
Lines = Mapping[Place, int]

_PIECE = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''.*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*|[\[\]{}\n]|[^\[\]{}\n\"'#]+",
    re.DOTALL,
)
_ROW = re.compile(r"^\s*\[\[")
_TABLE = re.compile(r"^\s*\[")


def lines_of(text: str) -> Lines:
    """`text` is TOML that tomllib takes. Lines count from 1; a table's is that of its header."""
    found: dict[Place, int] = {}
    rows: dict[Place, int] = {}
    here: Place = ()
    for line, statement in _statements(text):
        if _ROW.match(statement):
            path = _keys(f"{statement.strip()[1:-1]}")
            here = _within(path[:-1], rows) + path[-1:]
            rows[here] = rows.get(here, -1) + 1
            here += (rows[here],)
            found[here] = line
        elif _TABLE.match(statement):
            here = _within(_keys(statement), rows)
            found.setdefault(here, line)
        else:
            found.setdefault(here + _keys(_key_of(statement) + " = 0"), line)
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each header and each key with its value, without comments, and the line on which it begins."""
    line, depth, began, said = 1, 0, 1, ""
    for piece in _PIECE.findall(text):
        if not said.strip():
            began, said = line, ""
        depth += (piece in "[{") - (piece in "]}") if len(piece) == 1 else 0
        if piece == "\n" and depth == 0:
            if said.strip():
                yield began, said
            said = ""
        elif not piece.startswith("#"):
            said += piece
        line += piece.count("\n")
    if said.strip():
        yield began, said


def _key_of(statement: str) -> str:
    """What stands before the first '=' that is in no quotes."""
    for piece in re.finditer(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|=', statement):
        if piece[0] == "=":
            return statement[: piece.start()]
    return statement


def _keys(text: str) -> Place:
    """The keys of one header or key, quotes and dots as tomllib reads them."""
    table: Any = tomllib.loads(text.strip())
    path: list[str] = []
    while isinstance(table, dict) and table:
        (key,) = table
        path.append(key)
        table = table[key]
    return tuple(path)


def _within(path: Place, rows: Mapping[Place, int]) -> Place:
    """A table below [[a]] belongs to its newest row."""
    place: Place = ()
    for key in path:
        place += (key,)
        if place in rows:
            place += (rows[place],)
    return place
