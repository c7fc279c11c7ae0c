"""Reads a TOML table or a JSON body into a frozen dataclass, guided by the annotations of its fields, and collects all
faults.

Each field is read from the key of its name. Plain types, Literal, Optional, lists (tuple, frozenset), tables (Mapping),
dates, money and other dataclasses are supported; `Limits`, a compiled pattern and `Key` in `Annotated` express the
rest. JSON that our own code has stored is read by json_values, which does not validate.

Pydantic is not used because its import takes 60 to 140 ms, which the bot and its command line would pay at each start.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from trainers.money import is_payable

T = TypeVar("T")
# Keys from the outermost table inwards; items of a list are numbered from 0.
KeyPath = tuple[str | int, ...]
INVALID: Any = object()


@dataclass(frozen=True)
class Limits:
    """Limits of a number, named as in pydantic."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def allow(self, number: float) -> bool:
        """True if the number is within the limits; False for NaN if there are any."""
        # Written as "not >=" and so on, because every comparison with NaN is false.
        if self.ge is not None and not number >= self.ge:
            return False
        if self.gt is not None and not number > self.gt:
            return False
        if self.le is not None and not number <= self.le:
            return False
        return self.lt is None or number < self.lt


@dataclass(frozen=True)
class Key:
    """What the type and limits of a field can't express.

    `name` is the key, if it differs from the field. `wants` completes "should be". `required` makes the key required
    and describes it. `convert` converts the value that was read, which has the type `input_type` if that differs from
    the field's; it may raise ValueError. `is_inline`: the keys of this dataclass are in the surrounding table itself.
    `is_set_by_caller`: the field is not read but set by the caller. `is_secret`: faults don't repeat the value.
    """

    name: str | None = None
    wants: str | None = None
    required: str | None = None
    input_type: Any = None
    convert: Callable[[Any], Any] | None = None
    is_inline: bool = False
    is_set_by_caller: bool = False
    is_secret: bool = False


SET_BY_CALLER = Key(is_set_by_caller=True)


@dataclass(frozen=True)
class Fault:
    """A mistake at `path`, where `value` was given. `names` are the valid names, for an unknown key or item."""

    path: KeyPath
    kind: Literal["value", "item", "key", "unknown", "missing", "conflict"]
    wants: str = ""
    value: Any = None
    names: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Completes a sentence that begins with the path."""
        match self.kind:
            case "unknown":
                name = str(self.path[-1])
                return f"is not a setting; {_nearest(name, self.names)}"
            case "missing":
                return f"is missing: {self.wants}."
            case "item":
                text = f"should be {self.wants}, but {self.value!r} is not one"
                if not self.names:
                    return f"{text}."
                return f"{text}; {_nearest(str(self.value), self.names)}"
            case "key":
                return f"should be {self.wants}."
            case "conflict":
                return self.wants
        if self.value is INVALID:  # a secret, which is not repeated
            return f"should be {self.wants}."
        return f"should be {self.wants}, not {self.value!r}."


def title_of(path: KeyPath) -> str:
    """Returns a path as a TOML header writes it: 'policy.data', 'prices."acme/gpt-x"'."""
    names = [part for part in path if isinstance(part, str)]
    return ".".join(map(_quoted, names))


def _quoted(name: str) -> str:
    """Returns a key as TOML writes it: in quotes, unless it is a bare key."""
    if re.fullmatch(r"[\w-]+", name, re.ASCII):
        return name
    return f'"{name}"'


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"valid names are {', '.join(names)}."


def read_table(
    kind: type[T],
    table: object,
    faults: list[Fault],
    at: KeyPath = (),
    **own: object,
) -> T:
    """Reads `table` into an instance of `kind` and appends all mistakes to `faults`. `own` are the fields that the
    caller sets.

    A field with an invalid value gets its default, or None. As in JSON, None counts as a missing key.
    """
    if not isinstance(table, Mapping):
        wants = f"a section of its own, [{title_of(at)}]"
        faults.append(Fault(at, "value", wants, table))
        table = {}
        faults = []  # its missing keys need not be reported as well
    value, keys = _read_fields(kind, table, faults, at, own)
    for key in table:
        if key not in keys:
            path = (*at, str(key))
            faults.append(Fault(path, "unknown", names=tuple(keys)))
    return value


def _read_fields(
    kind: type[T],
    table: Mapping[str, Any],
    faults: list[Fault],
    at: KeyPath,
    own: Mapping[str, object],
) -> tuple[T, list[str]]:
    """Returns the instance and the keys that it can be read from."""
    values = dict(own)
    keys: list[str] = []
    for name, has_default, reader in _fields(kind):  # type: ignore[arg-type]  # a class, which can be hashed
        if reader.section and reader.key.is_inline:
            values[name], more = _read_fields(reader.section, table, faults, at, {})
            keys += more
            continue
        key = reader.key.name or name
        keys.append(key)
        path = (*at, key)
        raw = table.get(key)
        value = INVALID
        if raw is not None:
            value = reader.read(raw, path, faults)
        elif reader.key.required:
            faults.append(Fault(path, "missing", reader.key.required))

        if value is not INVALID:
            values[name] = value
        elif has_default:
            pass
        elif reader.section:
            # An empty table reports the keys that the section requires.
            values[name] = read_table(reader.section, {}, faults, path)
        else:
            values[name] = None
    return kind(**values), keys


@cache
def _fields(kind: type[Any]) -> tuple[tuple[str, bool, Reader], ...]:
    """Returns the fields that are read from a table: name, whether it has a default, and reader."""
    hints = get_type_hints(kind, include_extras=True)
    read: list[tuple[str, bool, Reader]] = []
    for field in fields(kind):
        reader = reader_of(hints[field.name])
        has_factory = field.default_factory is not MISSING
        has_default = has_factory or field.default is not MISSING
        if not reader.key.is_set_by_caller:
            read.append((field.name, has_default, reader))
    return tuple(read)


@cache
def reader_of(hint: Any) -> Reader:
    return Reader(hint)


class Reader:
    """Reads values of the type `hint`. `notes` is the metadata of its `Annotated`, the outermost last."""

    def __init__(self, hint: Any) -> None:
        hint, notes = _unwrap(hint)
        self.notes = tuple(notes)
        self.key = _note_of(Key, reversed(notes)) or Key()
        self.kind = self.key.input_type or hint
        self.origin = get_origin(self.kind)
        self.arguments = get_args(self.kind)
        self.section: type[Any] | None = None
        if isinstance(self.kind, type) and is_dataclass(self.kind):
            self.section = self.kind
        self.choices: tuple[str, ...] = ()
        if self.origin is Literal:
            self.choices = self.arguments
        self.limits = _note_of(Limits, notes)
        self.pattern: re.Pattern[str] | None = _note_of(re.Pattern, notes)

    def read(self, value: Any, path: KeyPath, faults: list[Fault]) -> Any:
        """Returns the converted value. An invalid value is appended to `faults`, and INVALID is returned."""
        result: Any
        if self.section and isinstance(value, Mapping):
            result = read_table(self.section, value, faults, path)
        elif self.origin in (tuple, frozenset) and isinstance(value, list):
            result = self.origin(self._items(value, path, faults))
        elif self.origin is Mapping and isinstance(value, Mapping):
            result = self._rows(value, path, faults)
        else:
            result = self._scalar(value)
        if self.key.convert and result is not INVALID:
            try:
                result = self.key.convert(result)
            except ValueError:
                result = INVALID
        if result is INVALID:
            shown = value
            if self.key.is_secret:
                shown = INVALID
            faults.append(Fault(path, "value", self.wants(path), shown))
        return result

    def _items(self, values: list[Any], path: KeyPath, faults: list[Fault]) -> list[Any]:
        """Reads a list. An invalid scalar is reported as a fault of the list, which describes what is expected."""
        reader = reader_of(self.arguments[0])
        items = []
        for number, value in enumerate(values):
            own: list[Fault] = []
            item = reader.read(value, (*path, number), own)
            if item is INVALID:
                fault = Fault(path, "item", self.wants(path), value, reader.choices)
                faults.append(fault)
            else:
                items.append(item)
                faults += own  # of the keys inside a table
        return items

    def _rows(
        self,
        table: Mapping[str, Any],
        path: KeyPath,
        faults: list[Fault],
    ) -> dict[str, Any]:
        names, rows = map(reader_of, self.arguments)
        result = {}
        for name, raw in table.items():
            row_path = (*path, str(name))
            own: list[Fault] = []
            if names.read(name, row_path, own) is not INVALID:
                row = rows.read(raw, row_path, faults)
                if row is not INVALID:
                    result[name] = row
            elif names.choices:
                faults.append(Fault(row_path, "unknown", names=names.choices))
            else:
                faults.append(Fault(row_path, "key", own[0].wants))
        return result

    def _scalar(self, value: Any) -> Any:
        if self.choices:
            if isinstance(value, str) and value in self.choices:
                return value
            return INVALID
        result = value
        if self.kind is not Any:
            scalar = _SCALARS.get(self.kind)
            if scalar is None or type(value) not in scalar.types:
                return INVALID
            try:
                result = scalar.convert(value)
            except (ValueError, ArithmeticError):
                return INVALID
        if self.limits is not None and not self.limits.allow(result):
            return INVALID
        if self.pattern is not None and not self.pattern.fullmatch(result):
            return INVALID
        return result

    def wants(self, path: KeyPath = ()) -> str:
        """Describes valid values; completes "should be"."""
        if self.key.wants:
            return self.key.wants
        if self.section or self.origin is Mapping:
            return f"a section of its own, [{title_of(path)}]"
        if self.choices:
            noun = f"one of {', '.join(self.choices)}"
        elif self.arguments and reader_of(self.arguments[0]).section:
            return f"a table [[{title_of(path)}]] for each"
        elif self.arguments:
            return 'a list of texts, like ["abc", "def"]'
        else:
            noun = _SCALARS[self.kind].wants

        limits = self.limits
        if limits is None:
            return noun
        if limits.gt is None and limits.lt is None:
            return f"{noun} from {limits.ge} to {limits.le}"
        if limits.gt is None:
            return f"{noun} from {limits.ge} to below {limits.lt}"
        if limits.le is None:
            return f"{noun} above {limits.gt}"
        return f"{noun} above {limits.gt}, at most {limits.le}"


def _unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """Returns the type without `Annotated` and `| None`, and its notes, the outermost last."""
    notes: list[Any] = []
    while True:
        arguments = get_args(hint)
        if get_origin(hint) is Annotated:
            hint, *more = arguments
            notes = more + notes
        elif get_origin(hint) in (Union, UnionType) and NoneType in arguments:
            (hint,) = (part for part in arguments if part is not NoneType)
        else:
            return hint, notes


def _note_of(kind: type[T], notes: Iterable[Any]) -> T | None:
    """Returns the first of these notes that is of this kind, or None."""
    for note in notes:
        if isinstance(note, kind):
            return note
    return None


@dataclass(frozen=True)
class _Scalar:
    """A type of single values: the input types that are accepted, the conversion, which may raise ValueError or
    ArithmeticError, and the description of valid values."""

    types: tuple[type, ...]
    convert: Callable[[Any], Any]
    wants: str


def _unchanged(value: Any) -> Any:
    return value


def _day(value: date) -> date:
    return date(value.year, value.month, value.day)


def _dollars(value: Any) -> Decimal:
    amount = Decimal(value)
    if not is_payable(amount):
        raise ValueError(value)
    return amount


# Booleans are not accepted as numbers, nor floats as money, since their last digits are already lost.
_SCALARS: Mapping[Any, _Scalar] = {
    bool: _Scalar((bool,), _unchanged, "true or false"),
    str: _Scalar((str,), _unchanged, 'text, like "abc"'),
    int: _Scalar((int,), _unchanged, "a whole number"),
    float: _Scalar((int, float, Decimal), float, "a number"),
    date: _Scalar((date, datetime), _day, "a day without quotes, like 2027-01-14"),
    Decimal: _Scalar((int, str, Decimal), _dollars, 'US dollars in quotes, like "200.00"'),
}


_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)
_NUMBER = re.compile(r"(?=[.0-9])[0-9]{0,9}(\.[0-9]{1,20})?(e-?[0-9]{1,2})?", re.ASCII)


def parse_number(text: str) -> int | float | None:
    """Reads numbers like '8', '0.1' and '5e-4'. Returns None for any other text."""
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return None
