"""Every card in its typical states, by name, for the golden files, the checks and the screenshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any

from bot.cards import (
    audits,
    budgets,
    data_policy,
    datasets,
    documents,
    estimates,
    evaluation_results,
    evaluations,
    freeze,
    general,
    home,
    judge_agreement,
    learning_curves,
    models,
    plans,
    prices,
    prompt_search,
    results,
    runs,
    status,
)
from bot.cards import help as help_cards
from bot.cards.blocks import Message
from bot.cards.budgets import Month
from bot.cards.datasets import Best, DatasetEntry
from bot.cards.estimate_details import EstimateSummary
from bot.cards.estimates import EstimateChoices
from bot.cards.home import HomeOverview
from bot.cards.status import (
    CurveSummary,
    EvaluationSummary,
    LadderSummary,
    Status,
    TunedCurveSummary,
)
from bot.rules.budgets import Budget
from bot.rules.facts import Evidence, Looks
from bot.rules.judge_agreement import HumanAgreement
from bot.rules.prices import MissingPrice
from bot.rules.roi import Quality
from bot.slack.commands import command_help, finetune, help_list
from bot.values.evaluations import CurvePlan, JudgeProgress, LadderProgress
from bot.values.learning_curves import PlannedSize, SizeProgress, TunedCurvePlan, TunedCurveProgress
from bot.values.runs import Advice, Progress, RunResult
from storage.money import Commitment, Freeze
from storage.records import Measurement, Waiver
from tests.cards import (
    builders,
    curve_cards,
    deployment_cards,
    intervention_cards,
    labelling_cards,
    measurements,
    promotion_cards,
    sunset_cards,
    sweep_cards,
)
from tests.cards.builders import BEN, NOW
from trainers.dataset import LabelCount
from trainers.documents import Unreadable
from trainers.evaluation.results import Candidate, Ladder, Rung
from trainers.evaluation.scores import HOW_READ
from trainers.pricing import PriceRow
from trainers.types import Price

Json = Mapping[str, Any]
TARGET = "local/smollm2-135m"
COMMITMENTS = (
    Commitment("run", 8, "tickets", BEN, "C1", NOW, 7_000_000, 0),
    Commitment("measurement", 3, "<odd> *names*", "U2", "C1", NOW, 0, 1_250_000),
    Commitment("run", 7, "tickets", "U2", "C2", NOW, 0, 2_750_000),
    Commitment("questions", 12, "tickets", BEN, "C2", NOW, 0, 1_800),
)
MONTH = Month("November 2026", Budget(20_000_000, 11_000_000), COMMITMENTS)
FROZEN = Freeze(1, BEN, "the bill looks <odd>", "C1", NOW, None)

DAY = date(2026, 11, 25)
TRAINED = Evidence(
    ladder=measurements.ladder_that_none_meets(),
    tuned=measurements.rung("tuned", TARGET, 190),
    task_kind="classification",
)
CLASSICAL = Evidence(ladder=measurements.ladder())
MISSED = Evidence(ladder=measurements.ladder_that_none_meets())
TODAY = {
    "current": "gpt-4o",
    "full_current": "openai/gpt-4o",
    "to_measure": ("openai/gpt-4o", "openai/gpt-4o-mini"),
}
PROMPTED = Evidence(
    ladder=measurements.ladder(measurements.RUNGS[2:]), tuned=measurements.rung("tuned", TARGET, 190)
)


def _entry(state: Any = "ready", rung: Rung | None = None, looks: int = 0, **other: Any) -> DatasetEntry:
    report = builders.report() if state == "ready" else None
    best = Best(rung, 0.85) if report else None
    return DatasetEntry(
        builders.dataset(state=state, **other), report, best, Looks(looks, 200) if looks else None
    )


def _ladder_summary(
    state: Any = "running", progress: LadderProgress | None = None, **other: Any
) -> LadderSummary:
    ladder = measurements.ladder() if state == "done" else None
    measurement = measurements.measurement(state, **other)
    return LadderSummary(
        measurement, measurements.plan(), progress or measurements.half_way_progress(), ladder, NOW
    )


def _datasets() -> dict[str, Message]:
    entries = [
        _entry(rung=measurements.RUNGS[0], version=2),
        _entry(rung=measurements.RUNGS[4], name="mails", looks=3),
        _entry(rung=measurements.rung("kshot", measurements.BIG, 175), name="replies", looks=27),
        _entry(name="orders"),
        _entry("checking", name="faq"),
        _entry("refused", name="old", refusal="Line 7 is not JSON."),
    ]
    return {
        "dataset-received": datasets.received_card(builders.dataset(state="received")),
        "dataset-ready": datasets.checked_card(
            builders.dataset(version=2), builders.report(builders.DUPLICATE, builders.WORTH_A_TRY)
        ),
        "dataset-doubted": datasets.checked_card(
            builders.dataset(), builders.report(*labelling_cards.LABEL_FINDINGS)
        ),
        "dataset-clean": datasets.checked_card(
            builders.dataset(), builders.report(format="chat", labels=(), task="free_text")
        ),
        "dataset-blocked": datasets.checked_card(
            builders.dataset(), builders.blocked_report(builders.NOT_JSON, builders.DUPLICATE)
        ),
        "dataset-few": datasets.checked_card(
            builders.dataset(),
            replace(builders.blocked_report(builders.NOT_JSON, builders.TOO_FEW), rows=3),
            days=30,
        ),
        "dataset-columns": datasets.checked_card(builders.dataset(), builders.report_with_unclear_columns()),
        "dataset-refused": datasets.refused_card(
            builders.dataset(), "The file is a PNG image. Upload CSV or JSONL."
        ),
        "dataset-list": datasets.listing(entries),
        "dataset-list-empty": datasets.listing([]),
        "waiver-asked": data_policy.request_card(builders.dataset(), "Acme Tuning", builders.PERSONAL),
        "waiver-given": data_policy.waiver_recorded_card(
            builders.dataset(), Waiver(1, BEN, "the customers agreed, LEGAL-12", NOW)
        ),
        "dataset-unknown": general.text_message(datasets.no_such_dataset("tikets", ["tickets", "faq"])),
    }


def _beside_a_rung() -> EstimateSummary:
    quality = Quality(200, Decimal(14), Decimal(4), Decimal("0.02"))
    machine = replace(builders.FREE, usd_per_hour=Decimal("0.10"))
    paid = replace(builders.OWN, usd_per_hour=Decimal("0.10"))
    return builders.estimate_summary(
        rows=2_400, evidence=PROMPTED, tuned=machine, training=paid, quality=quality
    )


def _estimates() -> dict[str, Message]:
    machine = replace(builders.FREE, usd_per_hour=Decimal("0.10"))
    paid = replace(builders.OWN, usd_per_hour=Decimal("0.10"))
    cases = {
        "estimate-free-machine": builders.estimate_summary(),
        "estimate-paid-machine": builders.estimate_summary(tuned=machine, training=paid),
        "estimate-hosted": builders.estimate_summary(
            tuned=builders.MINI, training=builders.HOSTED, evaluation_usd=Decimal("0.02")
        ),
        "estimate-loss": builders.estimate_summary(tuned=machine, training=paid, volume=10_000_000),
        "estimate-ending": builders.estimate_summary(now=builders.ENDING, tuned=machine, training=paid),
        "estimate-few-rows": builders.estimate_summary(rows=120),
        "estimate-without-volume": builders.estimate_summary(volume=None, missing=MissingPrice("today")),
        "estimate-go": builders.estimate_summary(
            rows=2_400, evidence=TRAINED, tuned=machine, training=paid, people_hours=Decimal(4)
        ),
        "estimate-cheaper-rung": builders.estimate_summary(
            rows=2_400, evidence=CLASSICAL, training=builders.HOSTED
        ),
        "estimate-with-people": builders.estimate_summary(
            people_hours=Decimal(20), labels=500, usd_per_label=Decimal("0.10"), retrain_months=6
        ),
    }
    missed: dict[str, Any] = {"rows": 2_400, "evidence": MISSED, "tuned": machine, "training": paid}
    cases["estimate-start"] = builders.estimate_summary(**missed, people_hours=Decimal(4))
    cases["estimate-hours-unsaid"] = builders.estimate_summary(**missed)
    cases["estimate-today-unmeasured"] = builders.estimate_summary(
        **missed, people_hours=Decimal(4), about=TODAY
    )
    without_key = {**TODAY, "providers_without_key": (("openai", "OPENAI_API_KEY"),)}
    cases["estimate-without-key"] = builders.estimate_summary(
        **missed, people_hours=Decimal(4), about=without_key
    )
    cases |= _at_a_vendor()
    return {
        **{name: estimates.card(case, TARGET, number=4) for name, case in cases.items()},
        "estimate-beside-a-rung": estimates.card(_beside_a_rung(), TARGET, number=4),
        "estimate-use-encoder": estimates.card(
            builders.estimate_summary(evidence=Evidence(ladder=measurements.ladder_that_encoder_meets())),
            TARGET,
            number=4,
            encoder="local/minilm-encoder",
        ),
        "estimate-shared": estimates.card(
            builders.estimate_summary(), TARGET, number=4, shared_by=builders.ANA
        ),
        "estimate-without-buttons": estimates.card(builders.estimate_summary(), TARGET),
    }


def _at_a_vendor() -> dict[str, EstimateSummary]:
    """On a machine by the hour, and with an unknown price."""
    unknown = Price(None, None, None, None)
    row = PriceRow("acme/llama-8b", "tuned", unknown, "Acme's page", date(2026, 9, 20), is_hosted=True)
    nothing_known = replace(builders.estimate_summary(volume=None), training=None, prices=(row,))
    by_the_hour = replace(
        row, price=Price(Decimal("0.40"), *(Decimal(0),) * 3), hosted_usd_per_hour=Decimal("5.50")
    )
    today = builders.estimate_summary().estimate
    hosted: dict[str, Any] = {
        "prices": (by_the_hour,),
        "measuring_usd": Decimal("2.77"),
        "machine_usd": Decimal("2.75"),
        "asks_vendor": True,
    }
    return {
        "estimate-by-the-hour": replace(builders.estimate_summary(training=builders.HOSTED), **hosted),
        "estimate-by-the-hour-first": replace(
            builders.estimate_summary(training=builders.HOSTED, volume=None), **hosted
        ),
        "estimate-price-missing": replace(nothing_known, today=today.monthly_before if today else None),
    }


def _measuring() -> dict[str, Message]:
    plan, running = measurements.plan(), measurements.measurement()
    asked, own = (
        measurements.measurement("asked"),
        measurements.plan(prompt="Sort this.", documents=("a", "b")),
    )
    waits = measurements.half_way_progress(
        note="openai asks us to wait a minute. Measuring resumes automatically."
    )
    again = "The models were out of reach for an hour."
    return {
        "measure-asked": evaluations.request_card(
            asked, own, measurements.asking_progress(), builders.BUDGET
        ),
        "measure-asked-free": evaluations.request_card(
            asked, plan, measurements.asking_progress(0), builders.NO_BUDGET
        ),
        "measure-preparing": evaluations.progress_card(asked, plan, LadderProgress(), NOW),
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
            measurements.measurement("cancelled"), plan, LadderProgress(), f"Cancelled by <@{BEN}>."
        ),
        "ladder-met": evaluation_results.card(measurements.ladder(), number=3),
        "ladder-none-meets": evaluation_results.card(measurements.ladder_that_none_meets(), number=4),
        "ladder-encoder-meets": evaluation_results.card(
            measurements.ladder_that_encoder_meets(), number=4, encoder="local/minilm-encoder"
        ),
        "ladder-left-out": evaluation_results.card(
            measurements.ladder_that_none_meets(),
            number=4,
            notes=evaluations.left_out(measurements.half_way_progress().arms),
        ),
        "ladder-documents": evaluation_results.card(measurements.ladder_with_documents(), number=11),
        "ladder-undecided": evaluation_results.card(measurements.undecided_ladder(), number=5),
        "ladder-silent": evaluation_results.card(measurements.silent_ladder(), number=10),
        "ladder-many": evaluation_results.card(measurements.ladder_of_many(24), number=6),
        "ladder-cheaper-undecided": evaluation_results.card(
            measurements.ladder_with_cheaper_undecided(), number=7
        ),
        **_judged(),
        **_searched(asked, running),
        "ladder-empty": evaluation_results.card(measurements.ladder(()), number=8),
    }


def _searched(asked: Measurement, running: Measurement) -> dict[str, Message]:
    plan, under_way = measurements.search_plan(), replace(measurements.SEARCH, is_over=False)
    progress = measurements.half_way_progress(stage="searching", search=under_way, spent_micros=430_000)
    return {
        "measure-asked-with-search": evaluations.request_card(
            asked, plan, measurements.asking_progress(2_640_000), builders.BUDGET
        ),
        "measure-searching": evaluations.progress_card(running, plan, progress, NOW),
        "ladder-optimised": evaluation_results.card(
            measurements.optimised_ladder(), number=3, notes=[prompt_search.outcome(measurements.SEARCH)]
        ),
        "ladder-not-optimised": evaluation_results.card(
            measurements.ladder_that_none_meets(),
            number=3,
            notes=[prompt_search.outcome(measurements.FOUND_NOTHING)],
            is_searched=True,
        ),
    }


def _judged() -> dict[str, Message]:
    plan, judge = measurements.judged_plan(), measurements.JUDGED
    asked, running = measurements.measurement("asked"), measurements.measurement()
    progress = measurements.half_way_progress(stage="consulting", judge=replace(judge, of=960, answered=312))
    scored = measurements.ladder(
        [replace(rung, scoring="judge", unread=0) for rung in measurements.RUNGS[2:5]]
    )
    by_words = measurements.ladder(
        [replace(rung, scoring="f1", unread=0) for rung in measurements.RUNGS[2:5]]
    )
    failed = replace(judge, failed="There is no such model.")
    arms = judge.pair.first, judge.pair.second  # type: ignore[union-attr]

    def card(ladder: Ladder, progress: JudgeProgress | None, people: HumanAgreement, **other: Any) -> Message:
        ladder_plan = plan if progress else measurements.plan(labels=())
        notes = judge_agreement.judge_notes(
            ladder_plan.judge, judge_agreement.judged_models(ladder_plan), progress, ladder.scoring, people
        )
        return evaluation_results.card(ladder, number=9, notes=notes[:1], **other)

    return {
        "measure-asked-with-judge": evaluations.request_card(
            asked, plan, measurements.asking_progress(), builders.BUDGET
        ),
        "measure-consulting": evaluations.progress_card(running, plan, progress, NOW),
        "ladder-judged": card(scored, judge, measurements.NOBODY, for_people=True),
        "ladder-judged-and-trusted": card(scored, judge, measurements.TRUSTING, for_people=True),
        "ladder-judged-and-distrusted": card(scored, judge, measurements.DISTRUSTING),
        "ladder-judge-failed": card(by_words, failed, measurements.NOBODY),
        "ladder-by-words": card(by_words, None, measurements.NOBODY),
        "agreement": judge_agreement.agreement_card(9, plan.judge, measurements.TRUSTING, *arms),
        "agreement-poor": judge_agreement.agreement_card(9, plan.judge, measurements.DISTRUSTING, *arms),
        "agreement-without-judge": judge_agreement.agreement_card(9, None, measurements.TRUSTING, *arms),
    }


def _learning() -> dict[str, Message]:
    flat = measurements.curve(points_per_100=0.004, needs=(), predicted=())
    tuned = measurements.curve(arm=Candidate("tuned", measurements.MODEL), points_per_100=2.4)
    return {
        "dataset-dropped": datasets.version_changes(
            builders.dataset(version=2), replace(measurements.DIFF, held_out_dropped=18), 121
        ),
        "dataset-changed": datasets.version_changes(builders.dataset(version=2), measurements.DIFF, 121),
        "dataset-unchanged": datasets.version_changes(builders.dataset(version=3), measurements.SAME, 77),
        "curve-working": learning_curves.progress_card("tickets"),
        "curve-failed": learning_curves.failure_card(
            "tickets", "There are 14 rows; a curve needs 24 at least."
        ),
        "curve": learning_curves.card(measurements.curve(), number=5, label_usd=Decimal("0.10"), bar=0.9),
        "curve-flat": learning_curves.card(flat, number=5, label_usd=Decimal("0.10"), bar=0.95),
        "curve-untold": learning_curves.card(
            measurements.inconclusive_curve(), number=5, label_usd=Decimal("0.10")
        ),
        "curve-tuned": learning_curves.card(tuned, number=5, bar=0.99),
    }


def _others() -> dict[str, Message]:
    texts = ("Where is my parcel?", "It left on Monday.\nYou will have it on Friday.", "We don't know.")
    return {
        "prices": prices.listing(measurements.PRICES, DAY),
        "prices-unknown": prices.listing(measurements.PRICES[-1:], DAY),
        "prices-none": prices.listing((), DAY),
        "preference-asked": judge_agreement.question_card("3 17", *texts, done=4, wanted=30),
        "preference-chosen": judge_agreement.choice_card(*texts, "tie", BEN),
        "knowledge-received": documents.document_received(measurements.document("received")),
        "knowledge-ready": documents.document_ready(measurements.document()),
        "knowledge-refused": documents.document_refused(
            measurements.document("refused"), documents.why_unreadable(Unreadable("no_text"))
        ),
    }


def _plans() -> dict[str, Message]:
    waiting = builders.run("awaiting_approval")
    asked = (waiting, builders.plan(), builders.BUDGET)
    without = builders.free_plan(monthly_before_micros=None, monthly_after_micros=None)
    return {
        "plan-asked": plans.approval_card(*asked, 1),
        "plan-asked-free": plans.approval_card(waiting, without, builders.NO_BUDGET, 2),
        "plan-asked-beside-a-rung": plans.approval_card(
            waiting, builders.plan(predicted=builders.PREDICTED), builders.BUDGET, 1
        ),
        "plan-asked-not-decided": plans.approval_card(waiting, builders.advised_plan(), builders.BUDGET, 1),
        "plan-asked-unmeasured": plans.approval_card(
            waiting, builders.advised_plan(replace(builders.NOT_DECIDED, best=None)), builders.BUDGET, 1
        ),
        "plan-asked-go": plans.approval_card(
            waiting,
            builders.advised_plan(builders.DECIDED_GO, f"{builders.PREDICTED.asked} hours=20"),
            builders.BUDGET,
            1,
        ),
        "plan-partly-approved": plans.approval_card(*asked, 2, builders.APPROVALS),
        "plan-rejected": plans.decided_card(
            builders.run("rejected"),
            builders.plan(),
            builders.BUDGET,
            plans.rejected_by(BEN, "Collect 1,000 rows first."),
        ),
        "plan-replacing": plans.add_replacement_note(
            plans.approval_card(builders.run("awaiting_approval"), builders.plan(), builders.NO_BUDGET, 1),
            [5, 6],
        ),
        "plan-replaced": plans.decided_card(
            builders.run("cancelled"),
            builders.plan(),
            builders.NO_BUDGET,
            plans.superseded_by(8, BEN, "https://example.com/p1"),
        ),
        "plan-expired": plans.decided_card(
            builders.run("expired"),
            builders.free_plan(),
            builders.NO_BUDGET,
            "It was not approved within 24 hours.",
        ),
    }


def _runs() -> dict[str, Message]:
    plan, queued = builders.plan(), Progress(note="Waiting for a free place on the trainer.")
    because = [
        replace(approval, reason="quality counts here, *not* <@U1> cost") for approval in builders.APPROVALS
    ]
    paused = replace(
        builders.TRAINING, is_paused=True, note="The job was paused; its place is free. It goes on."
    )
    measured = _evaluation_summaries()
    summaries = [builders.run_summary(state) for state in ("training", "awaiting_approval", "done", "failed")]
    return {
        "run-approved": runs.card(
            builders.run("approved"), plan, Progress(), NOW, decided=plans.approved_by(builders.APPROVALS)
        ),
        "run-approved-because": runs.card(
            builders.run("approved"), plan, Progress(), NOW, decided=plans.approved_by(because)
        ),
        "run-sent": runs.card(builders.run("creating"), plan, Progress(), NOW),
        "run-queued": runs.card(builders.run("training"), plan, queued, NOW, spent_micros=0),
        "run-training": runs.card(
            builders.run("training"), plan, builders.TRAINING, NOW, spent_micros=18_000, can_pause=True
        ),
        "run-paused": runs.card(
            builders.run("training", wished_by=BEN), plan, paused, NOW, spent_micros=18_000, can_pause=True
        ),
        "run-measuring": runs.card(
            builders.run("evaluating"),
            builders.free_plan(),
            builders.MEASURING,
            NOW,
            spent_micros=0,
            can_pause=True,
        ),
        "run-done": runs.card(
            builders.run("done"), plan, builders.MEASURING, NOW, decided=plans.approved_by(builders.APPROVALS)
        ),
        "run-needs-human": runs.card(builders.run("needs_human"), plan, builders.TRAINING, NOW),
        "run-ended-failed": runs.ended_card(builders.run("failed"), plan, "Training failed: out of memory."),
        "run-ended-cancelled": runs.ended_card(builders.run("cancelled"), plan, f"Cancelled by <@{BEN}>."),
        "run-list": runs.listing(summaries),
        "run-audit": audits.card(audits.History(7, builders.AUDITED)),
        "run-list-empty": runs.listing([]),
        "status": status.card(
            Status(
                summaries[:2],
                _evaluation_summaries()[:7],
                [builders.run_summary("done"), *_evaluation_summaries()[7:]],
            )
        ),
        "status-of-measurements": status.card(Status([], measured[:1], [])),
        "status-in-use": status.card(Status([], [], [], in_use=promotion_cards.in_use())),
        "status-nothing-open": status.card(Status([], [], [builders.run_summary("done")])),
        "status-frozen": status.card(Status(summaries[:1], [], [], FROZEN, ["U2"])),
        "budget": budgets.card(MONTH),
        "budget-empty": budgets.card(replace(MONTH, budget=Budget(20_000_000, 0), commitments=())),
        "budget-none-set": budgets.card(replace(MONTH, budget=Budget(0, 0), commitments=())),
        "budget-half": budgets.warning(MONTH, MONTH.budget, 50),
        "budget-used-up": budgets.warning(MONTH, Budget(20_000_000, 20_000_000), 100),
        "freeze-said": freeze.frozen_card(FROZEN, 2),
        "freeze-wanted": freeze.unfreeze_requested("U2", {"U1", "U3"}),
        "freeze-wanted-alone": freeze.unfreeze_requested("U2", set()),
        "freeze-lifted": freeze.unfrozen_card(FROZEN, ["U2", "U3"]),
        "run-held": freeze.add_freeze_notice(
            runs.card(builders.run("approved"), plan, Progress(), NOW), FROZEN
        ),
        "status-empty": status.card(Status([], [], [])),
    }


def _evaluation_summaries() -> list[EvaluationSummary]:
    """Seven that are open, then two with a result."""
    curve = CurvePlan("tickets", 1, builders.HASH, builders.HASH, (600,))
    sizes = tuple(PlannedSize(rows, (), 40_000, 1_000) for rows in (100, 200, 400))
    tuned = TunedCurvePlan(
        "tickets",
        2,
        builders.HASH,
        builders.HASH,
        77,
        ("a", "b"),
        "local",
        "smollm2-135m",
        sizes,
        1,
        "[]",
        (800,),
    )
    done = SizeProgress(100, builders.HASH, "ft-1", "done")
    trains = SizeProgress(200, builders.HASH, "ft-2", "training", training=builders.TRAINING)
    half = TunedCurveProgress("training", (done, trains, SizeProgress(400, builders.HASH, "ft-3")), 123_000)
    return [
        _ladder_summary(),
        _ladder_summary("asked", measurements.asking_progress(), id=4),
        _ladder_summary("asked", LadderProgress(), id=5),
        CurveSummary(measurements.measurement(kind="curve", id=6), curve, None),
        TunedCurveSummary(measurements.measurement(kind="curve", id=7), tuned, half, None),
        TunedCurveSummary(
            measurements.measurement("asked", kind="curve", id=8), tuned, replace(half, stage="asking"), None
        ),
        TunedCurveSummary(
            measurements.measurement(kind="curve", id=9), tuned, replace(half, stage="judging"), None
        ),
        _ladder_summary("done", id=2),
        CurveSummary(measurements.measurement("done", kind="curve", id=1), curve, measurements.curve()),
    ]


def _results() -> dict[str, Message]:
    done, plan = builders.run("done"), builders.plan()
    predicted = builders.plan(predicted=builders.PREDICTED)
    free = builders.result(actual_micros=0, estimated_micros=0)
    unread = replace(builders.arm(47, 0.18, 0.3, 132, n=200), unlisted=170)
    to_measure = replace(builders.COMPARE, measure=("openai/gpt-4o",))

    def judged(other: int, tuned: int, advice: Advice, **values: Any) -> RunResult:
        return builders.result_with(
            tuned, beside=measurements.ladder_beside_classical(other, tuned), advice=advice, **values
        )

    cases = {
        "result-better": (plan, builders.result()),
        "result-better-free": (builders.free_plan(), free),
        "result-equal": (builders.plan(monthly_before_micros=None), builders.equal_result()),
        "result-worse": (plan, builders.worse_result()),
        "result-go": (predicted, judged(140, 190, builders.GO)),
        "result-go-with-people": (
            builders.advised_plan(builders.DECIDED_GO, f"{builders.PREDICTED.asked} hours=20"),
            judged(140, 190, builders.GO),
        ),
        "result-go-time-unsaid": (builders.advised_plan(), judged(140, 190, builders.GO)),
        "result-to-compare": (builders.advised_plan(), judged(140, 190, to_measure)),
        "result-alone": (
            predicted,
            builders.result_with(190, beside=measurements.ladder_of_tuned_alone(190), advice=builders.ALONE),
        ),
        "result-below-the-bar": (builders.advised_plan(), judged(111, 155, builders.MISSES)),
        "result-failed": (builders.advised_plan(), judged(90, 0, builders.MISSES, base=unread)),
        "result-silent": (
            builders.advised_plan(),
            builders.result_with(12, beside=measurements.ladder_of_silent_tuned(), advice=builders.MISSES),
        ),
        "result-over-budget": (plan, replace(builders.result(), actual_micros=310_000)),
        "result-nothing-read": (
            predicted,
            builders.result_with(
                190, base=unread, beside=measurements.ladder_of_tuned_alone(190), advice=builders.GO
            ),
        ),
        "result-cheaper-rung": (predicted, judged(190, 184, builders.CHEAPER)),
        "result-by-words": (
            predicted,
            builders.result_with(150, labelled=False, beside=measurements.ladder_by_f1()),
        ),
    }
    not_worse = builders.result_with(
        184, beside=measurements.ladder_beside_prompted(), not_worse=builders.NOT_WORSE, margin=0.03
    )
    prompted = builders.plan(predicted=builders.PREDICTED, judge="openai/gpt-4.1")
    judged_text = builders.result_with(
        184,
        labelled=False,
        beside=measurements.ladder_beside_prompted(scoring="judge"),
        judge=measurements.JUDGED,
    )
    return {
        **{name: results.card(done, *case) for name, case in cases.items()},
        "result-to-be-used": results.card(done, *cases["result-go"], may_be_used=True),
        "result-to-be-used-undecided": results.card(done, *cases["result-to-compare"], may_be_used=True),
        "result-not-worse": results.card(done, predicted, not_worse, may_be_used=True),
        "result-got-worse": results.card(
            done, predicted, replace(not_worse, worse_labels=builders.LOSSES), may_be_used=True
        ),
        "result-judged": results.card(done, prompted, judged_text),
        "result-judge-failed": results.card(
            done,
            prompted,
            builders.result_with(
                150,
                labelled=False,
                beside=measurements.ladder_by_f1(),
                judge=replace(measurements.JUDGED, failed="There is no such model."),
            ),
        ),
        "result-changed-rows": results.changed_rows_card(builders.changed_rows(6)),
    }


def _details() -> dict[str, Json]:
    """The forms behind a card's button."""
    predicted = builders.plan(predicted=builders.PREDICTED)
    result = builders.result_with(
        190, beside=measurements.ladder_beside_classical(140, 190), advice=builders.GO
    )
    done = replace(
        builders.run_summary("done"), plan=predicted, result=result, actuals=builders.actuals(0.84)
    )
    by_words = replace(
        done,
        result=builders.result_with(150, labelled=False, beside=measurements.ladder_by_f1()),
        actuals=builders.actuals(None),
        running=measurements.MANY_ERRORS,
    )
    people, judge = measurements.DISTRUSTING, measurements.JUDGED
    judged = measurements.ladder(
        [replace(rung, scoring="judge", unread=0) for rung in measurements.RUNGS[2:5]]
    )
    plan = measurements.judged_plan()
    notes = judge_agreement.judge_notes(
        plan.judge, judge_agreement.judged_models(plan), judge, judged.scoring, people
    )
    got_worse = replace(
        done,
        plan=replace(predicted, judge=plan.judge),
        result=builders.result_with(
            184,
            labelled=False,
            beside=measurements.ladder_beside_prompted(scoring="judge"),
            judge=judge,
            agreement=people,
            worse_labels=builders.LOSSES,
        ),
    )
    ladders = {
        "ladder-met-details": evaluation_results.details(
            measurements.ladder(),
            spent_micros=590_000,
            estimated_micros=640_000,
            how_read=HOW_READ,
            notes=["Passages with personal data were kept from openai/gpt-4o-mini."],
        ),
        "ladder-none-meets-details": evaluation_results.details(
            measurements.ladder_that_none_meets(), spent_micros=0, estimated_micros=0
        ),
        "ladder-documents-details": evaluation_results.details(measurements.ladder_with_documents()),
        "ladder-many-details": evaluation_results.details(measurements.ladder_of_many(24)),
        "ladder-judged-details": evaluation_results.details(judged, notes=notes),
        "optimised-details": (
            *evaluation_results.details(measurements.optimised_ladder()),
            *prompt_search.details(
                measurements.search_plan(optimised=measurements.SEARCH.prompt), measurements.SEARCH
            ),
        ),
        "curve-details": learning_curves.details(measurements.curve()),
        "curve-tuned-details": learning_curves.details(curve_cards.tuned_curve(), Decimal("0.50")),
    }
    return {
        "result-details": runs.details_form(done),
        "result-by-words-details": runs.details_form(by_words),
        "result-judged-details": runs.details_form(got_worse),
        "run-training-details": runs.details_form(builders.run_summary("training")),
        "form-try": models.try_form("tickets-7", "C0TICKETS"),
        **{name: general.details_modal("Measurement m3", parts) for name, parts in ladders.items()},
    }


def _models() -> dict[str, Message]:
    return {
        "try-thinking": models.pending_card(builders.ASK),
        "try-answered": models.answer_card(builders.ASK, builders.ANSWER),
        "try-failed": models.failure_card(
            builders.ASK, "The trainer is down. It is started with the bot: try again."
        ),
        "help": help_cards.card(),
        "help-of-one": help_cards.one_command(command_help(finetune.commands["delete"])),
        "rights": general.rights_card(
            [
                general.Right("read", ("datasets", "status"), None),
                general.Right("approve", (), "Only an approver may do that: <@U0BEN>."),
                general.Right("promote", ("promote", "rollback"), "Only an approver may do that: <@U0BEN>."),
            ]
        ),
        "file-hint": general.file_hint(),
    }


def _views() -> dict[str, Json]:
    by_state = {state: [builders.run_summary(state)] for state in ("awaiting_approval", "training", "done")}
    return {
        "home": home.page(
            HomeOverview(
                mine=by_state["awaiting_approval"],
                to_confirm=_evaluation_summaries()[1:2],
                open=[*by_state["training"], *_evaluation_summaries()[:1]],
                recent=[*by_state["done"], *_evaluation_summaries()[7:]],
                budget=builders.BUDGET,
                in_use=promotion_cards.in_use(),
                links={
                    f"{card} {number}": f"https://x.slack.com/archives/C0/p{number}"
                    for card, number in (("plan", 7), ("run", 7), ("measurement", 4))
                },
            )
        ),
        "home-nothing-waits": home.page(HomeOverview([], [], [], by_state["done"], builders.NO_BUDGET)),
        "home-empty": home.page(HomeOverview([], [], [], [], builders.NO_BUDGET, is_new=True)),
        "form-columns": datasets.columns_form(
            builders.dataset(),
            builders.report_with_unclear_columns(),
            [
                ["text", "category", "topic"],
                ["Where is my parcel? " * 4, "delivery", "lost"],
                ["A refund", "billing"],
            ],
        ),
        "form-upload": datasets.upload_modal("C0TICKETS"),
        "form-upload-again": datasets.upload_modal("C0TICKETS", name="tickets"),
        "form-all-commands": help_cards.all_commands(help_list()),
        "form-upload-of-a-message": datasets.upload_modal("C0TICKETS", file_id="F1", filename="tickets.csv"),
        "form-estimate": estimates.form(
            "C0TICKETS", EstimateChoices(["tickets", "faq"], [TARGET, "openai/gpt-4.1"])
        ),
        "form-estimate-before": estimates.form(
            "C0TICKETS",
            EstimateChoices(["tickets", "faq"], ["openai/gpt-4.1", TARGET]),
            "faq",
            estimates.AskedEstimate(4, "faq", {"current": "gpt-4o", "volume": "10000000", "target": TARGET}),
        ),
        "estimate-details": estimates.details_form(_beside_a_rung(), TARGET),
        "estimate-details-free": estimates.details_form(builders.estimate_summary(), TARGET),
        "form-estimate-of-one": estimates.form(
            "C0TICKETS", EstimateChoices(["tickets", "faq"], [TARGET]), "faq"
        ),
        "form-baseline": evaluations.form(
            "C0TICKETS",
            evaluations.BaselineChoices(["tickets", "faq"], [TARGET, "openai/gpt-4o-mini"], "faq"),
        ),
        "form-baseline-with-rules": evaluations.form(
            "C0TICKETS", evaluations.BaselineChoices(["tickets"], [TARGET], may_overrule=True)
        ),
        "form-baseline-without-models": evaluations.form(
            "C0TICKETS", evaluations.BaselineChoices(["tickets"], [])
        ),
        "form-knowledge": documents.document_form("C0TICKETS", "tickets"),
        "form-knowledge-more": documents.document_form("C0TICKETS", "tickets", [measurements.document()] * 7),
        "form-waiver": data_policy.form(builders.dataset()),
        "form-reject": plans.reject_modal(builders.HASH),
        "plan-details": plans.details_form(
            builders.run("awaiting_approval"), builders.advised_plan(), builders.BUDGET
        ),
        "form-approve": plans.approve_modal(builders.run("awaiting_approval"), builders.advised_plan()),
        "form-approve-free": plans.approve_modal(builders.run("awaiting_approval"), builders.free_plan()),
        **intervention_cards.forms(),
        **labelling_cards.forms(),
        "form-notice": general.notice_modal("Use as training data", "This message has no file."),
    }


@cache
def messages() -> dict[str, Message]:
    about_data = {
        **_datasets(),
        **_estimates(),
        **_measuring(),
        **_learning(),
        **curve_cards.cards(),
        **sunset_cards.cards(),
        **deployment_cards.cards(),
        **sweep_cards.cards(),
        **intervention_cards.cards(),
        **labelling_cards.cards(),
        **promotion_cards.cards(),
        **_others(),
    }
    return {**about_data, **_plans(), **_runs(), **_results(), **_models()}


@cache
def views() -> dict[str, Json]:
    return {**_views(), **_details()}


@cache
def payloads() -> dict[str, Json]:
    """As they are sent to Slack. A message has its newest form beside the classic one."""
    return {**{name: message.letter() for name, message in messages().items()}, **views()}


def many_labels(count: int, name: str) -> tuple[LabelCount, ...]:
    return tuple(LabelCount(f"{name} {number}", 10_000 // (number + 1)) for number in range(count))
