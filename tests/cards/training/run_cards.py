"""Cards of plans, runs, budgets and freezes, and the overview of what is open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bot.cards import status
from bot.cards.common import budgets, freeze
from bot.cards.common.advice import Offered
from bot.cards.common.blocks import Message
from bot.cards.common.budgets import Month
from bot.cards.decisions import plan_refusals, plans
from bot.cards.decisions.plan_training import EarlierRun, PlanBeside
from bot.cards.decisions.plans import ONE_APPROVER, Pending, UseInstead
from bot.cards.decisions.starting_models import start_warnings
from bot.cards.status import (
    ComparisonSummary,
    CurveSummary,
    EvaluationSummary,
    Status,
    UnreadableSummary,
)
from bot.cards.training import audits, runs, vendor_bills
from bot.rules.budgets import Budget
from bot.rules.judge_agreement import CheckedJudge
from bot.rules.plans import (
    BestCandidate,
    Continued,
    OtherModel,
    Plan,
    PlanChange,
    PlanVerdict,
    Retraining,
    RunAgain,
    TaughtRows,
)
from bot.rules.training.vendor_bills import VendorBill
from bot.values.evaluations import ComparisonProgress, CurvePlan
from bot.values.runs import Progress
from storage.money import Commitment, Freeze
from storage.records import Run
from tests.cards import builders, measurements
from tests.cards.builders import (
    ANA,
    APPROVALS,
    AUDITED,
    BEN,
    BUDGET,
    CHEAPER,
    DECIDED_FIELDS,
    DECIDED_GO,
    DECIDED_JUDGED,
    HASH,
    LOSES_LATER,
    MEASURING,
    NO_BUDGET,
    NOT_DECIDED,
    NOW,
    PREDICTED,
    TRAINING,
)
from tests.cards.models import promotion_cards
from trainers.evaluation.results import CLASSICAL

COMMITMENTS = (
    Commitment("run", 8, "tickets", BEN, "C1", NOW, 7_000_000, 0),
    Commitment("measurement", 3, "<odd> *names*", "U2", "C1", NOW, 0, 1_250_000),
    Commitment("run", 7, "tickets", "U2", "C2", NOW, 0, 2_750_000),
    Commitment("questions", 12, "tickets", BEN, "C2", NOW, 0, 1_800),
    Commitment("plain_questions", 1, "", BEN, "C2", NOW, 0, 400),
)
MONTH = Month("November 2026", Budget(20_000_000, 11_000_000), COMMITMENTS)
ONE_OF_TWO = Pending(2, approved=1, others=["<@U0CLEO>"])
BASE_URL = promotion_cards.CALLING.base_url
FROZEN = Freeze(1, BEN, "the bill looks <odd>", "C1", NOW, None)


def cards() -> dict[str, Message]:
    return {**_plans(), **_runs()}


def _comparison_summary(
    state: Any = "running", progress: ComparisonProgress | None = None, **other: Any
) -> ComparisonSummary:
    comparison = measurements.comparison() if state == "done" else None
    measurement = measurements.measurement(state, **other)
    return ComparisonSummary(
        measurement, measurements.plan(), progress or measurements.half_way_progress(), comparison, NOW
    )


WARNED = tuple(start_warnings(builders.STARTED))
CONTINUED = Continued(("current", "volume", "target", "retrain_months"), ANA, "2026-11-28", bar=0.99)


def _plans() -> dict[str, Message]:
    waiting = builders.run("awaiting_approval")
    with_people = builders.advised_plan(DECIDED_GO, f"{PREDICTED.asked} hours=20")
    not_needed = builders.advised_plan(
        PlanVerdict(
            CHEAPER.kind,
            CHEAPER.rule,
            CHEAPER.reason,
            0.85,
            BestCandidate("classical", 0.95, 0.91, 0.97, "meets"),
        )
    )
    without = builders.free_plan(monthly_before_micros=None, monthly_after_micros=None)
    return {
        "plan-asked": plans.approval_card(waiting, builders.plan(), BUDGET, ONE_APPROVER),
        "plan-asked-free": plans.approval_card(waiting, without, NO_BUDGET, Pending(2)),
        "plan-asked-not-needed": plans.approval_card(
            waiting,
            not_needed,
            BUDGET,
            ONE_APPROVER,
            instead=UseInstead(CLASSICAL, Offered(4)),
        ),
        "plan-asked-candidate-in-use": plans.approval_card(
            waiting,
            not_needed,
            BUDGET,
            ONE_APPROVER,
            instead=UseInstead(CLASSICAL, Offered(in_use_since=NOW)),
        ),
        "plan-asked-beside-a-candidate": plans.approval_card(
            waiting, builders.plan(predicted=PREDICTED, continued=CONTINUED), BUDGET, ONE_APPROVER
        ),
        "plan-asked-side-by-side": plans.approval_card(
            waiting,
            builders.plan(predicted=PREDICTED),
            BUDGET,
            Pending(
                beside=(
                    PlanBeside(
                        "<https://x.slack.com/archives/C0/p8|run 8>",
                        (PlanChange("epochs", "5", "3"), PlanChange("lora_r", "16", "8")),
                        builders.plan(),
                    ),
                ),
                is_too_much_together=True,
            ),
        ),
        "plan-asked-run-again": plans.approval_card(
            waiting,
            builders.plan(
                predicted=PREDICTED,
                again=RunAgain(
                    3,
                    (
                        PlanChange("version", "1", "2"),
                        PlanChange("rows", "300", "383"),
                        PlanChange("epochs", "5", "3"),
                        PlanChange("volume", "", "20,000 requests"),
                    ),
                ),
            ),
            BUDGET,
            ONE_APPROVER,
        ),
        "plan-asked-loses-later": plans.approval_card(
            waiting, builders.advised_plan(LOSES_LATER), BUDGET, ONE_APPROVER
        ),
        "plan-asked-not-decided": plans.approval_card(waiting, builders.advised_plan(), BUDGET, ONE_APPROVER),
        "plan-asked-unmeasured": plans.approval_card(
            waiting, builders.advised_plan(replace(NOT_DECIDED, best=None)), BUDGET, ONE_APPROVER
        ),
        "plan-asked-go": plans.approval_card(waiting, with_people, BUDGET, ONE_APPROVER),
        "plan-partly-approved": plans.approval_card(waiting, builders.plan(), BUDGET, ONE_OF_TWO, APPROVALS),
        **_special_plans(waiting),
        "plan-rejected": plans.decided_card(
            builders.run("rejected"),
            builders.plan(),
            BUDGET,
            plans.rejected_by(BEN, "Collect 1,000 rows first."),
        ),
        "plan-replacing": plans.add_replacement_note(
            plans.approval_card(waiting, builders.plan(), NO_BUDGET, ONE_APPROVER), [5, 6]
        ),
        "plan-replaced": plans.decided_card(
            builders.run("cancelled"),
            builders.plan(),
            NO_BUDGET,
            plan_refusals.superseded_by(8, BEN, "https://example.com/p1"),
        ),
        "plan-expired": plans.decided_card(
            builders.run("expired"), builders.free_plan(), NO_BUDGET, "It was not approved within 24 hours."
        ),
    }


def _special_plans(waiting: Run) -> dict[str, Message]:
    """Plans that are no plain first run, and plans that something holds up."""
    retrained = replace(
        DECIDED_GO,
        people_micros=0,
        labels_micros=0,
        unmeasured=OtherModel("openai/gpt-6-luna", 11_000_000),
        saves_until="2027-01-14",
    )
    last_score = measurements.candidate("tuned", "local/smollm2-135m", 42)
    last = EarlierRun("run 3", builders.plan(hyperparameters=(("lora_r", 16), ("n_epochs", 3))), last_score)
    dpo = builders.plan(method="dpo", taught=(TaughtRows("house/big", 119, 0.96, 0.91, 0.99),))
    grpo = builders.plan(method="grpo", hyperparameters=(("n_epochs", 1), ("samples", 8)))
    rank_64 = replace(
        builders.advised_plan(retrained),
        hyperparameters=(("lora_r", 64), ("n_epochs", 3)),
        retrains=Retraining("openai/gpt-4o", "2027-01-14"),
    )
    aim = "prompt alone, openai/gpt-4o-mini: median 410 ms, 95% within 920 ms; tuned: not measured yet"
    for_speed = builders.advised_plan(replace(builders.NOT_DECIDED, task="latency", aim=aim))
    over = "This run may cost up to $3.49, but only $3.00 of the $3.00 for November is left."

    def card(plan: Plan, pending: Pending) -> Message:
        return plans.approval_card(waiting, plan, BUDGET, pending)

    return {
        "plan-asked-dpo-taught": card(dpo, Pending(2)),
        "plan-asked-going-on": card(
            replace(dpo, taught=(), starts_from=builders.STARTED, warnings=WARNED), ONE_APPROVER
        ),
        "plan-asked-grpo": card(grpo, ONE_APPROVER),
        "plan-asked-for-speed": card(for_speed, ONE_APPROVER),
        "plan-asked-stuck": card(builders.plan(), Pending(away=["U0BEN", "U0CLEO"], is_stuck=True)),
        "plan-asked-retraining": card(rank_64, Pending(before=last)),
        "plan-asked-again": card(last.plan, Pending(before=last)),
        "plan-asked-fields": card(builders.advised_plan(DECIDED_FIELDS), ONE_APPROVER),
        "plan-asked-judge-unchecked": card(
            builders.advised_plan(DECIDED_JUDGED), Pending(judge=CheckedJudge("openai/gpt-4.1"))
        ),
        "plan-asked-held-up": card(builders.plan(), Pending(over_budget=over, freeze=FROZEN)),
        "plan-approvers-pinged": plans.ping(
            "run 7", waiting, builders.plan(), Pending(2, others=["<@U0BEN>", "<@U0CLEO>"]), 24
        ),
    }


def _bills(run: Run) -> dict[str, Message]:
    """What a run's thread reads of the vendor's bill."""
    trained = VendorBill(412_300)
    with_storage = VendorBill(training_micros=402_300, storage_micros=10_000)
    return {
        "bill-corrected": vendor_bills.corrected("Tinker", run, trained, 410_000, 452_300),
        "bill-corrected-in-parts": vendor_bills.corrected("Tinker", run, with_storage, 410_000, 452_300),
        "bill-refused": vendor_bills.refused("Tinker", run, "TINKER_ADMIN_KEY", 403),
        "bill-not-listed-there": vendor_bills.refused("Tinker", run, "TINKER_ADMIN_KEY", 404),
        "bill-given-up": vendor_bills.given_up("Tinker", run, 14),
    }


def _runs() -> dict[str, Message]:
    plan, queued = builders.plan(), Progress(note="Waiting for a free place on the trainer.")
    because = [replace(approval, reason="quality counts here, *not* <@U1> cost") for approval in APPROVALS]
    paused = replace(TRAINING, is_paused=True, note="The job was paused; its place is free. It goes on.")
    measured = evaluation_summaries()
    summaries = [builders.run_summary(state) for state in ("training", "awaiting_approval", "done", "failed")]
    return {
        "run-approved": runs.card(
            builders.run("approved"), plan, Progress(), NOW, decided=plans.approved_by(APPROVALS)
        ),
        "run-approved-because": runs.card(
            builders.run("approved"), plan, Progress(), NOW, decided=plans.approved_by(because)
        ),
        "run-sent": runs.card(builders.run("creating"), plan, Progress(), NOW),
        "run-queued": runs.card(builders.run("training"), plan, queued, NOW, spent_micros=0),
        "run-training": runs.card(
            builders.run("training"), plan, TRAINING, NOW, spent_micros=18_000, can_pause=True
        ),
        "run-training-by-reward": runs.card(
            builders.run("training"), plan, replace(TRAINING, reward=0.42), NOW, spent_micros=18_000
        ),
        "run-training-on-pairs": runs.card(
            builders.run("training"),
            plan,
            replace(TRAINING, preference_accuracy=0.72),
            NOW,
            spent_micros=18_000,
        ),
        "run-paused": runs.card(
            builders.run("training", wished_by=BEN), plan, paused, NOW, spent_micros=18_000, can_pause=True
        ),
        "run-measuring": runs.card(
            builders.run("evaluating"), builders.free_plan(), MEASURING, NOW, spent_micros=0, can_pause=True
        ),
        "run-done": runs.card(
            builders.run("done"), plan, MEASURING, NOW, decided=plans.approved_by(APPROVALS)
        ),
        "run-needs-human": runs.card(builders.run("needs_human"), plan, TRAINING, NOW),
        "run-ended-failed": runs.ended_card(builders.run("failed"), plan, "Training failed: out of memory."),
        "run-ended-cancelled": runs.ended_card(builders.run("cancelled"), plan, f"Cancelled by <@{BEN}>."),
        **_bills(builders.run("done")),
        "run-list": runs.listing(summaries),
        "run-audit": audits.card(audits.History(7, AUDITED)),
        "run-list-empty": runs.listing([]),
        "status": status.card(
            Status(
                summaries[:2],
                measured[:4],
                [builders.run_summary("done"), *measured[4:]],
                links={"plan 7": "https://x.slack.com/archives/C0/p7"},
            )
        ),
        "result-list": status.results_card([builders.run_summary("done"), *measured[4:]], 0),
        "result-list-empty": status.results_card([], 0),
        "status-of-measurements": status.card(Status([], measured[:1], [])),
        "status-in-use": status.card(Status([], [], [], in_use=promotion_cards.in_use(), base_url=BASE_URL)),
        "status-no-answers": status.card(
            Status([], [], [], in_use=promotion_cards.in_use(), base_url=BASE_URL, answers_programs=False)
        ),
        "status-unreadable": status.card(
            Status([], [UnreadableSummary(measurements.measurement(id=7), "tickets")], [])
        ),
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


def evaluation_summaries() -> list[EvaluationSummary]:
    """Four that are open, then two with a result."""
    curve = CurvePlan("tickets", 1, HASH, HASH, (600,))
    return [
        _comparison_summary(),
        _comparison_summary("asked", measurements.asking_progress(), id=4),
        _comparison_summary("asked", ComparisonProgress(), id=5),
        CurveSummary(measurements.measurement(kind="curve", id=6), curve, None),
        _comparison_summary("done", id=2),
        CurveSummary(measurements.measurement("done", kind="curve", id=1), curve, measurements.curve()),
    ]
