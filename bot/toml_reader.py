"""Typed values out of a TOML file; a mistake is noted with file, line, section and key. Knows no setting."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from trainers.money import is_payable

# A place: keys, and for the rows of [[a.b]] their numbers from 0: ("a", "b", 0, "c").
KeyPath = tuple[str | int, ...]
Lines = Mapping[KeyPath, int]

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
    line_by_path: dict[KeyPath, int] = {}
    rows: dict[KeyPath, int] = {}
    here: KeyPath = ()
    for line, statement in _statements(text):
        if _ROW.match(statement):
            path = _keys(f"{statement.strip()[1:-1]}")
            here = _within(path[:-1], rows) + path[-1:]
            rows[here] = rows.get(here, -1) + 1
            here += (rows[here],)
            line_by_path[here] = line
        elif _TABLE.match(statement):
            here = _within(_keys(statement), rows)
            line_by_path.setdefault(here, line)
        else:
            line_by_path.setdefault(here + _keys(_key_of(statement) + " = 0"), line)
    return line_by_path


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each header and each key with its value, without comments, and the line on which it begins."""
    line, depth, began, sentence = 1, 0, 1, ""
    for piece in _PIECE.findall(text):
        if not sentence.strip():
            began, sentence = line, ""
        depth += (piece in "[{") - (piece in "]}") if len(piece) == 1 else 0
        if piece == "\n" and depth == 0:
            if sentence.strip():
                yield began, sentence
            sentence = ""
        elif not piece.startswith("#"):
            sentence += piece
        line += piece.count("\n")
    if sentence.strip():
        yield began, sentence


def _key_of(statement: str) -> str:
    """What stands before the first '=' that is in no quotes."""
    for piece in re.finditer(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|=', statement):
        if piece[0] == "=":
            return statement[: piece.start()]
    return statement


def _keys(text: str) -> KeyPath:
    """The keys of one header or key, quotes and dots as tomllib reads them."""
    table: Any = tomllib.loads(text.strip())
    path: list[str] = []
    while isinstance(table, dict) and table:
        (key,) = table
        path.append(key)
        table = table[key]
    return tuple(path)


def _within(path: KeyPath, rows: Mapping[KeyPath, int]) -> KeyPath:
    """A table below [[a]] belongs to its newest row."""
    place: KeyPath = ()
    for key in path:
        place += (key,)
        if place in rows:
            place += (rows[place],)
    return place


_T = TypeVar("_T")


class Reader:
    """Takes typed values out of the TOML; notes what is wrong with file, line, section and key.

    `within` is where its table stands in the file; section "" is that table itself.
    """

    def __init__(
        self,
        file: str,
        table: Mapping[str, Any],
        problems: list[str],
        lines: Lines | None = None,
        within: KeyPath = (),
    ) -> None:
        self._file = file
        self._table = table
        self._lines = lines or {}
        self._within = within
        self.problems = problems

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._table)

    def part(self, key: str) -> Reader:
        """The table below `key`; an empty one where there is none. What is no table at the top `check_keys` says."""
        value = self._get("", key, {})
        if not isinstance(value, Mapping) and not self._within:
            value = {}
        elif not isinstance(value, Mapping):
            value = self._wrong("", key, f"a section of its own, [{self._title((*self._within, key))}]", {})
        return Reader(self._file, value, self.problems, self._lines, (*self._within, key))

    def parts(self, key: str) -> tuple[Reader, ...]:
        """The tables of [[key]], in the file's order."""
        result = self._get("", key, [])
        if not isinstance(result, list) or not all(isinstance(item, Mapping) for item in result):
            result = self._wrong("", key, f"a row each, [[{self._title((*self._within, key))}]]", [])
        return tuple(
            Reader(self._file, item, self.problems, self._lines, (*self._within, key, number))
            for number, item in enumerate(result)
        )

    def text(self, section: str, key: str, default: str) -> str:
        value = self._get(section, key, default)
        return value if isinstance(value, str) else self._wrong(section, key, 'text, like "abc"', default)

    def texts(self, section: str, key: str) -> tuple[str, ...]:
        value = self._get(section, key, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        return self._wrong(section, key, 'a list of texts, like ["U123", "U456"]', ())

    def ids(self, section: str, key: str, kind: re.Pattern[str], wanted: str) -> tuple[str, ...]:
        names = self.texts(section, key)
        for name in [name for name in names if not kind.fullmatch(name)]:
            self.wrong(section, key, f"should be {wanted}, and {name!r} is none.")
        return names

    def wholes(self, section: str, key: str, *, lowest: int, highest: int) -> tuple[int, ...]:
        value = self._get(section, key, [])
        if isinstance(value, list) and all(type(item) is int and lowest <= item <= highest for item in value):
            return tuple(value)
        return self._wrong(section, key, f"a list of whole numbers from {lowest} to {highest}, like [4]", ())

    def whole(self, section: str, key: str, default: int, *, lowest: int, highest: int) -> int:
        value = self._get(section, key, default)
        if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
            return value
        return self._wrong(section, key, f"a whole number from {lowest} to {highest}", default)

    def whole_if_said(self, section: str, key: str, *, lowest: int, highest: int) -> int | None:
        if self._get(section, key, None) is None:
            return None
        return self.whole(section, key, lowest, lowest=lowest, highest=highest)

    def flag(self, section: str, key: str) -> bool:
        value = self._get(section, key, False)
        return value if isinstance(value, bool) else self._wrong(section, key, "true or false", False)

    def choice(self, section: str, key: str, choices: tuple[str, ...]) -> str:
        value = self._get(section, key, choices[0])
        if value in choices:
            return str(value)
        return self._wrong(section, key, "one of " + ", ".join(choices), choices[0])

    def table(self, section: str, key: str) -> Mapping[str, str]:
        value = self._get(section, key, {})
        if isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values()):
            return {str(name): item for name, item in value.items()}
        return self._wrong(section, key, 'a table of texts, like { name = "folder" }', {})

    def rows(self, section: str) -> Mapping[str, Mapping[str, Any]]:
        """The tables in a section; what else stands there is wrong."""
        rows = self._get("", section, {})
        if not isinstance(rows, Mapping):
            return self._wrong("", section, f"a section with a table a name, like [{section}.NAME]", {})
        for name in [name for name, row in rows.items() if not isinstance(row, Mapping)]:
            self._wrong(section, str(name), f"a table, like [{section}.NAME]", None)
        return {str(name): row for name, row in rows.items() if isinstance(row, Mapping)}

    def usd(self, section: str, key: str, default: str) -> Decimal:
        value = self._get(section, key, default)
        try:
            amount = Decimal(value) if type(value) in (str, int) else Decimal("NaN")
        except InvalidOperation:
            amount = Decimal("NaN")
        if is_payable(amount):
            return amount
        return self._wrong(section, key, 'US dollars in quotes, like "200.00"', Decimal(default))

    def check_keys(self, all_known: Mapping[str, tuple[str, ...]]) -> None:
        for section, names in all_known.items():
            table = self._table.get(section, {}) if section else self._table
            if not isinstance(table, Mapping):
                self._wrong("", section, f"a section of its own, [{section}]", None)
                continue
            for key in table:
                if key not in names:
                    near = difflib.get_close_matches(str(key), names, n=1)
                    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}."
                    self.problems.append(f"{self.where(section, str(key))} is not a setting; {hint}")

    def _get(self, section: str, key: str, default: Any) -> Any:
        table = self._table.get(section, {}) if section else self._table
        return table.get(key, default) if isinstance(table, Mapping) else default

    def _wrong(self, section: str, key: str, wanted: str, default: _T) -> _T:
        value = self._get(section, key, default)
        self.wrong(section, key, f"should be {wanted}, not {value!r}.")
        return default

    def wrong(self, section: str, key: str, text: str) -> None:
        """`text` goes on after the place: "should be …"."""
        self.problems.append(f"{self.where(section, key)} {text}")

    def where(self, section: str = "", key: str = "") -> str:
        """'finetune.toml, line 7: [people] quorum'; without a key, the table itself."""
        place = self._within + tuple(name for name in (section, key) if name)
        title = self._title(place[:-1] if key else place)
        line = next((self._lines[at] for at in (place, place[:-1]) if at in self._lines), None)
        file = f"{self._file}, line {line}" if line else self._file
        return f"{file}: " + " ".join([*([f"[{title}]"] if title else []), *([key] if key else [])])

    @staticmethod
    def _title(place: KeyPath) -> str:
        return ".".join(str(name) for name in place if isinstance(name, str))
