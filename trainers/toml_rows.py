"""Takes typed values out of one TOML table of a provider or a model, and notes what cannot be taken."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import TypeVar, get_args

from trainers.money import is_payable
from trainers.types import Ability, Hyperparameter

_ABILITIES: tuple[Ability, ...] = get_args(Ability)
_T = TypeVar("_T")


class TomlRow:
    """`where` is the table's name as it stands in the file; `problems` collects sentences."""

    def __init__(self, where: str, table: Mapping[str, object], problems: list[str]) -> None:
        self.where = where
        self._rest = dict(table)
        self._known: list[str] = []
        self._problems = problems

    def take(self, key: str) -> object:
        self._known.append(key)
        return self._rest.pop(key, None)

    def text(self, key: str) -> str | None:
        return self._typed(key, str, 'text in quotes, like "abc"')

    def variable(self, key: str) -> str | None:
        """A variable's name. What is none may be the key itself: it is not repeated in the message."""
        value = self.text(key)
        if value is None or re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            return value
        self._problem(key, "should name the environment variable that holds the key, like OPENAI_API_KEY")
        return None

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._typed(key, list, 'a list of texts, like ["abc", "def"]') or []
        wrong = [value for value in values if not isinstance(value, str)]
        if wrong:
            self._problem(key, f"{wrong[0]!r} is not text in quotes")
        return tuple(value for value in values if isinstance(value, str))

    def day(self, key: str) -> date | None:
        value = self._typed(key, date, "a day without quotes, like 2027-01-14")
        return value.date() if isinstance(value, datetime) else value

    def positive(self, key: str) -> int | float | Decimal | None:
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or value <= 0:
            self._problem(key, f"should be a number above 0, not {value!r}")
            return None
        return value

    def whole(self, key: str) -> int | None:
        value = self.take(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            return value
        self._problem(key, f"should be a whole number above 0, not {value!r}")
        return None

    def flag(self, key: str) -> bool | None:
        return self._typed(key, bool, "true or false")

    def money(self, key: str) -> Decimal | None:
        value = self.take(key)
        if value is None:
            return None
        amount = _decimal(value)
        if amount is None or not is_payable(amount):
            self._problem(key, f'should be US dollars in quotes, like "2.50", not {value!r}')
            return None
        return amount

    def base_url(self) -> str:
        value = self.text("base_url")
        if value is None:
            self._problem("base_url", 'is missing: the address of the API, like "https://gpu-box.example/v1"')
        elif value and not value.startswith(("http://", "https://")):
            self._problem("base_url", f"should start with https:// (or http://), not {value!r}")
        return (value or "").rstrip("/")

    def abilities(self) -> frozenset[Ability]:
        names = self.texts("abilities")
        for name in names:
            if name not in _ABILITIES:
                self._problem("abilities", f"{name!r} is not an ability{_nearest(name, _ABILITIES)}")
        return frozenset(ability for ability in _ABILITIES if ability in names)

    def hyperparameters(self, key: str) -> Mapping[str, Hyperparameter]:
        values: Mapping[str, object] = self._typed(key, dict, "a table, like { lora = true }") or {}
        taken: dict[str, Hyperparameter] = {}
        for name, value in values.items():
            if isinstance(value, Decimal):
                taken[name] = float(value)
            elif isinstance(value, int | float | str):
                taken[name] = value
            else:
                self._problem(f"{key}.{name}", f"should be a number, true, false or text, not {value!r}")
        return taken

    def report_other_keys(self) -> None:
        for key in self._rest:
            self._problem(key, f"is not a key of such a row{_nearest(key, self._known)}")

    def _typed(self, key: str, kind: type[_T], wanted: str) -> _T | None:
        value = self.take(key)
        if value is None or isinstance(value, kind):
            return value
        self._problem(key, f"should be {wanted}, not {value!r}")
        return None

    def _problem(self, key: str, what: str) -> None:
        self._problems.append(f"{self.where}.{key}: {what}{'' if what.endswith('?') else '.'}")


def _decimal(value: object) -> Decimal | None:
    """None for a float: its last digits are already lost."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        return Decimal(value)
    except InvalidOperation:
        return None


def _nearest(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; there are {', '.join(known)}"
