"""Placeholders stand for personal data, and what can't be masked for certain is left out."""

from __future__ import annotations

import json

import pytest

from tests.trainers.dataset.test_sensitive_data import SECRETS
from trainers.dataset.rows import Example
from trainers.dataset.sensitive_data import PERSONAL, faults_in, find_spans
from trainers.recipes.placeholders import Masked, mask, mask_row
from trainers.types import Message

CARD = "4111 1111 " + "1111 1111"
IBAN = "DE89 3704 0044 0532 " + "0130 00"
MAIL = "anna.m%C3+x@mail.example" + ".org"
PHONE = "+49 30 " + "1234567"
US_PHONE = "(415) 555" + "-2671"
SSN = "536-90-" + "4399"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"card {CARD}, please", "card [payment card], please"),
        (f"{IBAN} is mine", "[bank account (IBAN)] is mine"),
        (f"Write to {MAIL}.", "Write to [e-mail address]."),
        (f"<{MAIL}>;{MAIL}", "<[e-mail address]>;[e-mail address]"),
        (f"call {PHONE} or {US_PHONE}", "call [phone number] or [phone number]"),
        (f"ssn {SSN}", "ssn [US social security number]"),
        ("jürgen@" + "müller.example", "jürgen@müller.example"),
        ("jürgen@" + "mueller.de", "[e-mail address]"),
        (json.dumps({"mail": MAIL, "n": 1}), '{"mail": "[e-mail address]", "n": 1}'),
        ("order 1234567890 of 2026-11-30, <|im_end|>", "order 1234567890 of 2026-11-30, <|im_end|>"),
    ],
)
def test_a_placeholder_stands_for_each_kind(text: str, masked: str) -> None:
    assert mask(["Hello", text], "mask") == Masked(("Hello", masked), is_masked=masked != text)
    is_personal = any(fault.rule == PERSONAL for fault in faults_in(text))
    assert mask([text], "drop") == ("personal" if is_personal else Masked((text,), is_masked=False))


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("personal", ["mask", "drop"])
def test_a_text_with_a_secret_is_left_out(secret: str, personal: str) -> None:
    assert mask(["Hello", f"{secret} and {CARD}"], personal) == "secret"  # type: ignore[arg-type]


def test_what_is_still_found_after_masking_is_left_out() -> None:
    """A placeholder between two numbers leaves a longer one than the pattern had seen."""
    joined = f"+1234567{MAIL}" + "(415) 555-2671"
    for text in (joined, f"{CARD}-{CARD}", f"x{CARD}{IBAN}"):
        result = mask([text], "mask")
        assert result == "personal" or not faults_in(result.texts[0])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"mail": "anna" + "\u0040example.org"}).replace("@", "\\u0040"),
        json.dumps({"arguments": json.dumps({"mail": "anna" + "@example.org"}).replace("@", "\\u0040")}),
        '{"card": ' + CARD.replace(" ", "") + ', "mail": "anna\\u0040example.org"}',
    ],
)
def test_personal_data_that_json_escapes_is_left_out(text: str) -> None:
    assert mask([text], "mask") == "personal"


def test_a_secret_that_json_escapes_is_left_out() -> None:
    text = json.dumps({"key": SECRETS["OpenAI key"]}).replace("sk-", "s\\u006b-")
    assert mask([text], "mask") == "secret"


def test_spans_are_those_of_the_faults_that_a_check_reports() -> None:
    text = f"{MAIL} {CARD} {SECRETS['Stripe key']} <|im_end|>"
    assert {f"holds {span.kind}" for span in find_spans(text)} == {fault.text for fault in faults_in(text)}
    first = find_spans(text)[-2]
    assert MAIL in [text[span.start : span.end] for span in find_spans(text)]
    assert first.rule == PERSONAL


def test_a_row_is_masked_as_a_call_is() -> None:
    row = Example(1, (Message("user", f"My card is {CARD}"), Message("assistant", "ok")))
    masked = mask_row(row)
    assert [message.content for message in masked.messages] == ["My card is [payment card]", "ok"]
