"""Cards of the results of runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bot.cards.common.advice import Offered
from bot.cards.common.blocks import Message
from bot.cards.training import result_details, results
from bot.rules.plans import Plan, TaughtRows
from bot.rules.training.vendor_bills import VendorBill
from bot.values.runs import Advice, AfterResult, RunResult, TimeInUse
from storage.records import Run
from tests.cards import builders, measurements
from tests.cards.builders import (
    ALONE,
    CHEAPER,
    COMPARE,
    DECIDED_GO,
    GO,
    LOSSES,
    MISSES,
    NOT_WORSE,
    PREDICTED,
    STARTED,
)
from tests.cards.measurements import JUDGED


def cards() -> dict[str, Message]:
    done, plan = builders.run("done"), builders.plan()
    predicted = builders.plan(predicted=PREDICTED)
    free = builders.result(actual_micros=0, estimated_micros=0)
    unread = replace(builders.model_score(47, 0.18, 0.3, 132, n=200), unlisted=170)
    to_measure = replace(COMPARE, measure=("openai/gpt-4o",))

    def judged(other: int, tuned: int, advice: Advice, **values: Any) -> RunResult:
        return builders.result_with(
            tuned, beside=measurements.comparison_beside_classical(other, tuned), advice=advice, **values
        )

    cases = {
        "result-better": (plan, builders.result()),
        "result-better-free": (builders.free_plan(), free),
        "result-equal": (builders.plan(monthly_before_micros=None), builders.equal_result()),
        "result-worse": (plan, builders.worse_result()),
        "result-go": (predicted, judged(140, 190, GO)),
        "result-go-with-people": (
            builders.advised_plan(DECIDED_GO, f"{PREDICTED.asked} hours=20"),
            judged(140, 190, GO),
        ),
        "result-go-time-unsaid": (builders.advised_plan(), judged(140, 190, GO)),
        "result-to-compare": (builders.advised_plan(), judged(140, 190, to_measure)),
        "result-alone": (
            predicted,
            builders.result_with(190, beside=measurements.comparison_of_tuned_alone(190), advice=ALONE),
        ),
        "result-going-on": (
            builders.plan(predicted=PREDICTED, starts_from=STARTED),
            judged(140, 190, GO, before="start", start="tickets-3"),
        ),
        "result-below-the-bar": (
            builders.advised_plan(taught=(TaughtRows("house/big", 119, 0.96, 0.91, 0.99),)),
            judged(111, 155, MISSES),
        ),
        "result-failed": (builders.advised_plan(), judged(90, 0, MISSES, base=unread)),
        "result-silent": (
            builders.advised_plan(),
            builders.result_with(12, beside=measurements.comparison_of_silent_tuned(), advice=MISSES),
        ),
        "result-for-speed": (
            builders.advised_plan(replace(builders.NOT_DECIDED, task="latency")),
            builders.result_with(184, beside=measurements.comparison_beside_prompted()),
        ),
        "result-billed": (plan, builders.result().with_bill(VendorBill(41_230), 2_300)),
        "result-over-budget": (plan, replace(builders.result(), actual_micros=310_000)),
        "result-nothing-read": (
            predicted,
            builders.result_with(
                190, base=unread, beside=measurements.comparison_of_tuned_alone(190), advice=GO
            ),
        ),
        "result-cheaper-candidate": (predicted, judged(190, 184, CHEAPER)),
        "result-of-an-encoder": (
            builders.plan(predicted=PREDICTED, base_model="minilm-encoder", method="full"),
            builders.result_with(
                190,
                base=builders.model_score(151, 0.69, 0.81, 0, n=200),
                gain_low=0.14,
                gain_high=0.25,
                better=44,
                beside=measurements.comparison_beside_encoder(151, 190),
                advice=GO,
                before="encoder",
            ),
        ),
        "result-without-the-free-encoder": (
            builders.plan(base_model="minilm-encoder", method="full", current=None),
            builders.result_with(
                190,
                base=builders.model_score(110, 0.48, 0.62, 0, n=200),
                gain_low=0.33,
                gain_high=0.47,
                better=85,
                beside=measurements.comparison_of_tuned_alone(190),
                before="classical",
                no_encoder="There is no folder /models/encoder.",
            ),
        ),
        "result-fields": (
            predicted,
            builders.result_with(
                105,
                labelled=False,
                beside=measurements.comparison_of_fields_beside_tuned(),
                partial=builders.FIELDS_GAINED,
            ),
        ),
        "result-calls-and-words": (
            predicted,
            builders.result_with(
                150, labelled=False, beside=measurements.comparison_of_tuned_calls_and_texts()
            ),
        ),
        "result-by-words": (
            predicted,
            builders.result_with(150, labelled=False, beside=measurements.comparison_by_f1()),
        ),
    }
    not_worse = builders.result_with(
        184, beside=measurements.comparison_beside_prompted(), not_worse=NOT_WORSE, margin=0.03
    )
    prompted = builders.plan(predicted=PREDICTED, judge="openai/gpt-4.1")
    judged_text = builders.result_with(
        184,
        labelled=False,
        beside=measurements.comparison_beside_prompted(scoring="judge"),
        judge=JUDGED,
        checkable=9,
    )
    distrusted = replace(judged_text, judge_checks=measurements.DISTRUSTING, advice=GO)
    return {
        **{name: results.card(done, *case) for name, case in cases.items()},
        "result-cheaper-candidate-in-use": results.card(
            done, *cases["result-cheaper-candidate"], offered=Offered(in_use_since=builders.NOW)
        ),
        "result-to-be-used": results.card(done, *cases["result-go"], may_be_used=True),
        "result-to-be-used-undecided": results.card(done, *cases["result-to-compare"], may_be_used=True),
        "result-not-worse": results.card(done, predicted, not_worse, may_be_used=True),
        "result-got-worse": results.card(
            done, predicted, replace(not_worse, worse_labels=LOSSES), may_be_used=True
        ),
        "result-judged": results.card(done, prompted, judged_text),
        "result-judge-distrusted": results.card(done, prompted, distrusted, may_be_used=True),
        "result-judge-failed": results.card(
            done,
            prompted,
            builders.result_with(
                150,
                labelled=False,
                beside=measurements.comparison_by_f1(),
                judge=replace(JUDGED, failed="There is no such model."),
            ),
        ),
        **_afterwards(done, *cases["result-go"]),
        "result-changed-rows": result_details.changed_rows_card(builders.changed_rows(6)),
    }


def _afterwards(run: Run, plan: Plan, result: RunResult) -> dict[str, Message]:
    """The cards of a result whose model was deployed, replaced, rolled back or lost since."""
    in_use = TimeInUse("U0BEN", builders.NOW)
    replaced = replace(in_use, until=builders.NOW + 86_400, other="tickets-9", ended_by="U0CLEO")
    rolled_back = replace(replaced, other="tickets-3", is_rolled_back=True)
    return {
        "result-in-use": results.card(run, plan, result, after=AfterResult(in_use, is_current_measured=True)),
        "result-replaced": results.card(run, plan, result, after=AfterResult(replaced)),
        "result-rolled-back": results.card(run, plan, result, after=AfterResult(rolled_back)),
        "result-gone": results.card(run, plan, result, after=AfterResult(rolled_back, is_gone=True)),
    }
