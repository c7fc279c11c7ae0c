"""Where data may go, who may see a dataset and its rows, and when personal data needs a waiver."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from bot.cards.datasets.data_policy import egress_text
from bot.rules.data_policy import (
    NO_RULE,
    PERSONAL_DATA,
    DatasetChannel,
    EgressDecision,
    choose_row_delivery,
    decide_egress,
    may_post,
    may_show_rows,
    may_use,
    needs_waiver,
)
from bot.rules.permissions import Data, DataRule, Level, Policy, has_enough_words
from trainers.dataset.sensitive_data import PERSONAL

DATA = Data("support-faq", frozenset({"C_SUPPORT"}), is_personal=True)
PRIVATE, PUBLIC = DatasetChannel("C_HR", True, True), DatasetChannel("C_ALL", False, None)


def rule(level: Level = "hard", **more: object) -> DataRule:
    values = {"name": "ours", "level": level, "providers": frozenset({"local"}), "where": "line 3"}
    return DataRule(**{**values, **more})  # type: ignore[arg-type]


def decide(
    *rules: DataRule, to: str = "openai", here: bool = False, reason: str | None = None
) -> EgressDecision:
    return decide_egress(Policy(data=rules), DATA, to, stays_here=here, reason=reason)


def test_without_rules_data_may_go_anywhere() -> None:
    assert decide() == EgressDecision()


def test_data_that_no_rule_covers_stays_on_this_machine() -> None:
    other = rule(channels=frozenset({"C_ELSE"}))
    assert (decide(other).where, decide(other).refused) == (NO_RULE, "no rule")
    assert decide(other, here=True).refused is None


@pytest.mark.parametrize(
    ("conditions", "covers"),
    [
        ({}, True),
        ({"channels": frozenset({"C_SUPPORT"})}, True),
        ({"channels": frozenset({"C_ELSE"})}, False),
        ({"datasets": ("support-*",)}, True),
        ({"datasets": ("sales-*", "faq")}, False),
        ({"personal": True}, True),
        ({"personal": False}, False),
        ({"personal": True, "channels": frozenset({"C_ELSE"})}, False),
    ],
)
def test_a_rule_covers_data_that_meets_all_its_conditions(
    conditions: dict[str, object], covers: bool
) -> None:
    assert rule(**conditions).covers(DATA) == covers


def test_rows_of_several_channels_need_the_rules_of_each() -> None:
    both = Data("support-faq", frozenset({"C_SUPPORT", "C_ELSE"}), is_personal=True)
    here, there = (rule(providers=None, channels=frozenset({channel})) for channel in ("C_SUPPORT", "C_ELSE"))
    closed = rule(channels=frozenset({"C_ELSE"}), where="line 9")

    def refused(*rules: DataRule) -> str:
        return decide_egress(Policy(data=rules), both, "openai", stays_here=False, reason=None).where

    assert refused(here) == NO_RULE, "no rule covers the other channel's rows"
    assert refused(here, closed) == "line 9", "the strictest decides"
    assert refused(here, there) == here.where


def test_every_rule_that_covers_data_has_to_allow_it() -> None:
    wide, narrow = rule(providers=None), rule(personal=True, where="line 9")
    for both in ((wide, narrow), (narrow, wide)):
        assert decide(*both).where == "line 9" and decide(*both, to="local").refused is None


def test_a_reason_overrides_soft_rules_but_no_hard_one() -> None:
    assert decide(rule("soft")).refused == "soft rule"
    overridden = decide(rule("soft"), reason="they agreed")
    assert (overridden.refused, overridden.overridden) == (None, ("ours",))
    assert "they agreed" in egress_text(overridden, DATA, "openai", "they agreed")
    assert decide(rule("soft"), rule("hard"), reason="they agreed").refused == "hard rule"


def test_an_advisory_rule_is_only_a_note() -> None:
    advised = decide(rule("advisory"))
    assert advised.refused is None and advised.overridden == ()
    assert "advisory" in egress_text(advised, DATA, "openai", None)


@pytest.mark.parametrize(
    ("is_private", "is_member", "may"),
    [
        (True, True, True),
        (True, False, False),
        (True, None, False),
        (False, None, True),
        (None, None, False),
        (None, True, True),
    ],
)
def test_a_private_channel_s_dataset_exists_only_for_its_members(
    is_private: bool | None, is_member: bool | None, may: bool
) -> None:
    assert may_use(DatasetChannel("C_HR", is_private, is_member)) == may


def test_cards_of_a_private_channel_are_posted_only_there() -> None:
    assert may_post(PRIVATE, "C_HR") and not may_post(PRIVATE, "C_ALL") and not may_post(PRIVATE, "C_OTHER")
    assert may_post(PUBLIC, "C_OTHER") and not may_post(DatasetChannel("C_HR", None, None), "C_OTHER")


@pytest.mark.parametrize(
    ("channel", "sources", "is_private", "is_shared", "may"),
    [
        ("C_HR", {"C_HR"}, True, False, True),
        ("C_OWN", {"C_HR"}, True, False, False),
        ("C_HR", {"C_HR", "C_ALL"}, True, False, False),
        ("C_HR", {"C_HR"}, False, False, False),
        ("C_HR", {"C_HR"}, None, False, False),
        ("C_HR", {"C_HR"}, True, True, False),
        ("C_HR", {"C_HR"}, True, None, False),
    ],
)
def test_rows_are_shown_only_in_the_private_channel_they_came_from(
    channel: str, sources: Collection[str], is_private: bool | None, is_shared: bool | None, may: bool
) -> None:
    assert may_show_rows("C_HR", sources, channel, is_private=is_private, is_shared=is_shared) == may


@pytest.mark.parametrize(
    ("channel", "reader", "in_thread", "delivery"),
    [
        (PRIVATE, "U2", True, "thread"),
        (PUBLIC, "U1", False, "direct"),
        (PUBLIC, "U2", False, "others read here"),
        (DatasetChannel("C_HR", True, False), "U1", True, "not in the channel"),
    ],
)
def test_rows_are_delivered_where_only_people_who_may_see_them_read(
    channel: DatasetChannel, reader: str, in_thread: bool, delivery: str
) -> None:
    assert choose_row_delivery(channel, "U1", reader, in_thread=in_thread) == delivery


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
def test_only_personal_data_that_leaves_this_machine_needs_a_waiver(
    codes: list[str], stays_here: bool, needed: bool
) -> None:
    assert needs_waiver(codes, stays_here=stays_here) == needed


def test_personal_data_has_the_code_that_the_check_reports() -> None:
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
def test_a_reason_has_at_least_three_words(reason: str, is_refused: bool) -> None:
    assert has_enough_words(reason) != is_refused
