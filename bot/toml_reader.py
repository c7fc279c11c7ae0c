"""Typed values out of a settings file; what is wrong is noted with file, section and key. Knows no setting."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from trainers.money import is_payable

_T = TypeVar("_T")


class Reader:
    """Takes typed values out of the TOML; notes what is wrong with file, section and key."""

    def __init__(self, file: str, table: Mapping[str, Any], problems: list[str]) -> None:
        self._file = file
        self._table = table
        self.problems = problems

    def text(self, section: str, key: str, default: str) -> str:
        value = self._get(section, key, default)
        return value if isinstance(value, str) else self._wrong(section, key, 'text, like "abc"', default)

    def texts(self, section: str, key: str) -> tuple[str, ...]:
        value = self._get(section, key, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        return self._wrong(section, key, 'a list of texts, like ["U123", "U456"]', ())

    def whole(self, section: str, key: str, default: int, *, lowest: int, highest: int) -> int:
        value = self._get(section, key, default)
        if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
            return value
        return self._wrong(section, key, f"a whole number from {lowest} to {highest}", default)

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
        for section, known in all_known.items():
            table = self._table.get(section, {}) if section else self._table
            if not isinstance(table, Mapping):
                self._wrong("", section, f"a section of its own, [{section}]", None)
                continue
            for key in table:
                if key not in known:
                    near = difflib.get_close_matches(str(key), known, n=1)
                    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
                    self.problems.append(f"{self.where(section, str(key))} is not a setting; {hint}")

    def _get(self, section: str, key: str, default: Any) -> Any:
        table = self._table.get(section, {}) if section else self._table
        return table.get(key, default) if isinstance(table, Mapping) else default

    def _wrong(self, section: str, key: str, wanted: str, default: _T) -> _T:
        value = self._get(section, key, default)
        self.problems.append(f"{self.where(section, key)} should be {wanted}, not {value!r}.")
        return default

    def where(self, section: str, key: str) -> str:
        return f"{self._file}: [{section}] {key}" if section else f"{self._file}: {key}"
