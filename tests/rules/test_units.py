"""Volumes of tokens and lengths of time, as people write and read them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bot.rules.units import Misread, format_months, format_tokens, parse_volume


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("10M", 10_000_000),
        ("10m tokens", 10_000_000),
        (" 10 M ", 10_000_000),
        ("2.5B", 2_500_000_000),
        ("300k", 300_000),
        ("1_000_000", 1_000_000),
        ("10,000,000", 10_000_000),
        ("10 million tokens a month", 10_000_000),
        ("10M tokens per month", 10_000_000),
        ("1 token", 1),
        ("1.5k", 1_500),
        ("0", 0),
    ],
)
def test_a_volume_is_read_as_people_write_it(text: str, count: int) -> None:
    assert parse_volume(text) == count


@pytest.mark.parametrize(
    "text",
    ["lots", "", "M", "-5M", "$25", "10Q", "2,5M", "1,00,000", "10.000.000", "1e9", "nan", "10M 20M", "٣M"],
)
def test_an_unreadable_volume_is_answered_with_examples(text: str) -> None:
    misread = parse_volume(text)
    assert isinstance(misread, Misread)
    assert "10M, 2.5B, 300k" in misread.sentence


@pytest.mark.parametrize("text", ["2000T", "999999999999999999B"])
def test_an_impossible_volume_is_refused(text: str) -> None:
    misread = parse_volume(text)
    assert isinstance(misread, Misread)
    assert "is too much: write at most 1,000T tokens" in misread.sentence


def test_half_a_token_is_refused() -> None:
    misread = parse_volume("1.0005k")
    assert isinstance(misread, Misread)
    assert "whole number" in misread.sentence


def test_an_odd_text_is_quoted_short_and_printable() -> None:
    misread = parse_volume("x" * 5000 + "\x1b[31m")
    assert isinstance(misread, Misread)
    assert len(misread.sentence) < 200
    misread = parse_volume("a\x1b[31m\u202eb")
    assert isinstance(misread, Misread)
    assert misread.sentence.isprintable()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999_999, "1M"),
        (12_345, "12.3k"),
        (3_623_189, "3.62M"),
        (10_000_000, "10M"),
        (2_500_000_000, "2.5B"),
        (10**15, "1,000T"),
    ],
)
def test_token_counts_are_shown_short(count: int, text: str) -> None:
    assert format_tokens(count) == text


@pytest.mark.parametrize(
    ("months", "text"),
    [
        ("0", "0 minutes"),
        ("0.000001", "under 1 minute"),
        ("0.00108695", "48 minutes"),
        ("0.01", "7 hours"),
        ("0.0014", "1 hour"),
        ("1.0869565", "33 days"),
        ("7.2", "7.2 months"),
        ("3", "3 months"),
        ("218.478", "18 years"),
    ],
)
def test_months_are_shown_in_the_unit_that_fits(months: str, text: str) -> None:
    assert format_months(Decimal(months)) == text
