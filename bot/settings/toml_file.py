"""A TOML file with the line of each key, so that a mistake can be reported with its line. Knows no particular
setting."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainers.typed_tables import KeyPath, title_of

Lines = Mapping[KeyPath, int]


@dataclass(frozen=True)
class TomlFile:
    """`problems` collects sentences about mistakes in the file."""

    name: str
    table: Mapping[str, Any]
    lines: Lines
    problems: list[str]

    def place(self, *path: str | int) -> str:
        """Returns where a key is, like 'finetune.toml, line 7: [people] quorum', or a table, like 'finetune.toml, line
        9: [policy.data]'. A key that is missing has its table's line."""
        if isinstance(self._value(path), Mapping):
            table_path = path
            key = ""
        else:
            table_path = path[:-1]
            key = str(path[-1])
        line = self.lines.get(path) or self.lines.get(path[:-1])
        file = f"{self.name}, line {line}" if line else self.name
        title = title_of(table_path)
        table = f"[{title}]" if title else ""
        return f"{file}: " + " ".join(filter(None, (table, key)))

    def note(self, text: str, *path: str | int) -> None:
        """Adds a problem. `text` continues the sentence after the place, like "should be …"."""
        self.problems.append(f"{self.place(*path)} {text}")

    def _value(self, path: KeyPath) -> Any:
        value: Any = self.table
        for part in path:
            try:
                value = value[part]
            except (LookupError, TypeError):
                return None
        return value


def line_numbers(text: str) -> Lines:
    """Returns the line of each key and table of a valid TOML text, counted from 1. A table's line is its header's."""
    line_by_path: dict[KeyPath, int] = {}
    rows: dict[KeyPath, int] = {}  # the newest row's index of each array of tables
    here: KeyPath = ()  # the table whose keys are read
    statement = ""
    start = 1
    # tomllib doesn't report lines. So lines are joined until they parse on their own, as a header or a key's value.
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            table = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # inside a value of several lines
        if statement.lstrip().startswith("["):
            here = _header(table, rows)
            line_by_path.setdefault(here, start)
        else:
            for path in _paths(table, here):
                line_by_path.setdefault(path, start)
        statement = ""
        start = number + 1
    return line_by_path


def _header(table: Any, rows: dict[KeyPath, int]) -> KeyPath:
    """Returns the path of a header's table: for [[a.b]] the next row; a table below [[a]] belongs to a's newest row."""
    path: KeyPath = ()
    while table:
        if isinstance(table, list):
            rows[path] = rows.get(path, -1) + 1
            return (*path, rows[path])
        if path in rows:
            path += (rows[path],)
        ((key, table),) = table.items()
        path += (key,)
    return path


def _paths(table: Mapping[str, Any], at: KeyPath) -> Iterator[KeyPath]:
    for key, value in table.items():
        yield (*at, key)
        if isinstance(value, Mapping):
            yield from _paths(value, (*at, key))
