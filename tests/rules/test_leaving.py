"""Which data may go where."""

from __future__ import annotations

import pytest

from bot.rules.data_policy import NO_RULE, EgressDecision, decide_egress
from bot.rules.permissions import Data, DataRule, Level, Policy

DATA = Data("support-faq", frozenset({"C_SUPPORT"}), is_personal=True)


def rule(level: Level = "hard", **more: object) -> DataRule:
    return DataRule(
        **{"name": "ours", "level": level, "providers": frozenset({"local"}), "where": "line 3"} | more
    )  # type: ignore[arg-type]


def ruled(
    *rules: DataRule, to: str = "openai", here: bool = False, reason: str | None = None
) -> EgressDecision:
    return decide_egress(Policy(data=rules), DATA, to, stays_here=here, reason=reason)


def test_without_rules_it_goes_anywhere() -> None:
    assert ruled() == EgressDecision()


def test_with_rules_what_none_covers_stays_on_this_machine() -> None:
    other = rule(channels=frozenset({"C_ELSE"}))
    assert ruled(other).where == NO_RULE and "No rule" in str(ruled(other).refusal)
    assert ruled(other, here=True).refusal is None


@pytest.mark.parametrize(
    ("what", "covers"),
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
def test_a_rule_covers_data_for_which_all_that_it_says_holds(what: dict[str, object], covers: bool) -> None:
    assert rule(**what).covers(DATA) == covers


def test_rows_of_several_channels_go_where_the_rules_of_each_let_them() -> None:
    both = Data("support-faq", frozenset({"C_SUPPORT", "C_ELSE"}), is_personal=True)
    here, there = (rule(providers=None, channels=frozenset({one})) for one in ("C_SUPPORT", "C_ELSE"))
    closed = rule(channels=frozenset({"C_ELSE"}), where="line 9")

    def refused(*rules: DataRule) -> str:
        return decide_egress(Policy(data=rules), both, "openai", stays_here=False, reason=None).where

    assert refused(here) == NO_RULE, "the other channel's rows are covered by none"
    assert refused(here, closed) == "line 9", "the strictest decides"
    assert refused(here, there) == here.where


def test_every_rule_that_covers_has_to_allow_it_whatever_their_order() -> None:
    wide, narrow = rule(providers=None), rule(personal=True, where="line 9")
    for both in ((wide, narrow), (narrow, wide)):
        assert ruled(*both).where == "line 9" and ruled(*both, to="local").refusal is None


def test_a_reason_sets_soft_rules_aside_and_no_hard_one() -> None:
    assert "because=" in str(ruled(rule("soft")).refusal)
    said = ruled(rule("soft"), reason="they agreed")
    assert (said.refusal, said.overridden) == (None, ("ours",)) and "they agreed" in said.notes[0]
    assert ruled(rule("soft"), rule("hard"), reason="they agreed").refusal is not None


def test_an_advisory_rule_is_a_note() -> None:
    said = ruled(rule("advisory"))
    assert said.refusal is None and "advisory" in said.notes[0] and said.overridden == ()
