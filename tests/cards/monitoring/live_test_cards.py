"""Cards of live tests in their states, and the form in which people judge calls on which two answers differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from bot.cards.common.blocks import Message
from bot.cards.common.general import text_message
from bot.cards.monitoring import compared_calls, live_tests
from bot.cards.monitoring.compared_calls import CallToCompare
from bot.rules.monitoring.live_tests import cost_of, judge
from bot.values.monitoring import CanaryErrors, LiveTestSummary
from storage.monitoring.live_tests import CallVerdict, ComparedCall, LiveTest
from storage.records import Promotable
from tests.cards.builders import ANA, BEN, NOW

DAY_S = 86_400.0
TEST = LiveTest(
    id=4,
    dataset="tickets",
    model=None,
    candidate='{"rung": "zero", "model": "acme/acme-tiny", "shots": null}',
    measurement=7,
    promotion=3,
    person=ANA,
    channel="C0TICKETS",
    question="not_worse",
    margin=0.05,
    canary=0.0,
    is_shadow=True,
    recipe="ab" * 32,
    at=NOW,
    ended_at=None,
    ended_by=None,
    outcome=None,
    next_at=0.0,
    trouble=None,
)
USED = Promotable(candidate='{"rung": "zero", "model": "openai/gpt-4o-mini", "shots": null}', measurement=5)
DEARER = replace(TEST, question="better", model="tickets-7", candidate=None, measurement=None)


def summary(test: LiveTest = TEST, verdicts: Sequence[CallVerdict] = (), **more: Any) -> LiveTestSummary:
    calls = [
        ComparedCall(test.id, f"c-{number}", NOW + number, verdict, 120, "2026-11")
        for number, verdict in enumerate(verdicts)
    ]
    return LiveTestSummary(
        test=test,
        used=USED,
        standing=judge(test, calls, NOW + 3 * DAY_S),
        verdicts=Counter(call.verdict for call in calls),
        micros=cost_of(calls),
        usd=Decimal("0.12"),
        used_usd=Decimal("0.20"),
        **more,
    )


SOME: Sequence[CallVerdict] = (
    *(("same",) * 20),
    *(("candidate",) * 3),
    *(("incumbent",) * 2),
    *(("tie",) * 2),
    *(("unlabelled",) * 9),
)
MANY: Sequence[CallVerdict] = ["same", "same", "same", "candidate", "same"] * 60
WINNING: Sequence[CallVerdict] = ["same", "candidate", "same"] * 12
LOSING: Sequence[CallVerdict] = ["same", "incumbent"] * 30


def cards() -> Mapping[str, Message]:
    over = replace(TEST, ended_at=NOW + 3 * DAY_S)
    canary = replace(TEST, canary=0.1, is_shadow=False)
    errors = CanaryErrors(3, 2)
    shown = {
        "live-test": summary(pause="no_recipe"),
        "live-test-unjudged": summary(verdicts=["same", "same", "unlabelled"], to_label=1),
        "live-test-some": summary(verdicts=SOME, to_label=9),
        "live-test-dearer": summary(DEARER, SOME, to_label=30),
        "live-test-paused": summary(verdicts=SOME, pause="no_money"),
        "live-test-unsampled": summary(verdicts=SOME, pause="no_sample"),
        "live-test-not-worse": summary(replace(over, outcome="not_worse"), MANY),
        "live-test-better": summary(replace(DEARER, outcome="better", ended_at=NOW + DAY_S), WINNING),
        "live-test-worse": summary(replace(over, outcome="worse"), LOSING),
        "live-test-cannot-tell": summary(replace(over, outcome="cannot_tell"), SOME),
        "live-test-ended": summary(replace(over, outcome="ended", ended_by=BEN), SOME),
        "live-test-forbidden": summary(
            replace(over, outcome="ended", trouble="A rule doesn't let this data go to acme."), SOME
        ),
        "live-test-outdated": summary(replace(over, outcome="outdated"), SOME),
        "live-test-canary": summary(canary, errors=errors),
        "live-test-canary-and-sample": summary(replace(TEST, canary=0.1), SOME, errors=errors),
        "live-test-stopped": summary(replace(canary, outcome="stopped", ended_at=NOW + DAY_S), errors=errors),
        "live-test-in-trouble": summary(
            replace(TEST, recipe=None, trouble="The rows with which it was measured were deleted.")
        ),
    }
    built = {name: live_tests.live_test_card(each) for name, each in shown.items()}
    for name in ("not-worse", "better", "worse", "cannot-tell", "stopped", "forbidden"):
        ended = shown[f"live-test-{name}"]
        built[f"live-test-{name}-said"] = text_message(live_tests.ended_text(ended))
    built["live-test-begun"] = text_message(live_tests.begun_text(TEST))
    return built


def forms() -> Mapping[str, Mapping[str, Any]]:
    call = CallToCompare(4, "c-1", "Where is my parcel?", "lost parcel", "refund", ("refund", "lost"), 7, 9)
    texts = replace(call, labels=(), first="It is on its way.\n*Tomorrow*", second=None, left=1)
    return {
        "form-compare-labels": compared_calls.comparison_form(call),
        "form-compare-texts": compared_calls.comparison_form(texts),
        "form-compare-done": compared_calls.finished_form(),
    }
