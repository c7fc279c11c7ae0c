"""Monthly volumes, as people write and read them: requests, or input tokens."""

from __future__ import annotations

from fractions import Fraction

import pytest

from bot.rules.units import (
    Misread,
    MonthlyVolume,
    Volume,
    format_requests,
    monthly_volume,
    parse_request_volume,
    parse_volume,
)


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("20k requests", Volume(20_000, "requests")),
        ("20,000 requests a month", Volume(20_000, "requests")),
        ("20000requests", Volume(20_000, "requests")),
        ("20k-requests", Volume(20_000, "requests")),
        ("1 request", Volume(1, "requests")),
        ("700 tickets/month", Volume(700, "requests")),
        ("1.5M calls per month", Volume(1_500_000, "requests")),
        ("3 million messages", Volume(3_000_000, "requests")),
        ("300 e-mails a month", Volume(300, "requests")),
        ("10M", Volume(10_000_000, "tokens")),
        ("10m tokens", Volume(10_000_000, "tokens")),
        (" 10 M ", Volume(10_000_000, "tokens")),
        ("2.5B", Volume(2_500_000_000, "tokens")),
        ("2,5M requests", Volume(2_500_000, "requests")),
        ("1,250M", Volume(1_250_000_000, "tokens")),
        ("300k", Volume(300_000, "tokens")),
        ("1_000_000 tokens", Volume(1_000_000, "tokens")),
        ("10,000,000 input tokens", Volume(10_000_000, "tokens")),
        ("10 million tokens a month", Volume(10_000_000, "tokens")),
        ("10M tokens per month", Volume(10_000_000, "tokens")),
        ("1 token", Volume(1, "tokens")),
        ("1.5k", Volume(1_500, "tokens")),
        ("0", Volume(0, "tokens")),
    ],
)
def test_a_volume_is_read_as_people_write_it(text: str, volume: Volume) -> None:
    assert parse_volume(text) == volume


@pytest.mark.parametrize("text", ["20.000 requests", "20.000", "1.500 tickets a month", "500.000 tokens"])
def test_a_point_that_may_separate_thousands_is_asked_back(text: str) -> None:
    misread = parse_volume(text)
    assert isinstance(misread, Misread)
    plain = text.replace(".", "").split(" ")[0]
    assert f"If thousands are meant, write {plain} or {int(plain):,}" in misread.sentence


def test_a_refusal_quotes_the_number_as_it_was_typed() -> None:
    misread = parse_volume("20.000requests")  # as the parser of commands hands on "volume=20.000 requests"
    assert isinstance(misread, Misread)
    assert misread.sentence.startswith("“20.000” has a point")
    too_much = parse_volume("2000T tokens")
    assert isinstance(too_much, Misread)
    assert too_much.sentence.startswith("“2000T” is too much")


@pytest.mark.parametrize("text", ["20000", "20,000", "1_000_000", "10,000,000 a month", "1"])
def test_a_bare_number_is_asked_back_with_both_readings(text: str) -> None:
    misread = parse_volume(text)
    assert isinstance(misread, Misread)
    assert "requests a month, or" in misread.sentence
    units = [reading.unit for reading in map(parse_volume, misread.readings) if isinstance(reading, Volume)]
    assert units == ["requests", "tokens"]


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("20000", Volume(20_000, "requests")),
        ("20k", Volume(20_000, "requests")),
        ("10M", Volume(10_000_000, "requests")),
        ("10M tokens", Volume(10_000_000, "tokens")),
        ("0", Volume(0, "requests")),
    ],
)
def test_in_a_field_for_requests_a_number_means_requests(text: str, volume: Volume) -> None:
    assert parse_request_volume(text) == volume


@pytest.mark.parametrize(
    "text",
    [
        *("lots", "", "M", "-5M", "$25", "10Q", "2,5555M", "1,00,000", "10.000.000", "1e9", "nan", "10M 20M"),
        *("٣M", "20k bananas", "20 mo", "requests", "20 requests a day", "tokens 10M"),
    ],
)
def test_an_unreadable_volume_is_answered_with_examples(text: str) -> None:
    misread = parse_volume(text)
    assert isinstance(misread, Misread)
    assert "like 20k requests, or its input tokens like 10M, 2.5B" in misread.sentence


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("2000T", "1,000T tokens"),
        ("999999999999999999B", "1,000T tokens"),
        ("2T requests", "1T requests"),
    ],
)
def test_an_impossible_volume_is_refused(text: str, most: str) -> None:
    misread = parse_volume(text)
    assert isinstance(misread, Misread)
    assert f"is too much: write at most {most} a month" in misread.sentence


@pytest.mark.parametrize("text", ["1.0005k", "1.0005k tokens", "0.5 requests"])
def test_half_a_token_or_request_is_refused(text: str) -> None:
    misread = parse_volume(text)
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
    ("volume", "text"),
    [
        (Volume(20_000, "requests"), "20,000 requests"),
        (Volume(1_234_567, "requests"), "1,234,567 requests"),
        (Volume(10_000_000, "tokens"), "10M tokens"),
        (Volume(12_345_678, "tokens"), "12,345,678 tokens"),
        (Volume(999, "tokens"), "999 tokens"),
        (Volume(0, "tokens"), "0 tokens"),
        (Volume(10**15, "tokens"), "1,000T tokens"),
    ],
)
def test_a_volume_is_read_back_as_it_is_shown(volume: Volume, text: str) -> None:
    assert volume.text == text
    assert parse_volume(volume.text) == parse_volume(volume.word) == volume


def test_requests_become_tokens_and_tokens_requests_by_the_tokens_of_a_request() -> None:
    a_request = Fraction(59_400, 1000)
    assert monthly_volume(Volume(20_000, "requests"), a_request) == MonthlyVolume(
        20_000, 1_188_000, "requests"
    )
    assert monthly_volume(Volume(1_188_000, "tokens"), a_request) == MonthlyVolume(
        20_000, 1_188_000, "tokens"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (950, "950"), (20_000, "20,000"), (169_492, "169,000"), (999_999, "1M"), (1_500_000, "1.5M")],
)
def test_numbers_of_requests_are_shown_short(count: int, text: str) -> None:
    assert format_requests(count) == text
