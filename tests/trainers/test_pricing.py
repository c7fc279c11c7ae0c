from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from decimal import Decimal

import pytest

from trainers.pricing import (
    PriceList,
    PriceRow,
    UnknownPrice,
    find_prompted_price,
    read_own_prices,
    tuned_price,
)
from trainers.providers import ProviderProblems, ProviderRow, load_providers
from trainers.types import Price

TODAY = date(2026, 11, 24)
PROVIDERS = load_providers()


def provider(name: str) -> ProviderRow:
    return next(row for row in PROVIDERS if row.name == name)


def known(name: str, own: tuple[PriceRow, ...] = (), today: date = TODAY) -> PriceRow:
    row = find_prompted_price(name, PROVIDERS, own, today)
    assert isinstance(row, PriceRow), row
    return row


def unknown(name: str) -> UnknownPrice:
    row = find_prompted_price(name, PROVIDERS, (), TODAY)
    assert isinstance(row, UnknownPrice), row
    return row


def tuned(name: str, model: str) -> PriceRow:
    row = provider(name).model(model)
    assert row is not None
    return tuned_price(provider(name), row)


@pytest.mark.parametrize(
    ("model", "price_in", "cached", "price_out"),
    [
        ("gpt-4.1-2025-04-14", "2.00", "0.50", "8.00"),
        ("gpt-4.1-mini-2025-04-14", "0.40", "0.10", "1.60"),
        ("gpt-4.1-nano-2025-04-14", "0.10", "0.025", "0.40"),
        ("gpt-4o-2024-08-06", "2.50", "1.25", "10.00"),
        ("gpt-4o-mini-2024-07-18", "0.15", "0.075", "0.60"),
        ("gpt-4o", "2.50", "1.25", "10.00"),
        (" GPT-4o ", "2.50", "1.25", "10.00"),
        ("openai/gpt-4o", "2.50", "1.25", "10.00"),
    ],
)
def test_a_prompted_model_has_its_base_price(model: str, price_in: str, cached: str, price_out: str) -> None:
    row = known(model)
    assert row.price == Price(None, Decimal(price_in), Decimal(cached), Decimal(price_out))
    assert row.kind == "prompted"
    assert row.said_by.startswith("genai-prices ")
    assert "OpenAI" in row.said_by


@pytest.mark.parametrize(
    ("model", "training", "price_in", "cached", "price_out"),
    [
        ("gpt-4.1-2025-04-14", "25", "3.00", "0.75", "12.00"),
        ("gpt-4.1-mini-2025-04-14", "5", "0.80", "0.20", "3.20"),
        ("gpt-4.1-nano-2025-04-14", "1.50", "0.20", "0.05", "0.80"),
        ("gpt-4o-2024-08-06", "25", "3.75", "1.875", "15.00"),
        ("gpt-4o-mini-2024-07-18", "3", "0.30", "0.15", "1.20"),
    ],
)
def test_a_tuned_model_has_its_own_price(
    model: str, training: str, price_in: str, cached: str, price_out: str
) -> None:
    row = tuned("openai", model)
    assert row.price == Price(Decimal(training), Decimal(price_in), Decimal(cached), Decimal(price_out))
    assert row.kind == "tuned"
    assert row.as_of is not None
    assert str(row.as_of) in row.said_by


def test_a_fine_tune_by_its_name_costs_what_tuned_models_cost() -> None:
    row = known("ft:gpt-4.1-mini-2025-04-14:acme::abc")
    assert (row.kind, row.price.input, row.price.output) == ("tuned", Decimal("0.80"), Decimal("3.20"))


def test_our_own_machine_costs_hours_and_no_tokens() -> None:
    row = known("local/smollm2-135m")
    assert row == tuned("local", "smollm2-135m")
    assert (row.price.input, row.price.output, row.usd_per_hour) == (Decimal(0), Decimal(0), Decimal(0))
    assert row.price.training is None


def test_a_price_that_nobody_told_us_stays_unknown() -> None:
    row = tuned("nebius", "llama-3.1-8b")
    assert row.price == Price(None, None, None, None)


@pytest.mark.parametrize(
    ("model", "price_in", "price_out"),
    [
        ("gpt-6-luna", "0.1", "0.5"),
        ("claude-sonnet-4-5", "3", "15"),
        ("claude-sonnet-4-5-20250929", "3", "15"),
    ],
)
def test_a_price_in_tiers_is_that_of_an_ordinary_request(model: str, price_in: str, price_out: str) -> None:
    row = known(model)
    assert (row.price.input, row.price.output) == (Decimal(price_in), Decimal(price_out))
    assert row.note is not None
    assert "more than" in row.note


def test_a_price_is_that_of_the_day() -> None:
    assert known("o3", today=date(2025, 6, 9)).price.input == Decimal(10)
    assert known("o3", today=date(2025, 6, 10)).price.input == Decimal(2)


@pytest.mark.parametrize("typo", ["gpt-4oo", "gtp-4o", "gpt4o"])
def test_a_typo_is_answered_with_the_nearest_name(typo: str) -> None:
    row = unknown(typo)
    assert "gpt-4o" in row.nearest
    assert "Did you mean" in row.sentence
    assert f'[prices."{typo}"]' in row.sentence


def test_a_name_that_the_list_only_begins_with_is_not_taken_for_it() -> None:
    assert unknown("gpt-4o-mini-audio-nonsense").nearest[0] == "gpt-4o-mini-audio-preview"
    assert unknown("claude-sonnet-4-5-turbo-extra").nearest[0] == "claude-sonnet-4-5"


def test_a_release_that_is_not_listed_has_no_price() -> None:
    assert "gpt-4o" in unknown("gpt-4o-2029-01-01").nearest[0]


def test_a_model_without_a_price_for_text_is_not_free() -> None:
    assert "is not a chat model" in unknown("whisper-1").sentence
    assert "is not a chat model" in unknown("openai/text-embedding-3-small").sentence


def test_a_model_that_several_sell_is_answered_with_the_sellers() -> None:
    row = unknown("llama-3.1-8b-instant")
    assert "groq/llama-3.1-8b-instant" in row.nearest
    assert known("groq/llama-3.1-8b-instant").price.input


def test_our_own_machine_without_its_prefix_is_near() -> None:
    assert "local/smollm2-135m" in unknown("smollm2-135m").nearest


def test_nonsense_has_no_neighbours() -> None:
    row = unknown("…" * 500)
    assert row.nearest == ()
    assert len(row.sentence) < 300


def test_the_users_own_price_wins_over_the_list() -> None:
    own = read_own_prices(
        {"gpt-4o": {"input": "2.00", "output": "8.00", "as_of": date(2026, 10, 1), "source": "our contract"}}
    )
    row = known("gpt-4o", own)
    assert row.price == Price(None, Decimal("2.00"), None, Decimal("8.00"))
    assert row.said_by == "our contract, 2026-10-01"


def test_a_price_of_the_users_makes_a_model_known() -> None:
    own = read_own_prices({"our-gateway": {"input": "1", "output": "2", "cached_input": "0.1"}})
    assert known("our-gateway", own).price.cached_input == Decimal("0.1")


def test_every_problem_of_the_users_prices_is_named_at_once() -> None:
    with pytest.raises(ProviderProblems) as found:
        read_own_prices(
            {
                "a": {"input": 2.5, "output": "-1", "inptu": "1"},
                "b": {"input": "cheap", "as_of": "yesterday", "source": 7},
            }
        )
    text = str(found.value)
    for part in (
        "a.input",
        "a.output",
        "a.inptu",
        "b.input",
        "b.output",
        "b.as_of",
        "b.source",
    ):
        assert part in text


def test_a_price_list_survives_being_frozen() -> None:
    prices = PriceList(
        (known("claude-sonnet-4-5"), tuned("openai", "gpt-4o"), tuned("local", "smollm2-135m")), TODAY
    )
    assert PriceList.from_json(prices.to_json()) == prices


def test_a_frozen_price_list_has_money_as_text_and_one_form() -> None:
    price = Price(Decimal("1E+2"), Decimal("0.10"), None, Decimal(1))
    text = PriceList((PriceRow("m", "tuned", price, "s"),), TODAY).to_json()
    row = json.loads(text)["rows"][0]
    assert (row["training"], row["input"], row["cached_input"], row["output"]) == ("100", "0.10", None, "1")
    assert PriceList.from_json(text).to_json() == text


def test_the_big_price_list_is_not_loaded_before_it_is_asked() -> None:
    code = "import sys, trainers.pricing; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_batch_is_cheaper_where_the_list_says_so() -> None:
    assert known("gpt-4o").batch_discount == Decimal("0.5")
    assert known("gpt-4o", today=date(2026, 10, 1)).batch_discount is None, (
        "the list knows it since 2026-10-14"
    )
    assert known("local/smollm2-135m").batch_discount is None


def test_a_list_that_was_kept_before_batches_were_known_is_read() -> None:
    row = known("gpt-4o")
    kept = json.loads(PriceList((row,), TODAY).to_json())
    assert PriceList.from_json(json.dumps(kept)).rows == (row,)
    del kept["rows"][0]["batch_discount"]
    assert PriceList.from_json(json.dumps(kept)).rows[0].batch_discount is None
