"""Who may do what: the one function that every path asks."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from bot.cards.common.permissions import verdict_text
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
NOT_MEMBERS = (
    None,
    Person("U_BOSS", is_bot=True),
    Person("U_BOSS", is_deleted=True),
    Person("U_BOSS", is_guest=True),
    Person("U_BOSS", is_stranger=True),
)
ACTIONS: tuple[Action, ...] = (*RULES, "reject", "pause", "unfreeze")


def refusal(
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
        *(("U_OTHER", action, True) for action in ("read", "upload", "estimate", "measure", "start", "try")),
    ],
)
def test_by_default_members_take_part_and_approvers_decide(
    person: str, action: Action, is_allowed: bool
) -> None:
    assert (refusal(Person(person), action) is None) == is_allowed


def test_anybody_but_a_full_member_may_do_nothing() -> None:
    everybody = Policy(who=dict.fromkeys(RULES, NamedPeople(anyone=True)))
    for person, action in itertools.product(NOT_MEMBERS, ACTIONS):
        assert refusal(person, action, everybody) is not None, (person, action)


def test_nobody_may_do_anything_in_a_channel_that_is_shared_or_unknown() -> None:
    for action in ACTIONS:
        assert "Slack Connect" in str(refusal(BOSS, action, channel=Channel("C1", True)))
        assert "didn't say whether" in str(refusal(BOSS, action, channel=Channel("C1", None)))
        assert refusal(BOSS, action, channel=Channel("C1", False)) is None


def test_nobody_may_do_what_no_rule_allows() -> None:
    for action in ACTIONS:
        assert "Nobody may" in str(refusal(BOSS, action, Policy(who={})))
    assert "[policy.who] upload" in str(
        refusal(BOSS, "upload", Policy(who={"upload": NamedPeople(where="line 3")}))
    )


def test_an_unknown_action_is_an_error() -> None:
    with pytest.raises(KeyError):
        refusal(BOSS, "fly")  # type: ignore[arg-type]


def test_a_refusal_without_approvers_names_the_setting() -> None:
    nobody = Policy(who=default_rules(NamedPeople()))
    actions: tuple[Action, ...] = ("approve", "reject", "freeze")
    for person, action in itertools.product(("U_BOSS", ""), actions):
        assert "finetune.toml, [people]" in str(refusal(Person(person), action, nobody))


def test_the_requester_and_the_uploader_learn_why_they_may_not_approve() -> None:
    assert "You requested this" in str(refusal(Person("U_ASKS"), "approve"))
    assert "You uploaded this data" in str(refusal(Person("U_DATA"), "approve"))
    only_boss = Policy(who=default_rules(NamedPeople(users=frozenset({"U_BOSS"}))))
    assert "somebody else has to approve it" in str(refusal(Person("U_ASKS"), "approve", only_boss))


def test_the_people_who_may_waive_are_named_without_the_uploader() -> None:
    two = Policy(who=default_rules(NamedPeople(users=frozenset({"U_BOSS", "U_DATA"}))))
    assert refusal(Person("U_OTHER"), "waive", two) == "Only an approver may do that: <@U_BOSS>."
    alone = Policy(who=default_rules(NamedPeople(users=frozenset({"U_DATA"}))))
    assert "add approvers in finetune.toml, [people]" in str(refusal(Person("U_OTHER"), "waive", alone))


def test_members_of_a_group_may_and_an_unknown_group_adds_nobody() -> None:
    policy = Policy(who={"approve": NamedPeople(users=frozenset({"U_BOSS"}), groups=frozenset({"S1"}))})
    assert refusal(Person("U_IN"), "approve", policy, members={"S1": frozenset({"U_IN"})}) is None
    assert "Only an approver" in str(refusal(Person("U_IN"), "approve", policy, members={"S1": frozenset()}))
    assert "Try again" in str(refusal(Person("U_IN"), "approve", policy, members={"S1": None}))
    assert refusal(BOSS, "approve", policy, members={"S1": None}) is None


def test_tiers_set_the_number_of_approvers_by_cost_and_a_maximum() -> None:
    tiers = (Tier(20_000_000, 1, "line 4"), Tier(500_000_000, 2, "line 7"))
    policy = replace(POLICY, tiers=tiers)
    rules = Rules(policy)
    assert has_quorum(["U_BOSS"], rules, 20_000_000)
    assert not has_quorum(["U_BOSS"], rules, 20_000_001)
    assert has_quorum(["U_BOSS", "U_LEAD"], rules, 500_000_000)
    assert not has_quorum(["U_BOSS", "U_LEAD"], rules, 500_000_001)
    actions: tuple[Action, ...] = ("start", "approve")
    expensive = replace(REQUEST, maximum_micros=500_000_001)
    for action in actions:
        text = refusal(BOSS, action, policy, request=expensive)
        assert "no run may cost more than $500.00" in str(text)
    assert refusal(BOSS, "cancel", policy, request=replace(REQUEST, maximum_micros=10**12)) is None


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
def test_a_quorum_counts_only_people_who_may_still_approve(
    approved_by: list[str], quorum: int, reached: bool
) -> None:
    rules = Rules(replace(POLICY, tiers=(Tier(None, quorum),)))
    assert has_quorum(approved_by, rules, 0) == reached


def test_two_people_who_may_still_unfreeze_end_a_freeze() -> None:
    rules = Rules(POLICY)
    assert not may_unfreeze(["U_BOSS", "U_BOSS"], rules) and not may_unfreeze(["U_BOSS", "U_GONE"], rules)
    assert may_unfreeze(["U_BOSS", "U_LEAD"], rules)


def test_the_deciding_rule_is_named_with_its_line() -> None:
    policy = Policy(who={"start": NamedPeople(users=frozenset({"U_BOSS"}), where="finetune.toml, line 9")})
    caller = Caller(Person("U_OTHER"), Rules(policy), Channel("C1", False))
    *before, last = rule_verdicts(caller, "start", REQUEST)
    assert [verdict.is_allowed for verdict in before] == [True, True, False] and last.is_allowed
    assert before[-1].rule == "finetune.toml, line 9"


@pytest.mark.parametrize(("age", "expired"), [(24 * HOUR, False), (24 * HOUR + 1, True)])
def test_a_request_expires_after_a_day(age: float, expired: bool) -> None:
    assert is_expired(REQUEST, REQUEST.asked_at + age, POLICY) == expired


@pytest.mark.parametrize(
    ("age_h", "due_h"), [(0, None), (15, None), (16, 8), (19.9, 8), (20, 4), (24, 4), (24.1, None)]
)
def test_the_latest_reminder_whose_time_has_come_is_due(age_h: float, due_h: float | None) -> None:
    policy = replace(POLICY, remind_s=(8 * HOUR, 4 * HOUR))
    due = reminder_due(REQUEST, REQUEST.asked_at + age_h * HOUR, policy)
    assert due == (None if due_h is None else due_h * HOUR)
