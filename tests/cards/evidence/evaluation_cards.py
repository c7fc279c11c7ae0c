"""Cards of measurements and their comparisons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bot.cards.common import advice, judge_agreement
from bot.cards.common.blocks import Message
from bot.cards.common.candidates import looks_sentence
from bot.cards.evidence import evaluation_results, evaluations, judge_checks, prompt_search
from bot.rules.facts import Looks
from bot.rules.judge_agreement import CheckedJudge, JudgeChecks
from bot.values.evaluations import ComparisonProgress, JudgeProgress
from storage.records import Measurement
from tests.cards import measurements
from tests.cards.builders import BEN, BUDGET, NO_BUDGET, NOW
from tests.cards.measurements import (
    CANDIDATES,
    COMPARED,
    DISTRUSTING,
    FOUND_NOTHING,
    JUDGED,
    LOPSIDED,
    NOBODY,
    SEARCH,
    SOME,
    TRUSTING,
)
from trainers.evaluation.results import Comparison, EncoderUse

CHOSEN = EncoderUse("multilingual-e5-small", 312, "all-minilm-l6-v2", 262, 400, is_english=False)


def cards() -> dict[str, Message]:
    plan, running = measurements.plan(), measurements.measurement()
    requested, own = (
        measurements.measurement("asked"),
        measurements.plan(prompt="Sort this.", documents=("a", "b")),
    )
    waits = measurements.half_way_progress(
        note="openai asks us to wait a minute. Measuring resumes automatically."
    )
    again = "The models were out of reach for an hour."
    return {
        "measure-asked": evaluations.request_card(requested, own, measurements.asking_progress(), BUDGET),
        "measure-asked-free": evaluations.request_card(
            requested, plan, measurements.asking_progress(0), NO_BUDGET
        ),
        "measure-preparing": evaluations.progress_card(requested, plan, ComparisonProgress(), NOW),
        "measure-running": evaluations.progress_card(running, plan, waits, NOW),
        "measure-judging": evaluations.progress_card(
            running, plan, measurements.half_way_progress(stage="judging"), NOW
        ),
        "measure-failed": evaluations.closed_card(
            measurements.measurement("failed", actual_micros=230_000),
            plan,
            measurements.half_way_progress(),
            again,
        ),
        "measure-cancelled": evaluations.closed_card(
            measurements.measurement("cancelled"), plan, ComparisonProgress(), f"Cancelled by <@{BEN}>."
        ),
        "comparison-met": evaluation_results.card(measurements.comparison(), number=3),
        "comparison-none-meets": evaluation_results.card(measurements.comparison_that_none_meets(), number=4),
        "comparison-encoder-meets": evaluation_results.card(
            measurements.comparison_that_encoder_meets(), number=4, offered=advice.Offered(4)
        ),
        "comparison-in-use": evaluation_results.card(
            measurements.comparison_that_encoder_meets(),
            number=4,
            offered=advice.Offered(in_use_since=NOW),
        ),
        "comparison-not-shown-better": evaluation_results.card(
            measurements.comparison_that_encoder_meets(),
            number=4,
            offered=advice.Offered(replaces="the prompt alone on openai/gpt-4o"),
        ),
        "comparison-encoder-chosen": evaluation_results.card(
            measurements.comparison_in_german(CHOSEN), number=4
        ),
        "comparison-encoder-for-english": evaluation_results.card(
            measurements.comparison_in_german(EncoderUse("all-minilm-l6-v2", is_english=False)), number=4
        ),
        "comparison-fields": evaluation_results.card(measurements.comparison_of_fields(), number=4),
        "comparison-left-out": evaluation_results.card(
            measurements.comparison_that_none_meets(),
            number=4,
            notes=evaluations.left_out(measurements.half_way_progress().candidates),
        ),
        "comparison-documents": evaluation_results.card(measurements.comparison_with_documents(), number=11),
        "comparison-undecided": evaluation_results.card(measurements.undecided_comparison(), number=5),
        "comparison-rewritten": evaluation_results.card(
            measurements.rewritten_comparison(),
            number=12,
            notes=[looks_sentence(Looks(4, 200))],
        ),
        "comparison-written-after-wrong-rows": evaluation_results.card(
            measurements.rewritten_comparison(fresh=()), number=13
        ),
        "comparison-taught-by-wrong-rows": evaluation_results.card(
            measurements.rewritten_comparison(choices=1, read=(3, 8, 20)), number=14
        ),
        "comparison-beyond-rows": evaluation_results.card(
            measurements.rewritten_comparison(choices=1, look=1, rows_to_decide=None), number=15
        ),
        "comparison-silent": evaluation_results.card(measurements.silent_comparison(), number=10),
        "comparison-unreadable": evaluation_results.card(measurements.unreadable_comparison(), number=12),
        "comparison-babbling": evaluation_results.card(
            measurements.comparison_of_a_babbling_model(), number=13
        ),
        "comparison-many": evaluation_results.card(measurements.comparison_of_many(24), number=6),
        "comparison-cheaper-undecided": evaluation_results.card(
            measurements.comparison_with_cheaper_undecided(), number=7
        ),
        **_judged(),
        **_searched(requested, running),
        "comparison-empty": evaluation_results.card(measurements.comparison(()), number=8),
    }


def _searched(requested: Measurement, running: Measurement) -> dict[str, Message]:
    plan, under_way = measurements.search_plan(), replace(SEARCH, is_over=False)
    progress = measurements.half_way_progress(stage="searching", search=under_way, spent_micros=430_000)
    return {
        "measure-asked-with-search": evaluations.request_card(
            requested, plan, measurements.asking_progress(2_640_000), BUDGET
        ),
        "measure-searching": evaluations.progress_card(running, plan, progress, NOW),
        "comparison-optimised": evaluation_results.card(
            measurements.optimised_comparison(), number=3, notes=[prompt_search.outcome(SEARCH)]
        ),
        "comparison-not-optimised": evaluation_results.card(
            measurements.comparison_that_none_meets(),
            number=3,
            notes=[prompt_search.outcome(FOUND_NOTHING)],
            is_searched=True,
        ),
    }


def _judged() -> dict[str, Message]:
    plan, judge = measurements.judged_plan(), JUDGED
    requested, running = measurements.measurement("asked"), measurements.measurement()
    progress = measurements.half_way_progress(stage="consulting", judge=replace(judge, of=960, answered=312))
    progress = replace(progress, candidates=progress.candidates[2:])  # the plan has no free candidates
    scored = measurements.comparison(
        [replace(candidate, scoring="judge", unread=0) for candidate in CANDIDATES[2:5]]
    )
    by_words = measurements.comparison(
        [replace(candidate, scoring="f1", unread=0) for candidate in CANDIDATES[2:5]]
    )
    failed = replace(judge, failed="There is no such model.")
    mixed = measurements.comparison_of_calls_and_texts()
    mixed_judged = replace(
        mixed,
        candidates=tuple(replace(candidate, scoring="judge", unread=0) for candidate in mixed.candidates),
    )
    candidates = judge.pair.first, judge.pair.second  # type: ignore[union-attr]

    def card(
        comparison: Comparison, progress: JudgeProgress | None, people: JudgeChecks, **other: Any
    ) -> Message:
        comparison_plan = plan if progress else measurements.plan(labels=())
        notes = judge_agreement.judge_notes(
            comparison_plan.judge,
            judge_agreement.judged_models(comparison_plan),
            progress,
            comparison,
            people,
        )
        checked = None
        if comparison.scoring == "judge":
            number = 9 if other.get("for_people") else None
            checked = CheckedJudge(str(comparison_plan.judge), people, number)
        return evaluation_results.card(comparison, number=9, notes=notes[:1], judge=checked, **other)

    return {
        "measure-asked-with-judge": evaluations.request_card(
            requested, plan, measurements.asking_progress(), BUDGET
        ),
        "measure-consulting": evaluations.progress_card(running, plan, progress, NOW),
        "comparison-judged": card(scored, judge, NOBODY, for_people=True),
        "comparison-judged-and-trusted": card(scored, judge, TRUSTING, for_people=True),
        "comparison-judged-and-distrusted": card(scored, judge, DISTRUSTING),
        "comparison-judge-failed": card(by_words, failed, NOBODY),
        "comparison-by-words": card(by_words, None, NOBODY),
        "comparison-calls-and-words": card(mixed, None, NOBODY),
        "comparison-calls-and-words-judged": card(mixed_judged, judge, TRUSTING, for_people=True),
        "comparison-calls-and-words-judge-failed": card(mixed, failed, NOBODY),
        "comparison-judged-and-checked": card(scored, judge, SOME, for_people=True),
        "judge-trusted": judge_checks.checks_card(9, str(plan.judge), TRUSTING),
        "judge-distrusted": judge_checks.checks_card(9, str(plan.judge), DISTRUSTING),
        "judge-checked-ten": judge_checks.checks_card(9, str(plan.judge), SOME),
        "judge-lopsided": judge_checks.checks_card(9, str(plan.judge), LOPSIDED),
        "judge-question": judge_checks.answer_card(
            "9 a1b2 U2",
            "Where is my parcel?",
            "It leaves the house in two days.",
            "It is on its way.",
            done=3,
            wanted=10,
        ),
        "judge-answered": judge_checks.verdict_card(
            "Where is my parcel?", "It leaves the house in two days.", "It is on its way.", "no", "U2"
        ),
        "agreement-without-judge": judge_agreement.agreement_card(9, COMPARED, *candidates),
    }
