"""Which data may go where."""

from __future__ import annotations

import pytest

from bot.cards.data_policy import egress_text
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
    assert (ruled(other).where, ruled(other).refused) == (NO_RULE, "no rule")
    assert ruled(other, here=True).refused is None


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
        assert ruled(*both).where == "line 9" and ruled(*both, to="local").refused is None


def test_a_reason_sets_soft_rules_aside_and_no_hard_one() -> None:
    assert ruled(rule("soft")).refused == "soft rule"
    aside = ruled(rule("soft"), reason="they agreed")
    assert (aside.refused, aside.overridden) == (None, ("ours",))
    assert "they agreed" in egress_text(aside, DATA, "openai", "they agreed")
    assert ruled(rule("soft"), rule("hard"), reason="they agreed").refused == "hard rule"


def test_an_advisory_rule_is_a_note() -> None:
    advised = ruled(rule("advisory"))
    assert advised.refused is None and advised.overridden == ()
    assert "advisory" in egress_text(advised, DATA, "openai", None)
