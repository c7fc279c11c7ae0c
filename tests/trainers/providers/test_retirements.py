"""When models are retired: by our rows, the dated list, a provider's answer, and a user's settings."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from trainers.providers.own_prices import read_own_prices
from trainers.providers.pricing import (
    PriceList,
    PriceRow,
    Retirement,
    find_prompted_price,
    find_retirement,
)
from trainers.providers.providers import ProviderProblems, load_providers
from trainers.types import Price

TODAY = date(2026, 11, 27)
PROVIDERS = load_providers()


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("gpt-4o", Retirement(date(2027, 1, 14), "gpt-6-luna")),
        ("openai/GPT-4o", Retirement(date(2027, 1, 14), "gpt-6-luna")),
        ("gpt-4o-2024-11-20", Retirement(date(2027, 1, 14), "gpt-6-luna")),
        ("gpt-4o-2024-05-13", Retirement(date(2026, 10, 23), "gpt-5.6-sol")),
        ("ft:gpt-4o-2024-08-06:acme::x", Retirement(date(2027, 1, 14), "gpt-6-luna")),
        ("o4-mini", Retirement(date(2026, 10, 23), "gpt-5.6-terra")),
        ("google/gemini-2.5-flash", Retirement(date(2026, 12, 1), "gemini-3.5-flash-lite")),
        ("deepseek-chat", Retirement(date(2026, 7, 24))),
        ("gpt-6-luna", None),
        ("azure/gpt-4o", None),
        ("local/smollm2-135m", None),
    ],
)
def test_a_model_has_an_end_and_a_successor(name: str, end: Retirement | None) -> None:
    assert find_retirement(name, PROVIDERS) == end


def test_a_providers_answer_wins_over_our_lists() -> None:
    rows = tuple(
        replace(row, shutdowns={"gpt-4o": date(2027, 3, 1), "gpt-6-luna": date(2029, 1, 1)})
        if row.name == "openai"
        else row
        for row in PROVIDERS
    )
    assert find_retirement("gpt-4o", rows) == Retirement(date(2027, 3, 1), "gpt-6-luna")
    assert find_retirement("openai/gpt-6-luna", rows) == Retirement(date(2029, 1, 1))
    assert find_retirement("groq/gpt-6-luna", rows) is None


def test_a_price_knows_when_its_model_ends() -> None:
    row = find_prompted_price("gpt-4o", PROVIDERS, (), TODAY)
    assert isinstance(row, PriceRow)
    assert (row.ends, row.successor, row.has_ended(TODAY)) == (date(2027, 1, 14), "gpt-6-luna", False)
    assert row.has_ended(date(2027, 1, 14))
    again = PriceList.from_json(PriceList((row,), TODAY).to_json())
    assert again.rows == (row,)


def test_a_users_own_end_wins() -> None:
    table = {"gpt-4o": {"input": "1", "output": "2", "ends": date(2028, 1, 1), "successor": "ours"}}
    row = find_prompted_price("gpt-4o", PROVIDERS, read_own_prices(table), TODAY)
    assert isinstance(row, PriceRow) and (row.ends, row.successor) == (date(2028, 1, 1), "ours")


@pytest.mark.parametrize(("key", "value"), [("ends", "2028-01-01"), ("successor", 5)])
def test_an_end_that_is_no_date_is_a_problem(key: str, value: object) -> None:
    with pytest.raises(ProviderProblems, match=rf"prices\.m\.{key}: should be"):
        read_own_prices({"m": {"input": "1", "output": "2", key: value}})


def test_a_deprecated_model_has_a_note() -> None:
    row = find_prompted_price("grok-2-1212", PROVIDERS, (), TODAY)
    assert isinstance(row, PriceRow) and row.note is not None
    assert row.note.startswith("genai-prices lists it as deprecated without a date")


def test_a_price_list_of_an_older_plan_has_no_ends() -> None:
    row = PriceRow("m", "prompted", Price(None, Decimal(1), None, Decimal(2)), "a list")
    text = PriceList((row,), TODAY).to_json()
    older = text.replace('"ends":null,', "").replace(',"successor":null', "")
    assert older != text and PriceList.from_json(older).rows[0].ends is None


def test_an_end_is_found_by_a_name_with_capital_letters() -> None:
    model = {"models": {"Acme/Big-7B": {"ends": date(2027, 3, 1), "aliases": ["Big"]}}}
    rows = load_providers({"acme": {"base_url": "https://acme.example/v1", **model}})
    for name in ("acme/Acme/Big-7B", "acme/acme/big-7b", "acme/BIG"):
        end = find_retirement(name, rows)
        assert end is not None and end.day == date(2027, 3, 1), name


@pytest.mark.parametrize(
    ("listed", "is_doubted"),
    [(frozenset(), False), (frozenset({"gpt-6.1-sol-2026-09-30"}), False), (frozenset({"gpt-7"}), True)],
)
def test_a_successor_that_its_makers_own_list_lacks_is_unconfirmed(
    listed: frozenset[str], is_doubted: bool
) -> None:
    row = next(row for row in load_providers() if row.name == "openai")
    end = find_retirement("gpt-5", [row.with_shutdowns({}, listed)])
    assert end is not None and end.successor == "gpt-6.1-sol"
    assert ("unconfirmed, since the list of models of OpenAI has no gpt-6.1-sol" in end.said_by) is is_doubted


@pytest.mark.parametrize(
    ("model", "is_doubtful"), [("gpt-5", False), ("gpt-5-nano", True), ("o3", True), ("gpt-5-pro", True)]
)
def test_a_successor_that_no_page_of_its_maker_confirms_is_doubtful(model: str, is_doubtful: bool) -> None:
    row = find_prompted_price(f"openai/{model}", PROVIDERS, (), date(2026, 11, 30))
    assert isinstance(row, PriceRow) and row.ends_said_by is not None
    assert row.is_successor_doubtful is is_doubtful
    assert ("unconfirmed" in row.ends_said_by) is is_doubtful
    stored = PriceList((row,), TODAY).to_json()
    assert PriceList.from_json(stored).rows == (row,) and ("doubtful" in stored) is is_doubtful
