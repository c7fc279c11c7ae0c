"""A TOML file with the line of each key, so that a mistake can be shown where it stands. Knows no setting."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainers.typed_tables import KeyPath, title_of

Lines = Mapping[KeyPath, int]


@dataclass(frozen=True)
class TomlFile:
    """`problems` collects sentences about its keys."""

    name: str
    table: Mapping[str, Any]
    lines: Lines
    problems: list[str]

    def place(self, *path: str | int) -> str:
        """'finetune.toml, line 7: [people] quorum'; of a table or a row of them 'finetune.toml, line 9: [policy.data]'.
        What isn't in the file stands where its table does."""
        is_table = isinstance(self._value(path), Mapping)
        title = title_of(path if is_table else path[:-1])
        key = "" if is_table else str(path[-1])
        line = next((self.lines[at] for at in (path, path[:-1]) if at in self.lines), None)
        file = f"{self.name}, line {line}" if line else self.name
        return f"{file}: " + " ".join(filter(None, (f"[{title}]" if title else "", key)))

    def note(self, text: str, *path: str | int) -> None:
        """`text` goes on after the place: "should be …"."""
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
    """`text` is TOML that tomllib takes. Lines count from 1; a table's is that of its header."""
    line_by_path: dict[KeyPath, int] = {}
    rows: dict[KeyPath, int] = {}
    here: KeyPath = ()
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            table = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # a value of several lines, which goes on
        if statement.lstrip().startswith("["):
            here = _header(table, rows)
            line_by_path.setdefault(here, start)
        else:
            for path in _paths(table, here):
                line_by_path.setdefault(path, start)
        statement, start = "", number + 1
    return line_by_path


def _header(table: Any, rows: dict[KeyPath, int]) -> KeyPath:
    """Where a header's table stands: the next row of [[a.b]]; a table below [[a]] belongs to a's newest row."""
    path: KeyPath = ()
    while table:
        if isinstance(table, list):
            rows[path] = rows.get(path, -1) + 1
            return (*path, rows[path])
        path += (rows[path],) if path in rows else ()
        ((key, table),) = table.items()
        path += (key,)
    return path


def _paths(table: Mapping[str, Any], at: KeyPath) -> Iterator[KeyPath]:
    for key, value in table.items():
        yield (*at, key)
        if isinstance(value, Mapping):
            yield from _paths(value, (*at, key))
