"""Whose word lets personal data leave for a vendor."""

from __future__ import annotations

import pytest

from bot.decisions.approval import Person, Policy
from bot.decisions.waiving import PERSONAL_DATA, is_no_reason, may_waive, needs_waiver
from trainers.dataset.rules.sensitive import PERSONAL

POLICY = Policy(frozenset({"U_BOSS", "U_DATA"}))


def denied(person: Person | None, policy: Policy = POLICY) -> str | None:
    found = may_waive(person, "U_DATA", policy)
    return found.reason if found else None


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


def test_an_approver_may_who_did_not_bring_the_data() -> None:
    assert denied(Person("U_BOSS")) is None


def test_the_uploader_may_not_even_as_an_approver() -> None:
    assert denied(Person("U_DATA")) == (
        "You uploaded this data, so an approver other than you has to say why it may leave."
    )


def test_who_is_no_approver_is_told_who_is_without_the_uploader() -> None:
    assert denied(Person("U_OTHER")) == "Only an approver may say so: <@U_BOSS>."


@pytest.mark.parametrize(
    "person",
    [
        None,
        Person("U_BOSS", is_bot=True),
        Person("U_BOSS", is_guest=True),
        Person("U_BOSS", is_deleted=True),
        Person("U_BOSS", is_stranger=True),
    ],
)
def test_whoever_is_no_full_member_may_not(person: Person | None) -> None:
    said = denied(person)
    assert said is not None
    assert said.endswith(".")


@pytest.mark.parametrize("approvers", [frozenset[str](), frozenset({"U_DATA"})])
def test_without_another_approver_the_way_out_is_said(approvers: frozenset[str]) -> None:
    assert "finetune.toml, [people]" in str(denied(Person("U_OTHER"), Policy(approvers)))


def test_an_unknown_group_is_not_taken_for_a_no() -> None:
    said = denied(Person("U_OTHER"), Policy(frozenset({"U_BOSS"}), unknown_groups=("S1",)))
    assert "Try again" in str(said)


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
    found = is_no_reason(reason)
    assert (found is not None) == is_refused
    assert found is None or "at least 3 words" in found.reason
