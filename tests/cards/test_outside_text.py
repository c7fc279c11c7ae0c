"""Text from files, models, people and errors stays within Slack's limits and never becomes markup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any

import pytest

from bot.cards import home, status
from bot.cards.common import general, judge_agreement, prices
from bot.cards.common.blocks import INVISIBLE, code, escape
from bot.cards.datasets import check_reports, dataset_versions, datasets, documents
from bot.cards.datasets.datasets import Best, DatasetEntry
from bot.cards.datasets.documents import DocumentEntry, DocumentUse
from bot.cards.decisions import estimate_form, estimates, plans
from bot.cards.decisions.estimate_form import EstimateChoices
from bot.cards.evidence import (
    evaluation_details,
    evaluation_results,
    evaluations,
    judge_checks,
    learning_curves,
)
from bot.cards.home import HomeOverview
from bot.cards.models import models, promotion_requests, promotions, tried_answers
from bot.cards.models.models import InUse, ModelEntry
from bot.cards.models.promotion_requests import RequestSummary
from bot.cards.status import ComparisonSummary, Status
from bot.cards.training import audits, result_details, results, runs
from bot.rules.budgets import Budget
from bot.rules.estimates import EstimateSummary
from bot.rules.models.promotion import ModelComparison, PromotionEvidence, find_objections
from bot.rules.prices import MissingPrice
from bot.rules.reasons import FillGap, QuotedSentence, Reason, Step
from bot.values.evaluations import CandidateProgress, ComparisonProgress, promotable_candidate
from bot.values.runs import Advice, ChangedRow
from storage.records import AuditEntry, Promotable
from tests.cards import builders, measurements
from tests.cards.all_cards import many_labels
from tests.cards.builders import ANA, APPROVALS, ASK, BEN, CLEO, GPT_4O, HOSTED, NOW, TRAINING
from tests.cards.measurements import COMPARED, DIFF, DISTRUSTING
from tests.cards.models import promotion_cards
from tests.cards.slack_limits import limit_violations
from tests.cards.style_rules import mrkdwn, texts
from trainers.dataset import Columns, Finding
from trainers.evaluation.results import CANDIDATE_KINDS, Candidate, CurvePoint, LabelNeed
from trainers.providers.pricing import PriceRow, UnknownPrice
from trainers.recipes.free import FreeAnswer
from trainers.types import Price

HOSTILE = (
    "<!channel> <@U1> <#C1> <http://x|y> *bold* _i_ ~s~ `code` \u202eback\u202c &lt;!here&gt; "
    "```fence```\n> quote"
)
LONG = "a very long name " * 18
FULL = "x" * 4_000
OURS = {f"<@{person}>" for person in (ANA, BEN, CLEO)}

Json = Mapping[str, Any]


@cache
def cards(text: str) -> dict[str, Json]:
    """Every card with `text` wherever text from outside can appear."""
    built = {**_data_cards(text), **_evaluation_cards(text), **_run_cards(text), **_forms(text)}
    return {name: card.letter() if hasattr(card, "letter") else card for name, card in built.items()}


def _data_cards(text: str) -> dict[str, Any]:
    findings = [Finding(n, "blocks", "code", text[:900], text[:900], n) for n in range(200)]
    report = builders.report(
        *findings, rows=10_000, labels=many_labels(77, text), columns=Columns(text, text), format="csv"
    )
    ready = replace(report, findings=tuple(replace(finding, severity="warns") for finding in findings))
    dataset = builders.dataset(filename=text)
    return {
        "received": check_reports.received_card(dataset),
        "blocked": check_reports.checked_card(dataset, builders.blocked_report(*findings)),
        "ready": check_reports.checked_card(dataset, ready),
        "refused": check_reports.refused_card(dataset, text),
        "refused for a finding": check_reports.refused_card(dataset, check_reports.refusal_sentence(report)),
        "list": datasets.listing(
            builders.full_list(*[DatasetEntry(builders.dataset(state="refused", refusal=text), None)] * 200)
        ),
        "list, measured": datasets.listing(
            builders.full_list(
                *[
                    DatasetEntry(
                        builders.dataset(),
                        builders.report(rows=10**9),
                        Best(measurements.candidate("kshot", text[:600], 100), 0.855),
                    )
                ]
                * 200
            )
        ),
        "audit": audits.card(
            audits.History(
                10**9,
                [
                    AuditEntry(n, NOW, (text, "finetune")[n % 2], text, "run 7", text, text, text)
                    for n in range(200)
                ],
            )
        ),
        "unknown": general.text_message(datasets.no_such_dataset(text[:200], [text[:200]])),
        "unknown, nothing near": general.text_message(datasets.no_such_dataset(text[:200], ["tickets"] * 30)),
        "estimate": estimates.card(_estimate(text), text),
        "estimate without a sum": estimates.card(
            builders.estimate_summary(volume=None, missing=_missing_price(text), name=text), text
        ),
    }


def _evaluation_cards(text: str) -> dict[str, Any]:
    dataset = text[:300]
    model = f"{dataset[:100]}/{text[:300]}"
    candidates = [
        measurements.candidate(
            name, f"{model} {n}" if name != "classical" else None, n, None if n % 3 else f"{10 ** (n % 12)}"
        )
        for n, name in enumerate(CANDIDATE_KINDS * 8)
    ]
    worst = measurements.comparison(
        candidates, dataset=dataset, never_answered=(text,) * 77, prices_said_by=(text,) * 40, version=10**9
    )
    under_way = tuple(
        CandidateProgress(candidate.identity, 10**9, 10**8, ("x",), text if n % 2 else None)
        for n, candidate in enumerate(candidates)
    )
    progress = ComparisonProgress("measuring", under_way, 10**18, 10**17, NOW - 1e8, text)
    plan = measurements.plan(
        [candidate.identity for candidate in candidates], dataset=dataset, documents=("d",) * 10**4
    )
    needs = tuple(LabelNeed(text, 10**9, 0 if n % 2 else 9, 3) for n in range(77))
    points = tuple(CurvePoint(n * 10**7, n / 50, (n / 50,) * 9) for n in range(1, 50))
    curve = measurements.curve(
        dataset=dataset, points=points, needs=needs, predicted=measurements.curve().predicted * 20
    )
    unknown = UnknownPrice(dataset, (), text)
    priced = measurements.price(text, source=text, note=text)
    document = measurements.document("refused", filename=text, dataset=dataset, refusal=text)
    return {
        "measure asked": evaluations.request_card(
            measurements.measurement("asked"), plan, progress, Budget(10**18, 10**17)
        ),
        "measuring": evaluations.progress_card(measurements.measurement(), plan, progress, NOW),
        "measured": evaluations.closed_card(measurements.measurement("failed"), plan, progress, escape(text)),
        "comparison": evaluation_results.card(worst, number=10**9, notes=[text] * 9),
        "comparison's details": general.details_modal(
            f"Measurement m{10**9}",
            evaluation_details.details(
                worst, spent_micros=10**18, estimated_micros=10**18, how_read=text, notes=[text] * 9
            ),
        ),
        "curve": learning_curves.card(curve, number=10**9, label_usd=Decimal(10**6), bar=0.999),
        "curve's details": general.details_modal(
            f"Measurement m{10**9}", learning_curves.details(curve, Decimal(10**6))
        ),
        "dataset, changed": dataset_versions.version_changes(
            builders.dataset(version=2), replace(DIFF, by_label=((text, 1, 10**9),) * 77), 10**9
        ),
        "curve, working": learning_curves.progress_card(dataset),
        "curve, failed": learning_curves.failure_card(dataset, escape(text[:900])),
        "prices": prices.listing([priced, unknown] * 60, date(2026, 11, 25)),
        "preference": judge_agreement.question_card("3 17", text, text, text, done=10**9, wanted=10**9),
        "preference, chosen": judge_agreement.choice_card(text, text, text, "first", BEN),
        "agreement": judge_agreement.agreement_card(
            10**9, COMPARED, Candidate("zero", text), Candidate("kshot", text)
        ),
        "answer to judge": judge_checks.answer_card("3 a1 U1", text, text, text, done=10**9, wanted=10**9),
        "answer, judged": judge_checks.verdict_card(text, text, text, "no", BEN),
        "judge checked": judge_checks.checks_card(10**9, text, DISTRUSTING),
        "document": documents.document_received(document),
        "document, ready": documents.document_ready(document),
        "document, refused": documents.document_refused(document, text),
    }


def _missing_price(text: str) -> MissingPrice:
    return MissingPrice("token", PriceRow(text, "tuned", Price(None, None, None, None), text))


def _estimate(text: str) -> EstimateSummary:
    costly = replace(GPT_4O, model=text[:300], input=Decimal(10**6), said_by=text[:300])
    summary = builders.estimate_summary(
        volume=10**12, now=costly, name=text, training=replace(HOSTED, tokens=10**12)
    )
    step = Step(FillGap(_missing_price(text[:900])))
    reasons = tuple(Reason("rows", "unknown", QuotedSentence(text[:900]), step=step) for _ in range(12))
    return replace(
        summary, verdict=replace(summary.verdict, kind="no_go", reasons=reasons, deciding=reasons[0])
    )


def _run_cards(text: str) -> dict[str, Any]:
    plan = builders.plan(
        base_model=text,
        provider=text,
        dataset=text[:300],
        maximum_micros=10**18,
        n_train=10**12,
        n_holdout=10_000,
    )
    waiting, budget = builders.run("awaiting_approval"), Budget(10**18, 10**17)
    noted = replace(
        TRAINING, note=text, step=10**9, total_steps=10**9, train_loss=1e6, estimated_finish=NOW + 1e8
    )
    summary = runs.RunSummary(builders.run("training"), plan, noted, None, NOW)
    measuring = ComparisonSummary(
        measurements.measurement(),
        measurements.plan(dataset=text),
        measurements.half_way_progress(),
        None,
        NOW,
    )
    rejected = replace(summary, run=builders.run("rejected", error=text))
    row = ChangedRow(text, text, text, text, True)
    rows = [row, replace(row, is_better=False)] * 5_000
    ask = replace(ASK, text=text, model=text[:60])
    return {
        "asked": plans.approval_card(waiting, plan, budget, plans.Pending(20)),
        "partly": plans.approval_card(waiting, plan, budget, plans.Pending(20, 1), APPROVALS * 20),
        "decided": plans.decided_card(
            builders.run("rejected"), plan, budget, plans.rejected_by(BEN, text[:500])
        ),
        "progress": runs.card(builders.run("training"), plan, noted, NOW, spent_micros=10**18),
        "over": runs.card(builders.run("failed"), plan, noted, NOW),
        "ended": runs.ended_card(builders.run("failed"), plan, f"Training failed: {escape(text)}"),
        "rejected, looked at": runs.details_card(rejected),
        "runs": runs.listing([summary] * 100),
        "status": status.card(Status([summary] * 100, [measuring] * 100, [measuring, summary] * 100)),
        "result": results.card(builders.run("done"), plan, builders.result(advice=_advice(text))),
        "result's details": runs.details_form(
            replace(summary, run=builders.run("done"), result=builders.result(advice=_advice(text)))
        ),
        "try": tried_answers.try_form(text[:60], "C0TICKETS"),
        **_promotion_cards(text),
        "changed": result_details.changed_rows_card(rows),
        "asking": tried_answers.pending_card(ask),
        "answered": tried_answers.answer_card(
            ask, text, tried_answers.free_note(Promotable(text), FreeAnswer(text, ((text, 0.5), (text, 0.5))))
        ),
        "could not be asked": tried_answers.failure_card(ask, text),
        "home": home.page(
            HomeOverview(
                [summary] * 100,
                [measuring] * 20,
                [summary, measuring] * 100,
                [rejected, measuring] * 100,
                budget,
            )
        ),
    }


def _advice(text: str) -> Advice:
    return Advice("no_go", "rule", text[:900], text[:900], text[:900], (f"{text[:90]}/{text[:300]}",) * 9)


def _promotion_cards(text: str) -> dict[str, Any]:
    comparison = ModelComparison(text, 0.5, 0.1, -0.1, 0.3, 200)
    proof = PromotionEvidence(promotion_cards.TUNED, comparison, text[:60], comparison, text, is_gone=True)
    promotion = replace(promotion_cards.PROMOTION, reason=text[:500], trouble=text)
    summary = replace(
        promotion_cards.SUMMARY, promotion=promotion, proof=proof, provider=text, left=(text, text[:60])
    )
    model = replace(promotion_cards.MODEL, provider=text)
    what = promotable_candidate(Candidate("zero", text[:300]), 5)
    used = replace(promotion, model=None, candidate=what.candidate, measurement=5)
    of_candidate = replace(summary, promotion=used, model=None, before=what, earlier=what)
    request = replace(promotion_cards.REQUEST, candidate=what.candidate, reason=text[:500])
    waiting_request = RequestSummary(
        request, proof, find_objections(proof), what, 20, (ANA,) * 19, (f"<@{BEN}>",) * 40
    )
    entry = ModelEntry(model, text[:300], 10**6, text, promotion_cards.TUNED, promotion)
    return {
        "promoted": promotions.promotion_card(summary),
        "promoted, hosted": promotions.promotion_card(replace(summary, has_alias=False)),
        "not promoted": general.text_message(
            promotion_requests.promotion_refusal(what, text[:60], proof, find_objections(proof))
        ),
        "candidate promoted": promotions.promotion_card(of_candidate),
        "promotion requested": promotion_requests.request_card(waiting_request),
        "promotion declined": promotion_requests.ended_card(
            replace(request, state="declined"),
            promotion_requests.outcome_text(replace(request, state="declined"), BEN, text[:500]),
        ),
        "models": models.listing(builders.full_list(*[entry] * 200)),
        "models in use": status.card(
            Status([], [], [], in_use=builders.full_list(*[InUse(used, None)] * 200))
        ),
        "lost": promotions.model_lost(model, "tickets", text),
        "strayed": promotions.alias_mismatch("tickets", model, text[:300], text),
    }


def _forms(text: str) -> dict[str, Any]:
    names = [text, "", *[f"{text[:100]} {number}" for number in range(150)]]
    return {
        "baseline form": evaluations.form("C0TICKETS", evaluations.BaselineChoices(names, names, names[5])),
        "knowledge form": documents.document_form(
            "C0TICKETS",
            text[:300],
            [DocumentEntry(measurements.document(filename=text), 400, DocumentUse((3,)))] * 200,
        ),
        "upload": datasets.upload_modal("C0TICKETS", file_id="F1", filename=text),
        "estimate form": estimate_form.form("C0TICKETS", EstimateChoices(names, names)),
        "estimate form, nothing to choose": estimate_form.form("C0TICKETS", EstimateChoices(["tickets"], [])),
    }


ODD = {
    "hostile": HOSTILE,
    "long": LONG,
    "full": FULL,
    "invisible": "\u202e",
    "ampersands": "&<" * 400,
    "right to left": "שלום עולם, مرحبا بالعالم " * 20,
    "emoji": "👩‍👩‍👧 🏳️‍🌈 é " * 60,
}

OUR_DATE = re.compile(r"<!date\^\d+\^[{}a-z_ ]+\|[\d: -]+( UTC)?>")


@pytest.mark.deep
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_nothing_from_outside_breaks_slack_s_limits(text: str) -> None:
    violations = {name: limit_violations(card) for name, card in cards(text).items()}
    assert {name: broken for name, broken in violations.items() if broken} == {}


def test_nothing_from_outside_becomes_markup() -> None:
    for name, card in cards(HOSTILE).items():
        assert [text for text in mrkdwn(card) if foreign_markup(text)] == [], name


def test_no_direction_or_control_character_is_shown() -> None:
    for name, card in cards(HOSTILE).items():
        shown = [card.get("text", ""), *texts([card.get("blocks", []), card.get("newest", [])])]
        assert [text for text in shown if INVISIBLE.search(text)] == [], name


@pytest.mark.parametrize("name", ["home", "runs", "list"])
def test_a_long_list_ends_with_how_much_it_leaves_out(name: str) -> None:
    shown = list(texts(cards(LONG)[name]["blocks"]))
    assert any(re.search(r"… and \d+ more$", text) for text in shown), shown


@pytest.mark.parametrize(
    ("name", "person"), [("received", ANA), ("ready", ANA), ("asked", ANA), ("partly", BEN), ("decided", BEN)]
)
def test_mentions_of_our_own_people_stay(name: str, person: str) -> None:
    assert any(f"<@{person}>" in text for text in mrkdwn(cards(HOSTILE)[name]))


@pytest.mark.parametrize(
    "text",
    [
        "<!channel>",
        "a <@U1> b",
        "<http://x|y>",
        "so *bold* it",
        "_i_",
        "~s~",
        "`code",
        "&gt; quote",
        "a\u202eb",
    ],
)
def test_foreign_markup_is_found(text: str) -> None:
    assert foreign_markup(text)


def test_labels_keep_their_underscores() -> None:
    assert escape("card_arrival, 2 < 3 & 5 > 4") == "card_arrival, 2 &lt; 3 &amp; 5 &gt; 4"
    assert code("card_arrival") == "`card_arrival`"
    assert code("a`b\nc") == "`aˋb c`"


def foreign_markup(text: str) -> list[str]:
    """What Slack would render although we didn't mean it: links, mentions of strangers, styles, quotes."""
    markup = [tag for tag in re.findall(r"<[^>]*>", text) if tag not in OURS and not OUR_DATE.fullmatch(tag)]
    markup += INVISIBLE.findall(text)
    outside = re.sub(r"`[^`\n]+`", "", _without_our_fence(text))
    markup += re.findall(r"\*bold\*|\b_i_|~s~|`", outside) + re.findall(r"(?<![^\W_])_i_", outside)
    return markup + re.findall(r"^\s*&gt;.*", text, re.MULTILINE)


def _without_our_fence(text: str) -> str:
    """Drops a fenced table of our own, in which nothing is rendered as a style. A backtick in it would end it."""
    inside = text.removeprefix("```\n").removesuffix("\n```")
    return "" if len(inside) == len(text) - 8 and "`" not in inside else text
