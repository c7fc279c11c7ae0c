"""Numbers as people say them, table by table."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bot.cards import words
from bot.cards.blocks import Headline, Lines, cut, cut_mrkdwn, plain, slack_blocks
from bot.cards.estimate_details import payback_text
from tests.cards import builders


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "1 second"),
        (0.4, "1 second"),
        (1, "1 second"),
        (40, "40 seconds"),
        (89, "89 seconds"),
        (90, "2 minutes"),
        (61 * 60, "61 minutes"),
        (90 * 60, "1 h 30 min"),
        (2 * 3600, "2 hours"),
        (2 * 3600 + 300, "2 h 05 min"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (86_400 * 400, "400 days"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (780, 7_200, "13 minutes to 2 hours"),
        (360, 1_560, "6 to 26 minutes"),
        (40, 80, "40 to 80 seconds"),
        (1, 40, "1 second to 40 seconds"),
        (7_200, 10_800, "2 to 3 hours"),
        (5_700, 10_800, "1 h 35 min to 3 hours"),
        (5_700, 6_000, "1 h 35 min to 1 h 40 min"),
        (600, 610, "10 minutes"),
    ],
)
def test_ranges_of_time(low: float, high: float, said: str) -> None:
    assert words.duration_range(low, high) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(-600, "almost done"), (4, "almost done"), (240, "about 4 minutes left")]
)
def test_the_time_left(seconds: float, said: str) -> None:
    assert words.time_left(seconds) == said


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (-1, f"{'░' * 20} 0%"),
        (0.5, f"{'█' * 10}{'░' * 10} 50%"),
        (0.996, f"{'█' * 19}░ 99%"),
        (1, f"{'█' * 19}░ 99%"),
        (7, f"{'█' * 19}░ 99%"),
    ],
)
def test_a_bar_is_full_only_once_it_is_over(done: float, said: str) -> None:
    assert words.progress_bar(done) == said


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


def test_an_unknown_amount_is_said_to_be_unknown_and_a_zero_budget_is_a_number() -> None:
    assert (words.money(None), words.charge(None), words.money(0)) == ("unknown", "unknown", "$0.00")


@pytest.mark.parametrize(
    ("months", "said"),
    [
        (None, "never at this volume"),
        (Decimal(0), "at once"),
        (Decimal("0.0001"), "within a day"),
        (Decimal("0.2"), "in 6 days"),
        (Decimal(36), "in 3 years"),
    ],
)
def test_paying_back(months: Decimal | None, said: str) -> None:
    assert payback_text(months) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12_000, "12,000 rows")]
)
def test_counts(count: int, said: str) -> None:
    assert words.pluralize(count, "row") == said


def test_an_odd_plural_can_be_given() -> None:
    assert (words.pluralize(2, "reply", "replies"), words.pluralize(1, "reply", "replies")) == (
        "2 replies",
        "1 reply",
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [("smollm2", "smollm2"), ("HuggingFaceTB/SmolLM2-135M-Istruct", "HuggingFace…struct"), ("", "")],
)
def test_long_names_lose_their_middle(name: str, said: str) -> None:
    assert words.shorten(name, 18) == said
    assert len(words.shorten(name, 18)) <= 18


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ("1.004", "within 1% of the estimate"),
        ("1.04", "1.04 times the estimate"),
        ("2.28", "2.3 times the estimate"),
        ("2", "2 times the estimate"),
        ("140", "140 times the estimate"),
        ("0.43", "43% of the estimate"),
        ("0.0525", "1/19 of the estimate"),
    ],
)
def test_what_came_by_what_was_estimated(ratio: str, said: str) -> None:
    assert words.ratio_text(Decimal(ratio)) == said


@pytest.mark.parametrize(
    ("gain", "said"), [(0.14, "+14.0 points"), (-0.033, "−3.3 points"), (0.0, "+0.0 points")]
)
def test_points(gain: float, said: str) -> None:
    assert words.points(gain) == said


def test_intervals_shares_and_p() -> None:
    assert words.points_range(-0.06, 0.11) == "−6 to +11"
    assert words.share_with_interval(builders.result().tuned) == "85.7% (76–92%)"
    assert words.percent(1) == "100.0%"
    assert (words.p_value(4e-13), words.p_value(0.754)) == ("p < 0.001", "p = 0.754")


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("short", "short"),
        (" ", "–"),
        ("0123456789 and more", "01234567…"),
        ("ask <@U0ANA> now", "ask…"),
        ("a &amp; b and more", "a &amp;…"),
        ("abcde&amp; and more", "abcde…"),
        ("do `this now` and", "do `this`…"),
    ],
)
def test_cutting_leaves_no_half_of_anything(text: str, cut: str) -> None:
    assert cut_mrkdwn(text, 10).replace(" …", "…") == cut


def test_what_is_too_long_is_cut_to_the_very_limit() -> None:
    assert cut("0123456789", 10) == "0123456789"
    assert cut("0123456789a", 10) == "012345678…"
    assert len(slack_blocks([Headline("x" * 400)])[0]["text"]["text"]) == 150


def test_a_list_says_how_much_of_it_is_left_out() -> None:
    text = slack_blocks([Lines(["x" * 300] * 20)])[0]["text"]["text"]
    assert text.endswith("… and 11 more") and len(text) < 3_000
    assert slack_blocks([Lines(["a", "b"])])[0]["text"]["text"] == "a\nb"


def test_an_empty_plain_text_is_a_dash_since_slack_refuses_none() -> None:
    assert plain(" \u202e ", 20)["text"] == "–"


def test_no_difference_has_no_minus_sign() -> None:
    assert words.points(-0.0001) == "+0.0 points"
    assert words.points_range(-0.001, 0.05) == "+0 to +5"


@pytest.mark.parametrize(
    ("amount", "told"),
    [
        ("0", "$0"),
        ("0.004", "under 1 cent"),
        ("0.0449", "about $0.04"),
        ("0.996", "about $1.00"),
        ("4.73", "about $4.70"),
        ("9.96", "about $10"),
        ("23.47", "about $23"),
        ("99.6", "about $100"),
        ("195.37", "about $195"),
        ("208.91", "about $210"),
        ("1399", "about $1,400"),
        ("24948", "about $25,000"),
        ("-24948", "about minus $25,000"),
        ("-0.12", "about minus $0.12"),
    ],
)
def test_money_as_people_say_it(amount: str, told: str) -> None:
    assert words.about_usd(Decimal(amount)) == told


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        ("142.16", "262.43", "about $195 a month ($140 to $260)"),
        ("-12.2", "0", "about $195 a month (minus $12 to $0)"),
        ("194", "195", "about $195 a month ($190 to $200)"),
        ("198", "202", "about $195 a month"),
    ],
)
def test_money_with_its_range(low: str, high: str, told: str) -> None:
    assert words.about_usd(Decimal("195.37"), Decimal(low), Decimal(high), "a month") == told
