"""Cards of watched datasets: whether calls may be sampled, a week of calls in its typical states, and labels of
calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

from bot.cards.common.blocks import Message
from bot.cards.common.general import text_message
from bot.cards.monitoring import live_labels, watches, weeks
from bot.cards.monitoring.live_labels import CallToLabel, PreviousCall
from bot.cards.monitoring.weeks import ModelEnding, WeekSummary
from bot.rules.monitoring.repetitions import Change
from bot.rules.permissions import WatchLimits
from bot.values.monitoring import (
    LiveAnswers,
    MonthlyScore,
    NewModel,
    NewModelScore,
    RepeatedScore,
    Repetition,
    WeekFacts,
    WeekShift,
    WeekUse,
)
from storage.monitoring.watches import Watch
from tests.cards import builders, measurements
from tests.cards.builders import ANA, BEN, NOW
from tests.cards.monitoring import live_test_cards
from trainers.monitoring.live_accuracy import Holdout, LabelledWeek, judge_live_accuracy
from trainers.monitoring.shift import Shift
from trainers.recipes.samples import SampleCounts

LIMITS = WatchLimits(where="[policy.watch] (finetune.toml:21)")
WATCH = Watch(
    id=3,
    dataset="tickets",
    person=ANA,
    channel="C0TICKETS",
    share=0.05,
    time_zone="Europe/Berlin",
    at=NOW,
    consented_by=ANA,
    consented_at=NOW,
    ended_at=None,
    ended_by=None,
)
MONTHLY = replace(WATCH, every="month")
ASKING = replace(WATCH, consented_by=None, consented_at=None)
PROMPT = "the prompt alone on openai/gpt-4o-mini"
FACTS = WeekFacts(
    week="2026-11-23",
    uses=(WeekUse(PROMPT, 12_480, 0, 3_100_000, 21_000_000),),
    sampled=SampleCounts(stored=612, personal=9, secret=2, opted_out=3),
)
HOLDOUT = Holdout(0.875, 200)
FAILING = replace(
    FACTS,
    uses=(
        WeekUse(PROMPT, 12_480, 310, None, None),
        WeekUse("encoder, as fallback", 306, 0, 0, 4_000_000),
    ),
    sampled=SampleCounts(stored=612, too_long=4, no_room=7),
    thumbs_up=41,
    thumbs_down=12,
)
SHIFT = WeekShift(
    texts=Shift(1_240, 612, 2.4, 0.00005, 0.00048, 20_000),
    words=("invoice app", "two-factor", "*export*"),
    unusual=("c-1", "c-2"),
)
ANSWERS = WeekShift(answers=Shift(1_240, 612, 3.1, 0.00005, 0.00048, 20_000))
AGAIN = Repetition("worse", "tickets-3", is_tuned=True, new_rows=1)
NEW = NewModel(5, "acme/acme-tiny", 120_000, 200_000, 200, 24_000)
TINY = measurements.candidate("zero", "acme/acme-tiny", 168)
SCORED = NewModelScore("m7", is_over=True, is_unasked=True, micros=21_000, score=TINY, in_use=0.875)
BEFORE = measurements.candidate("zero", "openai/gpt-4o-mini", 175)
NOW_WORSE = measurements.candidate("zero", "openai/gpt-4o-mini", 150)
REPEATED = RepeatedScore(
    "m9",
    is_over=True,
    is_unasked=True,
    micros=21_000,
    score=BEFORE,
    before=BEFORE,
    before_name="m2",
    change=Change(200, -0.01, 0.62, is_same_question=True),
)
MONTH = MonthlyScore(200, 24_000, measured=REPEATED)
LABELS = ("refund", "lost parcel", "invoice & <tax>")


def live(right: int, labelled: int, weeks_before: int = 0) -> LiveAnswers:
    """Labels of this week, after some weeks that were as bad."""
    past = [LabelledWeek(right, labelled)] * weeks_before
    return LiveAnswers(judge_live_accuracy(past, HOLDOUT), right, labelled, 1, HOLDOUT.share)


def summary(**changes: Any) -> WeekSummary:
    return replace(WeekSummary(WATCH, FACTS, is_over=True, live=live(17, 20, 1), to_label=34), **changes)


def cards() -> dict[str, Message]:
    planned = replace(FACTS, planned_micros=82_600_000)
    losing = replace(FACTS, uses=(WeekUse(PROMPT, 3, 0, 2_000_000, -1_500_000),), sampled=SampleCounts())
    tried = live_test_cards.summary(verdicts=live_test_cards.SOME, to_label=9)
    ending = ModelEnding("openai/gpt-4o-mini", date(2027, 1, 14), 45)
    return {
        "watch-begun": text_message(watches.begun_text(WATCH, LIMITS, is_tuned=False)),
        "watch-begun-without-sample": text_message(
            watches.begun_text(replace(WATCH, share=0.0), LIMITS, is_tuned=False)
        ),
        "watch-begun-asking": text_message(
            watches.begun_text(ASKING, replace(LIMITS, personal="drop"), is_tuned=False)
        ),
        "watch-begun-monthly": text_message(
            watches.begun_text(MONTHLY, replace(LIMITS, usd_per_month=Decimal(5)), is_tuned=False)
        ),
        "watch-begun-monthly-asking": text_message(watches.begun_text(MONTHLY, LIMITS, is_tuned=False)),
        "watch-begun-monthly-tuned": text_message(watches.begun_text(MONTHLY, LIMITS, is_tuned=True)),
        "watch-ended": text_message(watches.ended_text(WATCH)),
        "watch-consent": watches.consent_card(ASKING, builders.dataset(uploaded_by=BEN), LIMITS),
        "watch-agreed": watches.decided_card(WATCH, BEN, agrees=True),
        "watch-refused": watches.decided_card(ASKING, BEN, agrees=False),
        "watch-outdated": watches.outdated_card(ASKING),
        "watch-not-in-use": text_message(watches.not_in_use("tickets")),
        "watch-no-unusual-calls": text_message(weeks.no_unusual_calls("tickets")),
        "watch-not-here": text_message(watches.not_allowed_here("tickets", LIMITS)),
        "watch-share-too-large": text_message(watches.share_too_large(replace(LIMITS, share=0.2))),
        "week": weeks.week_card(summary()),
        "week-planned": weeks.week_card(summary(facts=planned)),
        "week-so-far": weeks.week_card(summary(is_over=False, live=live(0, 0))),
        "week-without-sample": weeks.week_card(
            summary(watch=replace(WATCH, share=0.0), facts=losing, live=None, to_label=0)
        ),
        "week-awaiting-consent": weeks.week_card(summary(watch=ASKING, live=None, to_label=0)),
        "week-changed": weeks.week_card(summary(facts=replace(FACTS, shift=SHIFT), ending=ending)),
        "week-other-answers": weeks.week_card(summary(facts=replace(FACTS, shift=ANSWERS))),
        "week-worse": weeks.week_card(summary(live=live(11, 20, 4), to_label=0)),
        "week-with-everything": weeks.week_card(
            summary(
                facts=replace(FAILING, shift=SHIFT, is_uncompared=True), ending=replace(ending, days_left=0)
            )
        ),
        "week-worse-tuned": weeks.week_card(summary(live=live(11, 20, 4), again=AGAIN)),
        "week-worse-prompt": weeks.week_card(
            summary(live=live(11, 20, 4), again=replace(AGAIN, is_tuned=False, name=PROMPT, new_rows=0))
        ),
        "week-changed-encoder": weeks.week_card(
            summary(
                facts=replace(FACTS, shift=SHIFT),
                again=Repetition("changed", "the encoder", is_tuned=False, new_rows=120),
            )
        ),
        "week-new-model": weeks.week_card(summary(new=NEW)),
        "week-new-model-judged": weeks.week_card(
            summary(new=replace(NEW, micros=2_000, in_use_micros=4_000, cost_micros=None), to_label=0)
        ),
        "week-new-model-under-way": weeks.week_card(
            summary(new=replace(NEW, measured=NewModelScore("m7", is_over=False, is_unasked=False)))
        ),
        "week-new-model-measured": weeks.week_card(summary(new=replace(NEW, measured=SCORED))),
        "week-new-model-failed": weeks.week_card(
            summary(new=replace(NEW, measured=NewModelScore("m7", is_over=True, is_unasked=True)))
        ),
        **monthly_cards(),
        "week-with-too-much": weeks.week_card(
            summary(
                facts=replace(FAILING, shift=SHIFT), ending=replace(ending, days_left=0), new=NEW, again=AGAIN
            )
        ),
        "week-tried": weeks.week_card(summary(tried=tried)),
        "week-by-words": weeks.week_card(summary(live=replace(live(17, 20), accuracy=None, holdout=None))),
        "week-without-calls": weeks.no_calls_yet(WATCH),
    }


def monthly_cards() -> dict[str, Message]:
    """The line about the monthly measurement in each of its states."""
    worse = replace(REPEATED, score=NOW_WORSE, change=Change(200, -0.125, 0.0004, is_same_question=True))
    better = replace(REPEATED, change=Change(150, 0.1, 0.002, is_same_question=False), is_unasked=False)
    states = {
        "begins": MonthlyScore(200, 24_000),
        "without-money": MonthlyScore(200, 24_000, "money"),
        "cost-unknown": MonthlyScore(200, None, "money"),
        "frozen": MonthlyScore(200, 24_000, "freeze"),
        "refused": MonthlyScore(200, 24_000, "refused", "`acme` has no key."),
        "asking": replace(MONTH, measured=RepeatedScore("m9", False, False, is_waiting=True)),
        "under-way": replace(MONTH, measured=RepeatedScore("m9", False, True)),
        "failed": replace(MONTH, measured=RepeatedScore("m9", True, True)),
        "same": MONTH,
        "worse": replace(MONTH, measured=worse),
        "better": replace(MONTH, measured=better),
        "not-compared": replace(MONTH, measured=replace(REPEATED, change=None)),
        "earlier-gone": replace(MONTH, measured=replace(REPEATED, before=None, change=None)),
    }
    return {
        f"week-monthly-{name}": weeks.week_card(summary(month=month, to_label=0))
        for name, month in states.items()
    }


def forms() -> Mapping[str, Mapping[str, Any]]:
    call = CallToLabel("c-1", "Where is my parcel? *Again*", "lost parcel", LABELS, 7, left=20)
    return {
        "form-watch": watches.form("C0TICKETS", "tickets", LIMITS),
        "form-watch-few": watches.form("C0TICKETS", "tickets", replace(LIMITS, share=0.02, days=7)),
        "form-label-call": live_labels.call_form(call, None),
        "form-label-call-next": live_labels.call_form(call, PreviousCall("refund", False)),
        "form-label-call-unclear": live_labels.call_form(call, PreviousCall("", None)),
        "form-label-call-text": live_labels.call_form(replace(call, labels=()), PreviousCall("refund", True)),
        "form-label-calls-done": live_labels.finished_form("tickets", PreviousCall("refund", True)),
    }
