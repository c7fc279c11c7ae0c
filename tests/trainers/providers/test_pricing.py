"""Prices: prompted and tuned models, unknown names, a user's own prices, and frozen price lists."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from bot.rules.prices import missing_keys
from trainers.providers.own_prices import read_own_prices
from trainers.providers.pricing import (
    PriceList,
    PriceRow,
    UnknownPrice,
    find_prompted_price,
    tuned_price,
)
from trainers.providers.providers import ProviderProblems, ProviderRow, load_providers
from trainers.types import Price

TODAY = date(2026, 11, 24)
PROVIDERS = load_providers()


def provider(name: str) -> ProviderRow:
    return next(row for row in PROVIDERS if row.name == name)


def find_known(name: str, own: tuple[PriceRow, ...] = (), today: date = TODAY) -> PriceRow:
    row = find_prompted_price(name, PROVIDERS, own, today)
    assert isinstance(row, PriceRow), row
    return row


def find_unknown(name: str) -> UnknownPrice:
    row = find_prompted_price(name, PROVIDERS, (), TODAY)
    assert isinstance(row, UnknownPrice), row
    return row


def find_tuned(name: str, model: str) -> PriceRow:
    row = provider(name).model(model)
    assert row is not None
    return tuned_price(provider(name), row)


def test_who_only_serves_tuned_models_has_no_training_price_to_add() -> None:
    served = find_tuned("coreweave", "meta-llama/Llama-3.1-8B-Instruct")
    assert served.is_trained_elsewhere and served.price.training is None
    assert missing_keys(served) == ()
    trained = find_tuned("nebius", "meta-llama/Llama-3.1-8B-Instruct")
    assert not trained.is_trained_elsewhere
    assert "training" in missing_keys(trained)


@pytest.mark.parametrize(
    ("model", "price_in", "cached", "price_out"),
    [
        ("gpt-4.1-2025-04-14", "2.00", "0.50", "8.00"),
        ("gpt-4.1-mini-2025-04-14", "0.40", "0.10", "1.60"),
        ("gpt-4.1-nano-2025-04-14", "0.10", "0.025", "0.40"),
        ("gpt-4o-2024-08-06", "2.50", "1.25", "10.00"),
        ("gpt-4o-mini-2024-07-18", "0.15", "0.075", "0.60"),
        ("gpt-4o", "2.50", "1.25", "10.00"),
        (" openai/GPT-4o ", "2.50", "1.25", "10.00"),
    ],
)
def test_a_prompted_model_has_its_base_price(model: str, price_in: str, cached: str, price_out: str) -> None:
    row = find_known(model)
    assert row.price == Price(None, Decimal(price_in), Decimal(cached), Decimal(price_out))
    assert row.kind == "prompted"
    assert row.said_by.startswith("genai-prices ")
    assert "OpenAI" in row.said_by


def test_a_tuned_model_has_its_own_dated_price_also_by_the_name_of_a_fine_tune() -> None:
    """The prices of all models are in test_providers.test_shipped_prices_and_ends_are_exact."""
    row = find_tuned("openai", "gpt-4.1-mini-2025-04-14")
    assert row.price == Price(Decimal(5), Decimal("0.80"), Decimal("0.20"), Decimal("3.20"))
    assert row.kind == "tuned"
    assert row.as_of is not None and str(row.as_of) in row.said_by
    row = find_known("ft:gpt-4.1-mini-2025-04-14:acme::abc")
    assert (row.kind, row.price.input, row.price.output) == ("tuned", Decimal("0.80"), Decimal("3.20"))


def test_a_model_on_our_own_machine_costs_hours_but_no_tokens() -> None:
    row = find_known("local/smollm2-135m")
    assert row == find_tuned("local", "smollm2-135m")
    assert (row.price.input, row.price.output, row.usd_per_hour) == (Decimal(0), Decimal(0), Decimal(0))
    assert row.price.training is None


def test_a_price_that_is_in_no_list_is_unknown() -> None:
    row = find_tuned("nebius", "llama-3.1-8b")
    assert row.price == Price(None, None, None, None)


@pytest.mark.parametrize(
    ("model", "price_in", "price_out"),
    [
        ("gpt-6-luna", "0.1", "0.5"),
        ("claude-sonnet-4-5", "3", "15"),
        ("claude-sonnet-4-5-20250929", "3", "15"),
    ],
)
def test_a_tiered_price_is_that_of_an_ordinary_request(model: str, price_in: str, price_out: str) -> None:
    row = find_known(model)
    assert (row.price.input, row.price.output) == (Decimal(price_in), Decimal(price_out))
    assert row.note is not None
    assert "more than" in row.note


def test_a_price_depends_on_the_day() -> None:
    assert find_known("o3", today=date(2025, 6, 9)).price.input == Decimal(10)
    assert find_known("o3", today=date(2025, 6, 10)).price.input == Decimal(2)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("gpt-4oo", "gpt-4o"),
        ("gtp-4o", "gpt-4o"),
        ("gpt4o", "gpt-4o"),
        ("gpt-4o-2029-01-01", "gpt-4o-2024-05-13"),
        ("gpt-4o-mini-audio-nonsense", "gpt-4o-mini-audio-preview"),
        ("claude-sonnet-4-5-turbo-extra", "claude-sonnet-4-5"),
        ("smollm2-135m", "local/smollm2-135m"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_ones(name: str, nearest: str) -> None:
    row = find_unknown(name)
    assert nearest in row.nearest
    assert not any(listed.endswith("-") for listed in row.nearest), "no model has such a name"
    assert "Did you mean" in row.sentence and f'[prices."{name}"]' in row.sentence


def test_a_name_like_no_other_has_no_nearest_ones() -> None:
    row = find_unknown("…" * 500)
    assert row.nearest == ()
    assert len(row.sentence) < 300


def test_a_model_that_is_no_chat_model_is_not_free() -> None:
    assert "is not a chat model" in find_unknown("whisper-1").sentence
    assert "is not a chat model" in find_unknown("openai/text-embedding-3-small").sentence


def test_a_model_with_several_sellers_is_answered_with_these() -> None:
    row = find_unknown("llama-3.1-8b-instant")
    assert "groq/llama-3.1-8b-instant" in row.nearest
    assert find_known("groq/llama-3.1-8b-instant").price.input


def test_a_users_own_price_wins_over_the_list_and_makes_a_model_known() -> None:
    own = read_own_prices(
        {"gpt-4o": {"input": "2.00", "output": "8.00", "as_of": date(2026, 10, 1), "source": "our contract"}}
    )
    row = find_known("gpt-4o", own)
    assert row.price == Price(None, Decimal("2.00"), None, Decimal("8.00"))
    assert row.said_by == "our contract, 2026-10-01"
    own = read_own_prices({"our-gateway": {"input": "1", "output": "2", "cached_input": "0.1"}})
    assert find_known("our-gateway", own).price.cached_input == Decimal("0.1")


@pytest.mark.parametrize("typed", ["house/big", "HOUSE/Big", "house/big@low"])
def test_a_price_under_the_bare_name_is_also_that_of_the_providers_model(typed: str) -> None:
    own = read_own_prices({"big": {"input": "2", "output": "8"}})
    house = load_providers({"house": {"base_url": "http://127.0.0.1:9/v1", "abilities": ["chat"]}})
    row = find_prompted_price(typed, house, own, TODAY)
    assert isinstance(row, PriceRow)
    assert (row.model, row.price.input) == (typed, Decimal(2))
    assert isinstance(find_prompted_price("elsewhere/big", house, own, TODAY), UnknownPrice)


@pytest.mark.parametrize(
    ("as_of", "is_old"), [(date(2026, 5, 8), True), (date(2026, 6, 30), False), (None, False)]
)
def test_a_price_is_old_after_half_a_year(as_of: date | None, *, is_old: bool) -> None:
    row = PriceRow("a", "tuned", Price(None, None, None, None), "a page", as_of)
    assert row.is_old(date(2026, 11, 30)) is is_old


def test_all_problems_of_a_users_prices_are_reported_at_once() -> None:
    wrong = {
        "a": {"input": 2.5, "output": "-1", "inptu": "1"},
        "b": {"input": "cheap", "as_of": "yesterday", "source": 7},
    }
    with pytest.raises(ProviderProblems) as caught:
        read_own_prices(wrong)
    for key in ("a.input", "a.output", "a.inptu", "b.input", "b.output", "b.as_of", "b.source"):
        assert key in str(caught.value)


def test_a_price_list_survives_json() -> None:
    prices = PriceList(
        (
            find_known("claude-sonnet-4-5"),
            find_tuned("openai", "gpt-4o"),
            find_tuned("local", "smollm2-135m"),
        ),
        TODAY,
    )
    # Where prices come from and when a provider closes is of no use once a plan has its prices.
    stored = tuple(
        replace(row, prices_from="", closed_since=None, closed_to_new=None, closing_said_by="")
        for row in prices.rows
    )
    assert PriceList.from_json(prices.to_json()) == replace(prices, rows=stored)


def test_a_price_list_as_json_has_money_as_text_in_one_form() -> None:
    price = Price(Decimal("1E+2"), Decimal("0.10"), None, Decimal(1))
    text = PriceList((PriceRow("m", "tuned", price, "s"),), TODAY).to_json()
    row = json.loads(text)["rows"][0]
    assert (row["training"], row["input"], row["cached_input"], row["output"]) == ("100", "0.10", None, "1")
    assert PriceList.from_json(text).to_json() == text


def test_the_large_price_list_is_imported_only_when_needed() -> None:
    code = "import sys, trainers.providers.pricing; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_batches_have_the_lists_discount() -> None:
    assert find_known("gpt-4o").batch_discount == Decimal("0.5")
    assert find_known("gpt-4o", today=date(2026, 10, 1)).batch_discount is None, (
        "the list knows it since 2026-10-14"
    )
    assert find_known("local/smollm2-135m").batch_discount is None


def test_a_price_list_of_an_older_release_can_be_read() -> None:
    older = json.loads(PriceList((find_known("gpt-4o"),), TODAY).to_json())
    del older["rows"][0]["batch_discount"]
    assert PriceList.from_json(json.dumps(older)).rows[0].batch_discount is None
