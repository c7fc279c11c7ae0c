"""Cards of measurements that open sealed rows."""

from __future__ import annotations

from dataclasses import replace

from bot.cards.common.blocks import Message
from bot.cards.evidence import evaluations, sealed_rows
from bot.cards.evidence.sealed_rows import SealedTest
from bot.values.evaluations import CandidateProgress, ComparisonProgress, SealedOutcome
from tests.cards import measurements
from tests.cards.builders import BEN, BUDGET, NO_BUDGET
from tests.cards.measurements import BIG
from trainers.evaluation.results import Candidate, Comparison

ID = "acme/ft:acme-small:org:tickets:2"
USED_ID = "acme/ft:acme-small:org:tickets:1"
PROMPT = Candidate("zero", BIG)
TEST = SealedTest("tickets-2", {ID: "tickets-2"})
INSTEAD = SealedTest("tickets-2", {USED_ID: "tickets-1", ID: "tickets-2"}, used="tickets-1", opened=1)
WORSE = (
    "`tickets-2` was not deployed:\n• It is not clearly better than the prompt alone on gpt-4.1-mini: +1.0 points "
    "(−4 to +6).\nTo deploy it anyway, say why: `/finetune promote tickets-2 because=…`. The reason is kept in the "
    "audit log and shown to the team."
)


def cards() -> dict[str, Message]:
    requested = measurements.measurement("asked", requested_by=BEN)
    tuned = (Candidate("tuned", ID),)
    first = measurements.plan((PROMPT, *tuned), n_holdout=100, promotes="tickets-2")
    both = replace(first, candidates=(PROMPT, Candidate("tuned", USED_ID), *tuned))
    candidates = tuple(CandidateProgress(candidate, 100) for candidate in first.candidates)
    priced = ComparisonProgress("asking", candidates, 30_000)
    free = ComparisonProgress(
        "asking", tuple(CandidateProgress(candidate, 100) for candidate in both.candidates), 0
    )
    stopped = replace(measurements.half_way_progress(), note=None)
    deployed, refused = SealedOutcome(is_deployed=True), SealedOutcome(is_deployed=False, why=WORSE)
    return {
        "sealed-asked": sealed_rows.request_card(requested, first, priced, BUDGET, TEST),
        "sealed-asked-again": sealed_rows.request_card(requested, both, free, NO_BUDGET, INSTEAD),
        "sealed-cancelled": evaluations.closed_card(
            measurements.measurement("cancelled"), first, stopped, f"Cancelled by <@{BEN}>."
        ),
        "sealed-deployed": sealed_rows.result_card(_answered(93), 7, TEST, deployed),
        "sealed-deployed-instead": sealed_rows.result_card(_answered(93), 7, INSTEAD, deployed),
        "sealed-not-deployed": sealed_rows.result_card(_answered(87), 7, TEST, refused),
        "sealed-decided-earlier": sealed_rows.result_card(_answered(93), 7, TEST, None),
    }


def _answered(right: int) -> Comparison:
    candidates = [
        measurements.candidate("zero", BIG, 86, "0.40", n=100),
        measurements.candidate("tuned", ID, right, "0.02", n=100),
    ]
    return measurements.comparison(candidates)
