"""When it takes a word that personal data may leave for a vendor, and what such a word is."""

from __future__ import annotations

import pytest

from bot.rules.data_policy import PERSONAL_DATA, needs_waiver
from bot.rules.permissions import has_enough_words
from trainers.dataset.sensitive_data import PERSONAL


@pytest.mark.parametrize(
    ("codes", "stays_here", "needed"),
    [
        (["personal_data"], False, True),
        (["duplicate", "personal_data"], False, True),
        (["personal_data"], True, False),
        (["duplicate"], False, False),
        ([], False, False),
    ],
)
def test_only_personal_data_that_leaves_this_machine_needs_a_word(
    codes: list[str], stays_here: bool, needed: bool
) -> None:
    assert needs_waiver(codes, stays_here=stays_here) == needed


def test_the_code_is_the_one_that_the_check_finds() -> None:
    assert PERSONAL.code == PERSONAL_DATA


@pytest.mark.parametrize(
    ("reason", "is_refused"),
    [
        ("", True),
        ("   \n ", True),
        ("ok", True),
        ("it's fine", True),
        (". . . .", True),
        ("1 2 3 4", True),
        ("customers have agreed", False),
        ("the customers agreed, ticket LEGAL-12", False),
        ("Kunden haben zugestimmt", False),
    ],
)
def test_a_reason_is_a_few_words(reason: str, is_refused: bool) -> None:
    assert has_enough_words(reason) != is_refused
