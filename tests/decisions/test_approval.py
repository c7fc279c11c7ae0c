from __future__ import annotations

import itertools
from typing import cast

import pytest

from bot.decisions.approval import (
    VALID_FOR_S,
    Action,
    Person,
    Policy,
    Request,
    has_quorum,
    is_expired,
    may,
    may_take_part,
)

REQUEST = Request(requester="U_ASKS", uploader="U_DATA", asked_at=1000.0)
POLICY = Policy(approvers=frozenset({"U_BOSS", "U_LEAD", "U_ASKS", "U_DATA"}))
BOSS = Person("U_BOSS")
ACTIONS: tuple[Action, ...] = ("approve", "reject", "cancel")


@pytest.mark.parametrize(
    ("person", "action", "is_allowed"),
    [
        ("U_BOSS", "approve", True),
        ("U_BOSS", "reject", True),
        ("U_BOSS", "cancel", True),
        ("U_ASKS", "approve", False),
        ("U_ASKS", "reject", True),
        ("U_ASKS", "cancel", True),
        ("U_DATA", "approve", False),
        ("U_DATA", "reject", True),
        ("U_OTHER", "approve", False),
        ("U_OTHER", "reject", False),
        ("U_OTHER", "cancel", False),
    ],
)
def test_who_may_do_what(person: str, action: Action, is_allowed: bool) -> None:
    denied = may(Person(person), action, REQUEST, POLICY)
    assert (denied is None) == is_allowed
    assert denied is None or denied.reason.endswith(".")


def test_without_approvers_nobody_may_approve_or_reject() -> None:
    for person, action in itertools.product(("U_BOSS", ""), ("approve", "reject")):
        denied = may(Person(person), cast(Action, action), REQUEST, Policy(frozenset()))
        assert denied is not None
        assert "Nobody may approve runs yet" in denied.reason


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "approver",
    [
        None,
        Person("U_BOSS", is_bot=True),
        Person("U_BOSS", is_deleted=True),
        Person("U_BOSS", is_guest=True),
        Person("U_BOSS", is_stranger=True),
        Person("U_ASKS", is_guest=True),
        Person("U_ASKS", is_stranger=True),
    ],
)
def test_whoever_is_no_full_member_may_nothing(approver: Person | None, action: Action) -> None:
    assert may(approver, action, REQUEST, POLICY) is not None


def test_the_requester_and_the_uploader_are_told_why() -> None:
    asks, data = (may(Person(one), "approve", REQUEST, POLICY) for one in ("U_ASKS", "U_DATA"))
    assert asks is not None
    assert "You asked for this run" in asks.reason
    assert data is not None
    assert "You uploaded this data" in data.reason


def test_a_group_that_could_not_be_looked_up_lets_nobody_new_in() -> None:
    policy = Policy(frozenset({"U_BOSS"}), unknown_groups=("S1",))
    denied = may(Person("U_OTHER"), "approve", REQUEST, policy)
    assert denied is not None
    assert "Try again" in denied.reason
    assert may(BOSS, "approve", REQUEST, policy) is None


def test_an_action_that_has_no_rule_is_not_allowed() -> None:
    with pytest.raises(AssertionError):
        may(BOSS, cast(Action, "promote"), REQUEST, POLICY)


@pytest.mark.parametrize(
    ("age", "expired"), [(0, False), (VALID_FOR_S, False), (VALID_FOR_S + 1, True), (10 * VALID_FOR_S, True)]
)
def test_a_request_is_over_after_a_day(age: float, expired: bool) -> None:
    assert is_expired(REQUEST, REQUEST.asked_at + age) == expired


@pytest.mark.parametrize(
    ("approved_by", "quorum", "reached"),
    [
        ([], 1, False),
        (["U_BOSS"], 1, True),
        (["U_BOSS"], 2, False),
        (["U_BOSS", "U_BOSS"], 2, False),
        (["U_BOSS", "U_LEAD"], 2, True),
        (["U_BOSS", "U_GONE"], 2, False),
    ],
)
def test_a_quorum_counts_people_who_may_still_approve(
    approved_by: list[str], quorum: int, reached: bool
) -> None:
    policy = Policy(frozenset({"U_BOSS", "U_LEAD"}), quorum)
    assert has_quorum(approved_by, policy) == reached


def test_who_asked_hears_that_it_takes_somebody_else_also_where_they_are_no_approver() -> None:
    denied = may(Person("U_ASKS"), "approve", REQUEST, Policy(frozenset({"U_BOSS"})))

    assert denied is not None
    assert "somebody else has to approve it" in denied.reason


@pytest.mark.parametrize(
    "person", [None, Person("U1", is_bot=True), Person("U1", is_guest=True), Person("U1", is_stranger=True)]
)
def test_only_a_full_member_takes_part(person: Person | None) -> None:
    assert may_take_part(person) is not None
    assert may_take_part(Person("U1")) is None
