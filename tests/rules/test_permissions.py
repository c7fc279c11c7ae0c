"""Who may do what: the one rule that every path asks."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import cast

import pytest

from bot.cards.permissions import verdict_text
from bot.rules.permissions import (
    RULES,
    Action,
    Caller,
    Channel,
    NamedPeople,
    Person,
    Policy,
    Request,
    Rules,
    Tier,
    default_rules,
    has_quorum,
    is_expired,
    may,
    may_unfreeze,
    reminder_due,
    rule_verdicts,
)

HOUR = 3600.0
REQUEST = Request(requester="U_ASKS", uploader="U_DATA", asked_at=1000.0)
NAMED = NamedPeople(users=frozenset({"U_BOSS", "U_LEAD", "U_ASKS", "U_DATA"}))
POLICY = Policy(who=default_rules(NAMED))
BOSS = Person("U_BOSS")
NO_MEMBERS = (
    None,
    Person("U_BOSS", is_bot=True),
    Person("U_BOSS", is_deleted=True),
    Person("U_BOSS", is_guest=True),
    Person("U_BOSS", is_stranger=True),
)
ACTIONS: tuple[Action, ...] = (*RULES, "reject", "pause", "unfreeze")


def said(
    person: Person | None,
    action: Action,
    policy: Policy = POLICY,
    *,
    members: dict[str, frozenset[str] | None] | None = None,
    channel: Channel | None = None,
    request: Request = REQUEST,
) -> str | None:
    denied = may(Caller(person, Rules(policy, members or {}), channel), action, request)
    text = verdict_text(denied.because) if denied else None
    assert text is None or text.endswith(".")
    return text


@pytest.mark.parametrize(
    ("person", "action", "is_allowed"),
    [
        ("U_BOSS", "approve", True),
        ("U_BOSS", "reject", True),
        ("U_BOSS", "cancel", True),
        ("U_ASKS", "approve", False),
        ("U_ASKS", "reject", True),
        ("U_ASKS", "cancel", True),
        ("U_ASKS", "pause", True),
        ("U_DATA", "approve", False),
        ("U_DATA", "waive", False),
        ("U_BOSS", "waive", True),
        ("U_OTHER", "approve", False),
        ("U_OTHER", "reject", False),
        ("U_OTHER", "cancel", False),
        ("U_OTHER", "freeze", False),
        ("U_OTHER", "promote", False),
        *(("U_OTHER", one, True) for one in ("read", "upload", "estimate", "measure", "start", "try")),
    ],
)
def test_without_a_policy_members_take_part_and_approvers_decide(
    person: str, action: Action, is_allowed: bool
) -> None:
    assert (said(Person(person), action) is None) == is_allowed


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("person", NO_MEMBERS)
def test_whoever_is_no_full_member_may_nothing(person: Person | None, action: Action) -> None:
    everybody = Policy(who=dict.fromkeys(RULES, NamedPeople(anyone=True)))
    assert said(person, action, everybody) is not None


@pytest.mark.parametrize("action", ACTIONS)
def test_in_a_channel_shared_with_others_or_unknown_nobody_may_anything(action: Action) -> None:
    assert "Slack Connect" in str(said(BOSS, action, channel=Channel("C1", True)))
    assert "can't see whether" in str(said(BOSS, action, channel=Channel("C1", None)))
    assert said(BOSS, action, channel=Channel("C1", False)) is None


def test_what_no_rule_names_nobody_may() -> None:
    for action in ACTIONS:
        assert "Nobody may" in str(said(BOSS, action, Policy(who={})))
    assert "[policy.who] upload" in str(
        said(BOSS, "upload", Policy(who={"upload": NamedPeople(where="line 3")}))
    )


def test_an_action_that_has_no_rule_is_not_allowed() -> None:
    with pytest.raises(KeyError):
        said(BOSS, cast(Action, "fly"))


def test_without_approvers_the_way_out_is_said() -> None:
    nobody = Policy(who=default_rules(NamedPeople()))
    for person, action in itertools.product(("U_BOSS", ""), ("approve", "reject", "freeze")):
        assert "finetune.toml, [people]" in str(said(Person(person), cast(Action, action), nobody))


def test_the_requester_and_the_uploader_are_told_why() -> None:
    assert "You requested this run" in str(said(Person("U_ASKS"), "approve"))
    assert "You uploaded this data" in str(said(Person("U_DATA"), "approve"))
    only_boss = Policy(who=default_rules(NamedPeople(users=frozenset({"U_BOSS"}))))
    assert "somebody else has to approve it" in str(said(Person("U_ASKS"), "approve", only_boss))


def test_who_may_waive_is_named_without_who_brought_the_data() -> None:
    two = Policy(who=default_rules(NamedPeople(users=frozenset({"U_BOSS", "U_DATA"}))))
    assert said(Person("U_OTHER"), "waive", two) == "Only an approver may do that: <@U_BOSS>."
    alone = Policy(who=default_rules(NamedPeople(users=frozenset({"U_DATA"}))))
    assert "add approvers in finetune.toml, [people]" in str(said(Person("U_OTHER"), "waive", alone))


def test_a_groups_members_may_and_an_unknown_group_lets_nobody_new_in() -> None:
    policy = Policy(who={"approve": NamedPeople(users=frozenset({"U_BOSS"}), groups=frozenset({"S1"}))})
    assert said(Person("U_IN"), "approve", policy, members={"S1": frozenset({"U_IN"})}) is None
    assert "Only an approver" in str(said(Person("U_IN"), "approve", policy, members={"S1": frozenset()}))
    assert "Try again" in str(said(Person("U_IN"), "approve", policy, members={"S1": None}))
    assert said(BOSS, "approve", policy, members={"S1": None}) is None


def test_by_cost_it_takes_more_approvers_and_beyond_the_last_tier_nothing_starts() -> None:
    tiers = (Tier(20_000_000, 1, "line 4"), Tier(500_000_000, 2, "line 7"))
    policy = replace(POLICY, tiers=tiers)
    rules = Rules(policy)
    assert has_quorum(["U_BOSS"], rules, 20_000_000)
    assert not has_quorum(["U_BOSS"], rules, 20_000_001)
    assert has_quorum(["U_BOSS", "U_LEAD"], rules, 500_000_000)
    assert not has_quorum(["U_BOSS", "U_LEAD"], rules, 500_000_001)
    for action in ("start", "approve"):
        dear = replace(REQUEST, maximum_micros=500_000_001)
        assert "no run may cost more than $500.00" in str(
            said(BOSS, cast(Action, action), policy, request=dear)
        )
    assert said(BOSS, "cancel", policy, request=replace(REQUEST, maximum_micros=10**12)) is None


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
    rules = Rules(replace(POLICY, tiers=(Tier(None, quorum),)))
    assert has_quorum(approved_by, rules, 0) == reached


def test_two_people_who_may_still_say_so_end_a_freeze() -> None:
    rules = Rules(POLICY)
    assert not may_unfreeze(["U_BOSS", "U_BOSS"], rules) and not may_unfreeze(["U_BOSS", "U_GONE"], rules)
    assert may_unfreeze(["U_BOSS", "U_LEAD"], rules)


def test_the_rule_that_decides_is_named_with_its_line() -> None:
    policy = Policy(who={"start": NamedPeople(users=frozenset({"U_BOSS"}), where="finetune.toml, line 9")})
    asking = Caller(Person("U_OTHER"), Rules(policy), Channel("C1", False))
    *before, last = rule_verdicts(asking, "start", REQUEST)
    assert [one.is_allowed for one in before] == [True, True, False] and last.is_allowed
    assert before[-1].rule == "finetune.toml, line 9"


@pytest.mark.parametrize(("age", "expired"), [(0, False), (24 * HOUR, False), (24 * HOUR + 1, True)])
def test_a_request_is_over_after_a_day(age: float, expired: bool) -> None:
    assert is_expired(REQUEST, REQUEST.asked_at + age, POLICY) == expired


@pytest.mark.parametrize(
    ("age_h", "due_h"), [(0, None), (15, None), (16, 8), (19.9, 8), (20, 4), (24, 4), (24.1, None)]
)
def test_the_last_reminder_whose_time_has_come_is_due(age_h: float, due_h: float | None) -> None:
    policy = replace(POLICY, remind_s=(8 * HOUR, 4 * HOUR))
    due = reminder_due(REQUEST, REQUEST.asked_at + age_h * HOUR, policy)
    assert due == (None if due_h is None else due_h * HOUR)
