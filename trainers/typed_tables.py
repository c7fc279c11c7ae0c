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
from collections.abc import Callable, Mapping, Sequence
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
        return (
            (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )


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
                return f"is not a setting; {_nearest(str(self.path[-1]), self.names)}"
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
    is_bare = re.fullmatch(r"[\w-]+", name, re.ASCII)
    return name if is_bare else f'"{name}"'


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"valid names are {', '.join(names)}."


def read_table(kind: type[T], table: object, faults: list[Fault], at: KeyPath = (), **own: object) -> T:
    """Reads `table` into an instance of `kind` and appends all mistakes to `faults`. `own` are the fields that the
    caller sets.

    A field with an invalid value gets its default, or None. As in JSON, None counts as a missing key.
    """
    if not isinstance(table, Mapping):
        faults.append(Fault(at, "value", f"a section of its own, [{title_of(at)}]", table))
        table = {}
        faults = []  # its missing keys need not be reported as well
    value, keys = _read_fields(kind, table, faults, at, own)
    for key in table:
        if key not in keys:
            faults.append(Fault((*at, str(key)), "unknown", names=tuple(keys)))
    return value


def _read_fields(
    kind: type[T], table: Mapping[str, Any], faults: list[Fault], at: KeyPath, own: Mapping[str, object]
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
        has_default = field.default is not MISSING or field.default_factory is not MISSING
        if not reader.key.is_set_by_caller:
            read.append((field.name, has_default, reader))
    return tuple(read)


@cache
def reader_of(hint: Any) -> Reader:
    return Reader(hint)


class Reader:
    """Reads values of the type `hint`. `notes` is the metadata of its `Annotated`, the outermost last."""

    def __init__(self, hint: Any) -> None:
        notes: list[Any] = []
        while True:
            if get_origin(hint) is Annotated:
                hint, *more = get_args(hint)
                notes = more + notes
            elif get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
                (hint,) = (part for part in get_args(hint) if part is not NoneType)
            else:
                break
        self.notes = tuple(notes)
        self.key = next((note for note in reversed(notes) if isinstance(note, Key)), Key())
        self.kind = self.key.input_type or hint
        self.origin = get_origin(self.kind)
        self.arguments = get_args(self.kind)
        self.section: type[Any] | None = None
        if isinstance(self.kind, type) and is_dataclass(self.kind):
            self.section = self.kind
        self.choices: tuple[str, ...] = ()
        if self.origin is Literal:
            self.choices = self.arguments
        self.limits = next((note for note in notes if isinstance(note, Limits)), None)
        self.pattern = next((note for note in notes if isinstance(note, re.Pattern)), None)

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
            shown = INVALID if self.key.is_secret else value
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
                faults.append(Fault(path, "item", self.wants(path), value, reader.choices))
            else:
                items.append(item)
                faults += own  # of the keys inside a table
        return items

    def _rows(self, table: Mapping[str, Any], path: KeyPath, faults: list[Fault]) -> dict[str, Any]:
        names = reader_of(self.arguments[0])
        rows = reader_of(self.arguments[1])
        result = {}
        for name, raw in table.items():
            place = (*path, str(name))
            own: list[Fault] = []
            if names.read(name, place, own) is not INVALID:
                row = rows.read(raw, place, faults)
                if row is not INVALID:
                    result[name] = row
            elif names.choices:
                faults.append(Fault(place, "unknown", names=names.choices))
            else:
                faults.append(Fault(place, "key", own[0].wants))
        return result

    def _scalar(self, value: Any) -> Any:
        if self.choices:
            is_choice = isinstance(value, str) and value in self.choices
            return value if is_choice else INVALID
        result = value
        if self.kind is not Any:
            types, convert, _ = _SCALARS.get(self.kind, ((), None, ""))
            if type(value) not in types:
                return INVALID
            try:
                result = convert(value) if convert else value
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
            noun = _SCALARS[self.kind][2]

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


def _dollars(value: Any) -> Decimal:
    amount = Decimal(value)
    if not is_payable(amount):
        raise ValueError(value)
    return amount


# For each type: the input types accepted, the conversion, and the description of valid values. Booleans are not
# accepted as numbers, nor floats as money, since their last digits are already lost.
_SCALARS: Mapping[Any, tuple[tuple[type, ...], Callable[[Any], Any] | None, str]] = {
    bool: ((bool,), None, "true or false"),
    str: ((str,), None, 'text, like "abc"'),
    int: ((int,), None, "a whole number"),
    float: ((int, float, Decimal), float, "a number"),
    date: (
        (date, datetime),
        lambda value: date(value.year, value.month, value.day),
        "a day without quotes, like 2027-01-14",
    ),
    Decimal: ((int, str, Decimal), _dollars, 'US dollars in quotes, like "200.00"'),
}
