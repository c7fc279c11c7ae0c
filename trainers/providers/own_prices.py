"""Reads the prices that a person wrote into finetune.toml, like

    [prices."gpt-4o"]
    input = "2.50"
    output = "10.00"

They take precedence over all lists. Looks nothing up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Annotated

from trainers.providers.pricing import PriceRow
from trainers.providers.providers import ProviderProblems
from trainers.typed_tables import Fault, Key, read_table
from trainers.types import Price

UNIT = 'USD per 1M tokens in quotes, like "2.50"'


@dataclass(frozen=True)
class PriceTable:
    """The table [prices."MODEL"] of finetune.toml."""

    input: Annotated[Decimal, Key(wants=UNIT, required=UNIT)]
    output: Annotated[Decimal, Key(wants=UNIT, required=UNIT)]
    cached_input: Annotated[Decimal | None, Key(wants=UNIT)] = None
    source: str = "your own price"
    as_of: date | None = None
    ends: date | None = None
    successor: str | None = None


def read_own_prices(tables: Mapping[str, object]) -> tuple[PriceRow, ...]:
    """Reads the user's [prices."MODEL"] tables: input and output in USD per 1M tokens, in quotes.

    Raises ProviderProblems with all mistakes, not only the first.
    """
    faults: list[Fault] = []
    rows = []
    for name, table in tables.items():
        table_row = read_table(PriceTable, table, faults, ("prices", name))
        price = Price(None, table_row.input, table_row.cached_input, table_row.output)
        row = PriceRow(
            model=name,
            kind="prompted",
            price=price,
            source=table_row.source,
            as_of=table_row.as_of,
            successor=table_row.successor,
        )
        if table_row.ends:
            row = replace(row, ends=table_row.ends, ends_said_by=row.said_by)
        rows.append(row)
    if faults:
        raise ProviderProblems(faults)
    return tuple(rows)
