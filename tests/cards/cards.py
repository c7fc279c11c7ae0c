"""Every card in its typical states, by name: the golden files, the limits and the screenshots all use these."""

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
    curve_cards,
    doubt_cards,
    hosting_cards,
    label_cards,
    made,
    measured,
    promotion_cards,
    sunset_cards,
    sweep_cards,
)
from tests.cards.made import BEN, NOW
from trainers.dataset import LabelCount
from trainers.documents import Unreadable
from trainers.evaluation.results import Candidate, Ladder, Rung
from trainers.evaluation.scores import HOW_READ
from trainers.pricing import PriceRow
from trainers.types import Price

Json = Mapping[str, Any]
TARGET = "local/smollm2-135m"
HELD = (
    Commitment("run", 8, "tickets", BEN, "C1", NOW, 7_000_000, 0),
    Commitment("measurement", 3, "<odd> *names*", "U2", "C1", NOW, 0, 1_250_000),
    Commitment("run", 7, "tickets", "U2", "C2", NOW, 0, 2_750_000),
    Commitment("questions", 12, "tickets", BEN, "C2", NOW, 0, 1_800),
)
MONTH = Month("November 2026", Budget(20_000_000, 11_000_000), HELD)
FROZEN = Freeze(1, BEN, "the bill looks <odd>", "C1", NOW, None)

DAY = date(2026, 11, 25)
TRAINED = Evidence(
    ladder=measured.none_meets(), tuned=measured.rung("tuned", TARGET, 190), task_kind="classification"
)
CLASSICAL = Evidence(ladder=measured.ladder())
MISSED = Evidence(ladder=measured.none_meets())
TODAY = {
    "current": "gpt-4o",
    "full_current": "openai/gpt-4o",
    "to_measure": ("openai/gpt-4o", "openai/gpt-4o-mini"),
}
PROMPTED = Evidence(ladder=measured.ladder(measured.RUNGS[2:]), tuned=measured.rung("tuned", TARGET, 190))


def _listed(state: Any = "ready", rung: Rung | None = None, looks: int = 0, **other: Any) -> DatasetEntry:
    report = made.report() if state == "ready" else None
    best = Best(rung, 0.85) if report else None
    return DatasetEntry(
        made.dataset(state=state, **other), report, best, Looks(looks, 200) if looks else None
    )


def _ladder_look(state: Any = "running", known: LadderProgress | None = None, **other: Any) -> LadderSummary:
    found = measured.ladder() if state == "done" else None
    measurement = measured.measurement(state, **other)
    return LadderSummary(measurement, measured.plan(), known or measured.half_way(), found, NOW)


def _datasets() -> dict[str, Message]:
    listed = [
        _listed(rung=measured.RUNGS[0], version=2),
        _listed(rung=measured.RUNGS[4], name="mails", looks=3),
        _listed(rung=measured.rung("kshot", measured.BIG, 175), name="replies", looks=27),
        _listed(name="orders"),
        _listed("checking", name="faq"),
        _listed("refused", name="old", refusal="Line 7 is not JSON."),
    ]
    return {
        "dataset-received": datasets.received_card(made.dataset(state="received")),
        "dataset-ready": datasets.checked_card(
            made.dataset(version=2), made.report(made.DUPLICATE, made.WORTH_A_TRY)
        ),
        "dataset-doubted": datasets.checked_card(made.dataset(), made.report(*label_cards.DOUBTS)),
        "dataset-clean": datasets.checked_card(
            made.dataset(), made.report(format="chat", labels=(), task="free_text")
        ),
        "dataset-blocked": datasets.checked_card(
            made.dataset(), made.blocked_report(made.NOT_JSON, made.DUPLICATE)
        ),
        "dataset-few": datasets.checked_card(
            made.dataset(), replace(made.blocked_report(made.NOT_JSON, made.TOO_FEW), rows=3), days=30
        ),
        "dataset-columns": datasets.checked_card(made.dataset(), made.unclear_report()),
        "dataset-refused": datasets.refused_card(
            made.dataset(), "The file is a PNG image. Upload CSV or JSONL."
        ),
        "dataset-list": datasets.listing(listed),
        "dataset-list-empty": datasets.listing([]),
        "waiver-asked": data_policy.request_card(made.dataset(), "Acme Tuning", made.PERSONAL),
        "waiver-given": data_policy.waiver_recorded_card(
            made.dataset(), Waiver(1, BEN, "the customers agreed, LEGAL-12", NOW)
        ),
        "dataset-unknown": general.text_message(datasets.no_such_dataset("tikets", ["tickets", "faq"])),
    }


def _beside_a_rung() -> made.EstimateSummary:
    quality = Quality(200, Decimal(14), Decimal(4), Decimal("0.02"))
    machine, paid = (replace(cost, usd_per_hour=Decimal("0.10")) for cost in (made.FREE, made.OWN))
    return made.estimated(rows=2_400, evidence=PROMPTED, tuned=machine, training=paid, quality=quality)


def _estimates() -> dict[str, Message]:
    machine = replace(made.FREE, usd_per_hour=Decimal("0.10"))
    paid = replace(made.OWN, usd_per_hour=Decimal("0.10"))
    cases = {
        "estimate-free-machine": made.estimated(),
        "estimate-paid-machine": made.estimated(tuned=machine, training=paid),
        "estimate-hosted": made.estimated(
            tuned=made.MINI, training=made.HOSTED, evaluation_usd=Decimal("0.02")
        ),
        "estimate-loss": made.estimated(tuned=machine, training=paid, volume=10_000_000),
        "estimate-ending": made.estimated(now=made.ENDING, tuned=machine, training=paid),
        "estimate-few-rows": made.estimated(rows=120),
        "estimate-without-volume": made.estimated(volume=None, missing=MissingPrice("today")),
        "estimate-go": made.estimated(
            rows=2_400, evidence=TRAINED, tuned=machine, training=paid, people_hours=Decimal(4)
        ),
        "estimate-cheaper-rung": made.estimated(rows=2_400, evidence=CLASSICAL, training=made.HOSTED),
        "estimate-with-people": made.estimated(
            people_hours=Decimal(20), labels=500, usd_per_label=Decimal("0.10"), retrain_months=6
        ),
    }
    missed = {"rows": 2_400, "evidence": MISSED, "tuned": machine, "training": paid}
    cases["estimate-start"] = made.estimated(**missed, people_hours=Decimal(4))
    cases["estimate-hours-unsaid"] = made.estimated(**missed)
    cases["estimate-today-unmeasured"] = made.estimated(**missed, people_hours=Decimal(4), about=TODAY)
    keyless = {**TODAY, "providers_without_key": (("openai", "OPENAI_API_KEY"),)}
    cases["estimate-without-key"] = made.estimated(**missed, people_hours=Decimal(4), about=keyless)
    cases |= _at_a_vendor()
    return {
        **{name: estimates.card(case, TARGET, number=4) for name, case in cases.items()},
        "estimate-beside-a-rung": estimates.card(_beside_a_rung(), TARGET, number=4),
        "estimate-use-encoder": estimates.card(
            made.estimated(evidence=Evidence(ladder=measured.encoder_meets())),
            TARGET,
            number=4,
            encoder="local/minilm-encoder",
        ),
        "estimate-shared": estimates.card(made.estimated(), TARGET, number=4, shared_by=made.ANA),
        "estimate-without-buttons": estimates.card(made.estimated(), TARGET),
    }


def _at_a_vendor() -> dict[str, made.EstimateSummary]:
    """On a machine by the hour, and where a price is missing."""
    unsaid = Price(None, None, None, None)
    row = PriceRow("acme/llama-8b", "tuned", unsaid, "Acme's page", date(2026, 9, 20), is_hosted=True)
    nothing_said = replace(made.estimated(volume=None), training=None, prices=(row,))
    by_the_hour = replace(
        row, price=Price(Decimal("0.40"), *(Decimal(0),) * 3), hosted_usd_per_hour=Decimal("5.50")
    )
    known = {
        "prices": (by_the_hour,),
        "measuring_usd": Decimal("2.77"),
        "machine_usd": Decimal("2.75"),
        "asks_vendor": True,
    }
    return {
        "estimate-by-the-hour": replace(made.estimated(training=made.HOSTED), **known),
        "estimate-by-the-hour-first": replace(made.estimated(training=made.HOSTED, volume=None), **known),
        "estimate-price-missing": replace(nothing_said, today=made.estimated().estimate.monthly_before),
    }


def _measuring() -> dict[str, Message]:
    plan, running = measured.plan(), measured.measurement()
    asked, own = measured.measurement("asked"), measured.plan(prompt="Sort this.", documents=("a", "b"))
    waits = measured.half_way(note="openai asks us to wait a minute. Measuring resumes automatically.")
    again = "The models were out of reach for an hour."
    return {
        "measure-asked": evaluations.request_card(asked, own, measured.asking(), made.BUDGET),
        "measure-asked-free": evaluations.request_card(asked, plan, measured.asking(0), made.NO_BUDGET),
        "measure-preparing": evaluations.progress_card(asked, plan, LadderProgress(), NOW),
        "measure-running": evaluations.progress_card(running, plan, waits, NOW),
        "measure-judging": evaluations.progress_card(running, plan, measured.half_way(stage="judging"), NOW),
        "measure-failed": evaluations.closed_card(
            measured.measurement("failed", actual_micros=230_000), plan, measured.half_way(), again
        ),
        "measure-cancelled": evaluations.closed_card(
            measured.measurement("cancelled"), plan, LadderProgress(), f"Cancelled by <@{BEN}>."
        ),
        "ladder-met": evaluation_results.card(measured.ladder(), number=3),
        "ladder-none-meets": evaluation_results.card(measured.none_meets(), number=4),
        "ladder-encoder-meets": evaluation_results.card(
            measured.encoder_meets(), number=4, encoder="local/minilm-encoder"
        ),
        "ladder-left-out": evaluation_results.card(
            measured.none_meets(), number=4, notes=evaluations.left_out(measured.half_way().arms)
        ),
        "ladder-documents": evaluation_results.card(measured.with_documents(), number=11),
        "ladder-undecided": evaluation_results.card(measured.undecided(), number=5),
        "ladder-silent": evaluation_results.card(measured.silent(), number=10),
        "ladder-many": evaluation_results.card(measured.many(24), number=6),
        "ladder-cheaper-undecided": evaluation_results.card(measured.cheaper_undecided(), number=7),
        **_judged(),
        **_searched(asked, running),
        "ladder-empty": evaluation_results.card(measured.ladder(()), number=8),
    }


def _searched(asked: Measurement, running: Measurement) -> dict[str, Message]:
    plan, under_way = measured.search_plan(), replace(measured.SEARCH, is_over=False)
    progress = measured.half_way(stage="searching", search=under_way, spent_micros=430_000)
    return {
        "measure-asked-with-search": evaluations.request_card(
            asked, plan, measured.asking(2_640_000), made.BUDGET
        ),
        "measure-searching": evaluations.progress_card(running, plan, progress, NOW),
        "ladder-optimised": evaluation_results.card(
            measured.optimised(), number=3, notes=[prompt_search.outcome(measured.SEARCH)]
        ),
        "ladder-not-optimised": evaluation_results.card(
            measured.none_meets(),
            number=3,
            notes=[prompt_search.outcome(measured.FOUND_NOTHING)],
            is_searched=True,
        ),
    }


def _judged() -> dict[str, Message]:
    plan, judge = measured.judged_plan(), measured.JUDGED
    asked, running = measured.measurement("asked"), measured.measurement()
    progress = measured.half_way(stage="consulting", judge=replace(judge, of=960, answered=312))
    scored = measured.ladder([replace(one, scoring="judge", unread=0) for one in measured.RUNGS[2:5]])
    by_words = measured.ladder([replace(one, scoring="f1", unread=0) for one in measured.RUNGS[2:5]])
    failed = replace(judge, failed="There is no such model.")
    arms = judge.pair.first, judge.pair.second  # type: ignore[union-attr]  # it has one

    def card(found: Ladder, judged: JudgeProgress | None, people: HumanAgreement, **other: Any) -> Message:
        of = plan if judged else measured.plan(labels=())
        notes = judge_agreement.judge_notes(
            of.judge, judge_agreement.judged_models(of), judged, found.scoring, people
        )
        return evaluation_results.card(found, number=9, notes=notes[:1], **other)

    return {
        "measure-asked-with-judge": evaluations.request_card(asked, plan, measured.asking(), made.BUDGET),
        "measure-consulting": evaluations.progress_card(running, plan, progress, NOW),
        "ladder-judged": card(scored, judge, measured.NOBODY, for_people=True),
        "ladder-judged-and-trusted": card(scored, judge, measured.TRUSTING, for_people=True),
        "ladder-judged-and-distrusted": card(scored, judge, measured.DISTRUSTING),
        "ladder-judge-failed": card(by_words, failed, measured.NOBODY),
        "ladder-by-words": card(by_words, None, measured.NOBODY),
        "agreement": judge_agreement.agreement_card(9, plan.judge, measured.TRUSTING, *arms),
        "agreement-poor": judge_agreement.agreement_card(9, plan.judge, measured.DISTRUSTING, *arms),
        "agreement-without-judge": judge_agreement.agreement_card(9, None, measured.TRUSTING, *arms),
    }


def _learning() -> dict[str, Message]:
    flat = measured.curve(points_per_100=0.004, needs=(), predicted=())
    tuned = measured.curve(arm=Candidate("tuned", measured.MODEL), points_per_100=2.4)
    return {
        "dataset-dropped": datasets.version_changes(
            made.dataset(version=2), replace(measured.DIFF, held_out_dropped=18), 121
        ),
        "dataset-changed": datasets.version_changes(made.dataset(version=2), measured.DIFF, 121),
        "dataset-unchanged": datasets.version_changes(made.dataset(version=3), measured.SAME, 77),
        "curve-working": learning_curves.progress_card("tickets"),
        "curve-failed": learning_curves.failure_card(
            "tickets", "There are 14 rows; a curve needs 24 at least."
        ),
        "curve": learning_curves.card(measured.curve(), number=5, label_usd=Decimal("0.10"), bar=0.9),
        "curve-flat": learning_curves.card(flat, number=5, label_usd=Decimal("0.10"), bar=0.95),
        "curve-untold": learning_curves.card(measured.untold_curve(), number=5, label_usd=Decimal("0.10")),
        "curve-tuned": learning_curves.card(tuned, number=5, bar=0.99),
    }


def _others() -> dict[str, Message]:
    texts = ("Where is my parcel?", "It left on Monday.\nYou will have it on Friday.", "We don't know.")
    return {
        "prices": prices.listing(measured.PRICES, DAY),
        "prices-unknown": prices.listing(measured.PRICES[-1:], DAY),
        "prices-none": prices.listing((), DAY),
        "preference-asked": judge_agreement.question_card("3 17", *texts, done=4, wanted=30),
        "preference-chosen": judge_agreement.choice_card(*texts, "tie", BEN),
        "knowledge-received": documents.document_received(measured.document("received")),
        "knowledge-ready": documents.document_ready(measured.document()),
        "knowledge-refused": documents.document_refused(
            measured.document("refused"), documents.why_unreadable(Unreadable("no_text"))
        ),
    }


def _plans() -> dict[str, Message]:
    waiting = made.run("awaiting_approval")
    asked = (waiting, made.plan(), made.BUDGET)
    without = made.free_plan(monthly_before_micros=None, monthly_after_micros=None)
    return {
        "plan-asked": plans.approval_card(*asked, 1),
        "plan-asked-free": plans.approval_card(waiting, without, made.NO_BUDGET, 2),
        "plan-asked-beside-a-rung": plans.approval_card(
            waiting, made.plan(predicted=made.PREDICTED), made.BUDGET, 1
        ),
        "plan-asked-not-decided": plans.approval_card(waiting, made.advised_plan(), made.BUDGET, 1),
        "plan-asked-unmeasured": plans.approval_card(
            waiting, made.advised_plan(replace(made.NOT_DECIDED, best=None)), made.BUDGET, 1
        ),
        "plan-asked-go": plans.approval_card(
            waiting, made.advised_plan(made.DECIDED_GO, f"{made.PREDICTED.asked} hours=20"), made.BUDGET, 1
        ),
        "plan-partly-approved": plans.approval_card(*asked, 2, made.APPROVALS),
        "plan-rejected": plans.decided_card(
            made.run("rejected"),
            made.plan(),
            made.BUDGET,
            plans.rejected_by(BEN, "Collect 1,000 rows first."),
        ),
        "plan-replacing": plans.add_replacement_note(
            plans.approval_card(made.run("awaiting_approval"), made.plan(), made.NO_BUDGET, 1), [5, 6]
        ),
        "plan-replaced": plans.decided_card(
            made.run("cancelled"),
            made.plan(),
            made.NO_BUDGET,
            plans.superseded_by(8, BEN, "https://example.com/p1"),
        ),
        "plan-expired": plans.decided_card(
            made.run("expired"), made.free_plan(), made.NO_BUDGET, "It was not approved within 24 hours."
        ),
    }


def _runs() -> dict[str, Message]:
    plan, queued = made.plan(), Progress(note="Waiting for a free place on the trainer.")
    because = [replace(one, reason="quality counts here, *not* <@U1> cost") for one in made.APPROVALS]
    paused = replace(made.TRAINING, is_paused=True, note="The job was paused; its place is free. It goes on.")
    looks = [made.look(state) for state in ("training", "awaiting_approval", "done", "failed")]
    return {
        "run-approved": runs.card(
            made.run("approved"), plan, Progress(), NOW, decided=plans.approved_by(made.APPROVALS)
        ),
        "run-approved-because": runs.card(
            made.run("approved"), plan, Progress(), NOW, decided=plans.approved_by(because)
        ),
        "run-sent": runs.card(made.run("creating"), plan, Progress(), NOW),
        "run-queued": runs.card(made.run("training"), plan, queued, NOW, spent_micros=0),
        "run-training": runs.card(
            made.run("training"), plan, made.TRAINING, NOW, spent_micros=18_000, can_pause=True
        ),
        "run-paused": runs.card(
            made.run("training", wished_by=BEN), plan, paused, NOW, spent_micros=18_000, can_pause=True
        ),
        "run-measuring": runs.card(
            made.run("evaluating"), made.free_plan(), made.MEASURING, NOW, spent_micros=0, can_pause=True
        ),
        "run-done": runs.card(
            made.run("done"), plan, made.MEASURING, NOW, decided=plans.approved_by(made.APPROVALS)
        ),
        "run-needs-human": runs.card(made.run("needs_human"), plan, made.TRAINING, NOW),
        "run-ended-failed": runs.ended_card(made.run("failed"), plan, "Training failed: out of memory."),
        "run-ended-cancelled": runs.ended_card(made.run("cancelled"), plan, f"Cancelled by <@{BEN}>."),
        "run-list": runs.listing(looks),
        "run-audit": audits.card(audits.History(7, made.AUDITED)),
        "run-list-empty": runs.listing([]),
        "status": status.card(Status(looks[:2], _looks()[:7], [made.look("done"), *_looks()[7:]])),
        "status-of-measurements": status.card(Status([], _looks()[:1], [])),
        "status-in-use": status.card(Status([], [], [], in_use=promotion_cards.in_use())),
        "status-nothing-open": status.card(Status([], [], [made.look("done")])),
        "status-frozen": status.card(Status(looks[:1], [], [], FROZEN, ["U2"])),
        "budget": budgets.card(MONTH),
        "budget-empty": budgets.card(replace(MONTH, budget=Budget(20_000_000, 0), commitments=())),
        "budget-none-set": budgets.card(replace(MONTH, budget=Budget(0, 0), commitments=())),
        "budget-half": budgets.warning(MONTH, MONTH.budget, 50),
        "budget-used-up": budgets.warning(MONTH, Budget(20_000_000, 20_000_000), 100),
        "freeze-said": freeze.frozen_card(FROZEN, 2),
        "freeze-wanted": freeze.unfreeze_requested("U2", {"U1", "U3"}),
        "freeze-wanted-alone": freeze.unfreeze_requested("U2", set()),
        "freeze-lifted": freeze.unfrozen_card(FROZEN, ["U2", "U3"]),
        "run-held": freeze.add_freeze_notice(runs.card(made.run("approved"), plan, Progress(), NOW), FROZEN),
        "status-empty": status.card(Status([], [], [])),
    }


def _looks() -> list[EvaluationSummary]:
    """Seven open ones, then two with a result."""
    curve = CurvePlan("tickets", 1, made.HASH, made.HASH, (600,))
    sizes = tuple(PlannedSize(rows, (), 40_000, 1_000) for rows in (100, 200, 400))
    tuned = TunedCurvePlan(
        "tickets", 2, made.HASH, made.HASH, 77, ("a", "b"), "local", "smollm2-135m", sizes, 1, "[]", (800,)
    )
    done = SizeProgress(100, made.HASH, "ft-1", "done")
    trains = SizeProgress(200, made.HASH, "ft-2", "training", training=made.TRAINING)
    half = TunedCurveProgress("training", (done, trains, SizeProgress(400, made.HASH, "ft-3")), 123_000)
    return [
        _ladder_look(),
        _ladder_look("asked", measured.asking(), id=4),
        _ladder_look("asked", LadderProgress(), id=5),
        CurveSummary(measured.measurement(kind="curve", id=6), curve, None),
        TunedCurveSummary(measured.measurement(kind="curve", id=7), tuned, half, None),
        TunedCurveSummary(
            measured.measurement("asked", kind="curve", id=8), tuned, replace(half, stage="asking"), None
        ),
        TunedCurveSummary(
            measured.measurement(kind="curve", id=9), tuned, replace(half, stage="judging"), None
        ),
        _ladder_look("done", id=2),
        CurveSummary(measured.measurement("done", kind="curve", id=1), curve, measured.curve()),
    ]


def _results() -> dict[str, Message]:
    done, plan = made.run("done"), made.plan()
    foreseen = made.plan(predicted=made.PREDICTED)
    free = made.result(actual_micros=0, estimated_micros=0)
    unread = replace(made.arm(47, 0.18, 0.3, 132, n=200), unlisted=170)
    to_measure = replace(made.COMPARE, measure=("openai/gpt-4o",))

    def judged(other: int, tuned: int, advice: Advice, **values: Any) -> RunResult:
        return made.result_of(tuned, beside=made.beside(other, tuned), advice=advice, **values)

    cases = {
        "result-better": (plan, made.result()),
        "result-better-free": (made.free_plan(), free),
        "result-equal": (made.plan(monthly_before_micros=None), made.equal_result()),
        "result-worse": (plan, made.worse_result()),
        "result-go": (foreseen, judged(140, 190, made.GO)),
        "result-go-with-people": (
            made.advised_plan(made.DECIDED_GO, f"{made.PREDICTED.asked} hours=20"),
            judged(140, 190, made.GO),
        ),
        "result-go-time-unsaid": (made.advised_plan(), judged(140, 190, made.GO)),
        "result-to-compare": (made.advised_plan(), judged(140, 190, to_measure)),
        "result-alone": (foreseen, made.result_of(190, beside=made.alone(190), advice=made.ALONE)),
        "result-below-the-bar": (made.advised_plan(), judged(111, 155, made.MISSES)),
        "result-failed": (made.advised_plan(), judged(90, 0, made.MISSES, base=unread)),
        "result-silent": (
            made.advised_plan(),
            made.result_of(12, beside=made.silent_alone(), advice=made.MISSES),
        ),
        "result-over-budget": (plan, replace(made.result(), actual_micros=310_000)),
        "result-nothing-read": (
            foreseen,
            made.result_of(190, base=unread, beside=made.alone(190), advice=made.GO),
        ),
        "result-cheaper-rung": (foreseen, judged(190, 184, made.CHEAPER)),
        "result-by-words": (foreseen, made.result_of(150, labelled=False, beside=made.beside_by_words())),
    }
    not_worse = made.result_of(184, beside=made.beside_prompted(), not_worse=made.NOT_WORSE, margin=0.03)
    prompted = made.plan(predicted=made.PREDICTED, judge="openai/gpt-4.1")
    judged_text = made.result_of(
        184, labelled=False, beside=made.beside_prompted(scoring="judge"), judge=measured.JUDGED
    )
    return {
        **{name: results.card(done, *case) for name, case in cases.items()},
        "result-to-be-used": results.card(done, *cases["result-go"], may_be_used=True),
        "result-to-be-used-undecided": results.card(done, *cases["result-to-compare"], may_be_used=True),
        "result-not-worse": results.card(done, foreseen, not_worse, may_be_used=True),
        "result-got-worse": results.card(
            done, foreseen, replace(not_worse, worse_labels=made.LOSSES), may_be_used=True
        ),
        "result-judged": results.card(done, prompted, judged_text),
        "result-judge-failed": results.card(
            done,
            prompted,
            made.result_of(
                150,
                labelled=False,
                beside=made.beside_by_words(),
                judge=replace(measured.JUDGED, failed="There is no such model."),
            ),
        ),
        "result-changed-rows": results.changed_rows_card(made.changes(6)),
    }


def _details() -> dict[str, Json]:
    """The forms behind the button of a card."""
    foreseen = made.plan(predicted=made.PREDICTED)
    result = made.result_of(190, beside=made.beside(140, 190), advice=made.GO)
    done = replace(made.look("done"), plan=foreseen, result=result, actuals=made.actuals(0.84))
    by_words = replace(
        done,
        result=made.result_of(150, labelled=False, beside=made.beside_by_words()),
        actuals=made.actuals(None),
        running=measured.MANY_ERRORS,
    )
    people, judge = measured.DISTRUSTING, measured.JUDGED
    judged = measured.ladder([replace(one, scoring="judge", unread=0) for one in measured.RUNGS[2:5]])
    plan = measured.judged_plan()
    notes = judge_agreement.judge_notes(
        plan.judge, judge_agreement.judged_models(plan), judge, judged.scoring, people
    )
    got_worse = replace(
        done,
        plan=replace(foreseen, judge=plan.judge),
        result=made.result_of(
            184,
            labelled=False,
            beside=made.beside_prompted(scoring="judge"),
            judge=judge,
            agreement=people,
            worse_labels=made.LOSSES,
        ),
    )
    ladders = {
        "ladder-met-details": evaluation_results.details(
            measured.ladder(),
            spent_micros=590_000,
            estimated_micros=640_000,
            how_read=HOW_READ,
            notes=["Passages with personal data were kept from openai/gpt-4o-mini."],
        ),
        "ladder-none-meets-details": evaluation_results.details(
            measured.none_meets(), spent_micros=0, estimated_micros=0
        ),
        "ladder-documents-details": evaluation_results.details(measured.with_documents()),
        "ladder-many-details": evaluation_results.details(measured.many(24)),
        "ladder-judged-details": evaluation_results.details(judged, notes=notes),
        "optimised-details": (
            *evaluation_results.details(measured.optimised()),
            *prompt_search.details(measured.search_plan(optimised=measured.SEARCH.prompt), measured.SEARCH),
        ),
        "curve-details": learning_curves.details(measured.curve()),
        "curve-tuned-details": learning_curves.details(curve_cards.tuned(), Decimal("0.50")),
    }
    return {
        "result-details": runs.details_form(done),
        "result-by-words-details": runs.details_form(by_words),
        "result-judged-details": runs.details_form(got_worse),
        "run-training-details": runs.details_form(made.look("training")),
        "form-try": models.try_form("tickets-7", "C0TICKETS"),
        **{name: general.details_modal("Measurement m3", parts) for name, parts in ladders.items()},
    }


def _models() -> dict[str, Message]:
    return {
        "try-thinking": models.pending_card(made.ASK),
        "try-answered": models.answer_card(made.ASK, made.ANSWER),
        "try-failed": models.failure_card(
            made.ASK, "The trainer is down. It is started with the bot: try again."
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
    looks = {state: [made.look(state)] for state in ("awaiting_approval", "training", "done")}
    return {
        "home": home.page(
            HomeOverview(
                mine=looks["awaiting_approval"],
                to_confirm=_looks()[1:2],
                open=[*looks["training"], *_looks()[:1]],
                recent=[*looks["done"], *_looks()[7:]],
                budget=made.BUDGET,
                in_use=promotion_cards.in_use(),
                links={
                    f"{card} {number}": f"https://x.slack.com/archives/C0/p{number}"
                    for card, number in (("plan", 7), ("run", 7), ("measurement", 4))
                },
            )
        ),
        "home-nothing-waits": home.page(HomeOverview([], [], [], looks["done"], made.NO_BUDGET)),
        "home-empty": home.page(HomeOverview([], [], [], [], made.NO_BUDGET, is_new=True)),
        "form-columns": datasets.columns_form(
            made.dataset(),
            made.unclear_report(),
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
        "estimate-details-free": estimates.details_form(made.estimated(), TARGET),
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
        "form-knowledge-more": documents.document_form("C0TICKETS", "tickets", [measured.document()] * 7),
        "form-waiver": data_policy.form(made.dataset()),
        "form-reject": plans.reject_modal(made.HASH),
        "plan-details": plans.details_form(made.run("awaiting_approval"), made.advised_plan(), made.BUDGET),
        "form-approve": plans.approve_modal(made.run("awaiting_approval"), made.advised_plan()),
        "form-approve-free": plans.approve_modal(made.run("awaiting_approval"), made.free_plan()),
        **doubt_cards.forms(),
        **label_cards.forms(),
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
        **hosting_cards.cards(),
        **sweep_cards.cards(),
        **doubt_cards.cards(),
        **label_cards.cards(),
        **promotion_cards.cards(),
        **_others(),
    }
    return {**about_data, **_plans(), **_runs(), **_results(), **_models()}


@cache
def views() -> dict[str, Json]:
    return {**_views(), **_details()}


@cache
def payloads() -> dict[str, Json]:
    """As they go to Slack; a message with its newest form beside it."""
    return {**{name: message.letter() for name, message in messages().items()}, **views()}


def many_labels(count: int, name: str) -> tuple[LabelCount, ...]:
    return tuple(LabelCount(f"{name} {number}", 10_000 // (number + 1)) for number in range(count))
