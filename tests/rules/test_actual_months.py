"""What a month's calls cost and would have cost, worked by hand; and how often a holdout was looked at."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from bot.rules.bills import Rates, Speed, Tokens, Traffic
from bot.rules.calibration import CallTotals, alternative_usd, share_of_month, tuned_calls_usd
from bot.rules.facts import SPENT_LOOKS, count_looks
from bot.rules.roi import Inputs, Training, Usage

GPT_4O = Rates("gpt-4o", Decimal("2.50"), Decimal("10.00"), "a list")
VENDOR = Rates("openai/tuned", Decimal("0.20"), Decimal("0.80"), "a list")
OWN = Rates("local/tiny", Decimal(0), Decimal(0), "you", usd_per_hour=Decimal(2), on_own_machine=True)
USE = CallTotals(1000, 200_000, 5_000)
# Today's prompt has 300 tokens where the tuned model's has 100; both answer with 5.
INPUTS = Inputs(
    monthly_input_tokens=1_000_000,
    usage=Usage(requests=10, prompt_before=3000, prompt_after=1000, output=50),
    now=GPT_4O,
    tuned=VENDOR,
    training=Training(tokens=1, epochs=1, usd_per_million=Decimal(0)),
    today=date(2026, 11, 24),
)
ALL, HALF = Decimal(1), Decimal("0.5")


@pytest.mark.parametrize(
    ("rates", "traffic", "share", "usd"),
    [
        (VENDOR, Traffic(), ALL, "0.044"),  # 0.2 x $0.20 + 0.005 x $0.80
        (VENDOR, Traffic(batch_share=ALL), HALF, "0.044"),  # by the token, whatever the share
        (OWN, Traffic(), ALL, "1460"),  # 730 hours
        (OWN, Traffic(), HALF, "730"),
        (
            OWN,
            Traffic(speed=Speed(Decimal(100), Decimal("0.2"))),
            HALF,
            "5.69444",
        ),  # 205,000 / 20 / 3600 x $2
    ],
    ids=["vendor", "no batches", "a machine all month", "half a month", "by use"],
)
def test_the_calls_cost_what_the_estimate_s_rules_say(
    rates: Rates, traffic: Traffic, share: Decimal, usd: str
) -> None:
    assert tuned_calls_usd(USE, rates, traffic, share) == pytest.approx(Decimal(usd), rel=Decimal("0.00001"))


def test_the_alternative_reads_its_own_longer_prompt() -> None:
    # 600,000 tokens at $2.50 and 5,000 at $10.00
    assert alternative_usd(USE, INPUTS, ALL) == Decimal("1.55")
    measured = replace(INPUTS, tuned_tokens=Tokens(20, 3000, 100))
    assert alternative_usd(USE, measured, ALL) == Decimal("1.05")  # 150 a prompt: twice as long


def test_no_calls_cost_nothing_but_the_machine() -> None:
    assert (
        tuned_calls_usd(CallTotals(), VENDOR, Traffic(), ALL)
        == 0
        == alternative_usd(CallTotals(), INPUTS, ALL)
    )
    assert tuned_calls_usd(CallTotals(), OWN, Traffic(), HALF) == 730


def moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("month", "spans", "share"),
    [
        ("2026-11", [("2026-10-01", "2026-12-24")], "1"),
        ("2026-11", [("2026-11-16", "2026-12-24")], "0.5"),
        ("2026-12", [("2026-11-16", "2026-12-01")], "0"),
        ("2026-06", [("2026-06-01", "2026-06-04"), ("2026-06-28", "2026-07-05")], "0.2"),
    ],
)
def test_the_share_of_a_month_in_use(month: str, spans: list[tuple[str, str]], share: str) -> None:
    assert share_of_month(month, [(moment(since), moment(until)) for since, until in spans]) == Decimal(share)


def test_looks_at_an_earlier_holdout_count_for_the_rows_that_stay() -> None:
    counts, sizes = {"one": 8, "two": 3}, {"one": 100, "two": 200}
    assert count_looks("one", 100, {"one": 8}, sizes).count == 8
    assert count_looks("two", 200, counts, sizes).count == 7  # 3, and 8 at half of the rows
    assert count_looks("three", 0, counts, sizes).count == 0
    spent = count_looks("one", 100, {"one": SPENT_LOOKS}, sizes)
    assert spent.are_spent and not count_looks("two", 200, {"one": SPENT_LOOKS}, sizes).are_spent
