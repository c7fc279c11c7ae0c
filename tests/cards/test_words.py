"""Numbers, times and amounts of money as people say them, and texts that are cut to a limit."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bot.cards.common import words
from bot.cards.common.blocks import Headline, Lines, cut, cut_mrkdwn, plain, slack_blocks
from bot.cards.common.candidates import looks_sentence
from bot.cards.common.payback import payback_text
from bot.cards.datasets.dataset_deletion import DeletionScope
from bot.cards.training import result_details
from bot.rules.facts import Looks
from tests.cards import builders


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1 second"),
        (89, "89 seconds"),
        (90, "2 minutes"),
        (90 * 60, "1 h 30 min"),
        (2 * 3600, "2 hours"),
        (2 * 3600 + 300, "2 h 05 min"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (780, 7_200, "13 minutes to 2 hours"),
        (360, 1_560, "6 to 26 minutes"),
        (1, 40, "1 second to 40 seconds"),
        (7_200, 10_800, "2 to 3 hours"),
        (5_700, 6_000, "1 h 35 min to 1 h 40 min"),
        (600, 610, "10 minutes"),
    ],
)
def test_ranges_of_time(low: float, high: float, text: str) -> None:
    assert words.duration_range(low, high) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-600, "almost done"),
        (4, "almost done"),
        (5, "about 5 seconds left"),
        (61, "about 60 seconds left"),
        (89.9, "about 85 seconds left"),
        (240, "about 4 minutes left"),
    ],
)
def test_the_time_left(seconds: float, text: str) -> None:
    assert words.time_left(seconds) == text


@pytest.mark.parametrize(
    ("done", "text"),
    [
        (-1, f"0% {'░' * 20}"),
        (0.5, f"50% {'█' * 10}{'░' * 10}"),
        (0.996, f"99% {'█' * 19}░"),
        (1, f"99% {'█' * 19}░"),
    ],
)
def test_a_progress_bar_is_never_full_before_the_end(done: float, text: str) -> None:
    assert words.progress_bar(done) == text


@pytest.mark.parametrize(
    ("micros", "charge", "at_most"),
    [
        (0, "no charge", "no charge"),
        (1, "under 1 cent", "under 1 cent"),
        (120_000, "$0.12", "up to $0.12"),
        (24_948_000_000, "$24,948", "up to $24,948"),
    ],
)
def test_charges(micros: int, charge: str, at_most: str) -> None:
    assert (words.charge(micros), words.at_most(micros)) == (charge, at_most)


def test_an_unknown_amount_is_called_unknown_and_zero_is_a_number() -> None:
    assert (words.money(None), words.charge(None), words.money(0)) == ("unknown", "unknown", "$0.00")


@pytest.mark.parametrize(
    ("months", "text"),
    [
        (None, "never at this volume"),
        (Decimal(0), "at once"),
        (Decimal("0.0001"), "within a day"),
        (Decimal("0.2"), "in 6 days"),
        (Decimal(36), "in 3 years"),
    ],
)
def test_paybacks(months: Decimal | None, text: str) -> None:
    assert payback_text(months) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12_000, "12,000 rows")]
)
def test_counts(count: int, text: str) -> None:
    assert words.pluralize(count, "row") == text


def test_an_irregular_plural_can_be_given() -> None:
    assert [words.pluralize(count, "reply", "replies") for count in (1, 2)] == ["1 reply", "2 replies"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("smollm2", "smollm2"), ("HuggingFaceTB/SmolLM2-135M-Istruct", "HuggingFace…struct"), ("", "")],
)
def test_long_names_lose_their_middle(name: str, text: str) -> None:
    assert words.shorten(name, 18) == text
    assert len(words.shorten(name, 18)) <= 18


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        ("1.004", "within 1% of the estimate"),
        ("1.04", "1.04 times the estimate"),
        ("2.28", "2.3 times the estimate"),
        ("0.43", "43% of the estimate"),
        ("0.0525", "1/19 of the estimate"),
    ],
)
def test_actual_amounts_as_a_ratio_of_the_estimate(ratio: str, text: str) -> None:
    assert words.ratio_text(Decimal(ratio)) == text


@pytest.mark.parametrize(
    ("gain", "text"), [(0.14, "+14.0 points"), (-0.033, "−3.3 points"), (-0.0001, "+0.0 points")]
)
def test_points(gain: float, text: str) -> None:
    assert words.points(gain) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.0003, 0.004, "0–1%"), (0.996, 0.999, "99–100%"), (0.41, 0.451, "41–45%"), (1.0, 1.0, "100–100%")],
)
def test_an_interval_never_rounds_to_a_single_number(low: float, high: float, text: str) -> None:
    assert words.interval(low, high) == text


def test_intervals_shares_and_p_values() -> None:
    assert words.points_range(-0.06, 0.11) == "−6 to +11"
    assert words.points_range(-0.001, 0.05) == "+0 to +5"
    assert words.share_with_interval(builders.result().tuned) == "85.7% (76–92%)"
    assert words.percent(1) == "100.0%"
    assert (words.p_value(4e-13), words.p_value(0.754)) == ("p &lt; 0.001", "p = 0.754")


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("short", "short"),
        (" ", "–"),
        ("0123456789 and more", "01234567…"),
        ("ask <@U0ANA> now", "ask…"),
        ("a &amp; b and more", "a &amp;…"),
        ("do `this now` and", "do `this`…"),
    ],
)
def test_cutting_never_splits_an_entity_a_mention_or_code(text: str, cut: str) -> None:
    assert cut_mrkdwn(text, 10).replace(" …", "…") == cut


def test_a_long_text_is_cut_exactly_to_the_limit() -> None:
    assert cut("0123456789", 10) == "0123456789"
    assert cut("0123456789a", 10) == "012345678…"
    assert len(slack_blocks([Headline("x" * 400)])[0]["text"]["text"]) == 150


def test_a_list_says_how_many_lines_it_leaves_out() -> None:
    text = slack_blocks([Lines(["x" * 300] * 20)])[0]["text"]["text"]
    assert text.endswith("… and 11 more") and len(text) < 3_000
    assert slack_blocks([Lines(["a", "b"])])[0]["text"]["text"] == "a\nb"
    assert slack_blocks([Lines(["a"], left_out=1_041)])[0]["text"]["text"] == "a\n… and 1,041 more"


def test_an_empty_plain_text_becomes_a_dash() -> None:
    assert plain(" \u202e ", 20)["text"] == "–"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0"),
        ("0.004", "under 1 cent"),
        ("0.01472", "about $0.01"),
        ("0.025", "about $0.03"),
        ("0.0449", "about $0.04"),
        ("0.1449", "about $0.14"),
        ("0.996", "about $1.00"),
        ("9.96", "about $10"),
        ("195.37", "about $195"),
        ("1399", "about $1,400"),
        ("-24948", "about minus $25,000"),
        ("-0.12", "about minus $0.12"),
    ],
)
def test_rounded_amounts_of_money(amount: str, text: str) -> None:
    assert words.about_usd(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        ("142.16", "262.43", "about $195 a month ($140 to $260)"),
        ("-12.2", "0", "about $195 a month (minus $12 to $0)"),
        ("194", "195", "about $195 a month ($190 to $200)"),
        ("198", "202", "about $195 a month"),
    ],
)
def test_rounded_amounts_of_money_with_their_range(low: str, high: str, text: str) -> None:
    assert words.about_usd(Decimal("195.37"), Decimal(low), Decimal(high), "a month") == text


def test_the_details_of_a_result_leave_out_steps_that_nobody_counted() -> None:
    shown = str(result_details.details(builders.plan(), builders.result(steps=0)))
    assert "Training loss" in shown and "0 steps" not in shown


@pytest.mark.parametrize(
    ("runs", "measurements", "text"),
    [(0, 0, "2 versions"), (1, 0, "2 versions and 1 run"), (1, 3, "2 versions, 1 run and 3 measurements")],
)
def test_a_deletion_counts_only_what_there_is(runs: int, measurements: int, text: str) -> None:
    assert DeletionScope("tickets", (1, 2), True, runs, measurements).with_it == text


def test_long_names_stay_different_when_they_are_shortened() -> None:
    start = "Complaint about the delivery of a parcel to a neighbour"
    names = (
        f"{start}, wrong day, without being asked before",
        f"{start}, wrong house, without being asked before",
    )
    short = words.shorten_apart((*names, "refund"), 60)
    assert len(set(short)) == 3 and all(len(name) <= 60 for name in short)
    assert "wrong day" in short[0] and "wrong house" in short[1] and short[2] == "refund"


def test_names_that_differ_at_their_ends_keep_beginning_and_end() -> None:
    names = (f"{'a' * 60} case A", f"{'a' * 60} case B")
    assert words.shorten_apart(names, 40) == [words.shorten(name, 40) for name in names]


def test_the_cost_of_a_claim_is_in_what_is_scored() -> None:
    assert "needs at least 183 right to show 85% (180 at first)" in looks_sentence(Looks(3, 200))
    fields = looks_sentence(Looks(3, 200, scoring="json"))
    assert "needs up to 91.5% of fields to show 85% (90.0% at first)" in fields
