"""Tables are read by annotations: each entry is a value of its type or a fault with its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from trainers.typed_tables import SET_BY_CALLER, Fault, Key, Limits, read_table, title_of


@dataclass(frozen=True)
class Inner:
    name: Annotated[str, re.compile("[a-z]+"), Key(required="its name", wants="small letters")]
    level: Literal["low", "high"] = "low"


@dataclass(frozen=True)
class Prices:
    low: Decimal | None
    high: Decimal | None


def halved(count: int) -> int:
    if count % 2:
        raise ValueError(count)
    return count // 2


@dataclass(frozen=True)
class Outer:
    title: Annotated[str, SET_BY_CALLER]
    prices: Annotated[Prices, Key(is_inline=True)]
    pairs: Annotated[int, Key("count", convert=halved, wants="an even number")] = 0
    share: Annotated[float, Limits(gt=0, le=1)] = 0.5
    key: Annotated[str | None, re.compile("[A-Z]+"), Key(is_secret=True, wants="the name of a key")] = None
    day: date | None = None
    inner: Inner | None = None
    rows: tuple[Inner, ...] = ()
    words: frozenset[Literal["one", "two"]] = frozenset()
    amounts: Mapping[str, Decimal] = field(default_factory=dict)


KEYS = ("low", "high", "count", "share", "key", "day", "inner", "rows", "words", "amounts", "level", "name")
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.dates(), st.datetimes()
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES | st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_any_table_can_be_read_and_each_fault_has_a_sentence(table: Any) -> None:
    faults: list[Fault] = []
    outer = read_table(Outer, table, faults, title="t")
    assert isinstance(outer.pairs, int) and isinstance(outer.share, float) and 0 < outer.share <= 1
    assert all(isinstance(row, Inner) for row in outer.rows) and outer.words <= {"one", "two"}
    assert all(fault.text.endswith((".", "?")) and isinstance(title_of(fault.path), str) for fault in faults)
    assert isinstance(table, dict) or faults


def test_values_are_read_by_their_types() -> None:
    faults: list[Fault] = []
    table = {
        "low": "0.10",
        "high": 2,
        "count": 4,
        "share": 1,
        "key": "ABC",
        "day": date(2027, 1, 2),
        "inner": {"name": "a"},
        "rows": [{"name": "b", "level": "high"}],
        "words": ["two"],
        "amounts": {"x": "5"},
    }
    assert read_table(Outer, table, faults, title="t") == Outer(
        *("t", Prices(Decimal("0.10"), Decimal(2)), 2, 1.0, "ABC", date(2027, 1, 2), Inner("a")),
        *((Inner("b", "high"),), frozenset({"two"}), {"x": Decimal(5)}),
    )
    assert faults == []


def test_each_fault_is_reported_with_its_path_and_the_expected_value() -> None:
    faults: list[Fault] = []
    table = {
        "low": 0.5,
        "count": 3,
        "share": 2,
        "key": "sk-secret",
        "day": "today",
        "titel": 1,
        "words": ["too"],
        "inner": {"level": "top"},
        "rows": [{"name": "B"}, 5],
        "amounts": {"x": "lots"},
    }
    read_table(Outer, table, faults, title="t")
    assert [f"{title_of(fault.path)} {fault.text}" for fault in faults] == [
        'low should be US dollars in quotes, like "200.00", not 0.5.',
        "count should be an even number, not 3.",
        "share should be a number above 0, at most 1, not 2.",
        "key should be the name of a key.",
        "day should be a day without quotes, like 2027-01-14, not 'today'.",
        "inner.name is missing: its name.",
        "inner.level should be one of low, high, not 'top'.",
        "rows.name should be small letters, not 'B'.",
        "rows should be a table [[rows]] for each, but 5 is not one.",
        'words should be a list of texts, like ["abc", "def"], but \'too\' is not one; did you mean two?',
        "amounts.x should be US dollars in quotes, like \"200.00\", not 'lots'.",
        "titel is not a setting; valid names are low, high, count, share, key, day, inner, rows, words, amounts.",
    ]
