"""Cards of datasets, learning curves, prices, preferences and documents."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

from bot.cards.common import general, judge_agreement, prices
from bot.cards.common.blocks import Message
from bot.cards.datasets import check_reports, data_policy, dataset_versions, datasets, documents
from bot.cards.datasets.check_reports import JudgedModel
from bot.cards.datasets.datasets import Best, DatasetEntry
from bot.cards.datasets.documents import DocumentUse
from bot.cards.evidence import learning_curves
from bot.rules.facts import Looks
from bot.rules.plans import TaughtRows
from storage.records import Waiver
from tests.cards import builders, measurements
from tests.cards.builders import BEN, DUPLICATE, NOT_JSON, NOW, PERSONAL, TOO_FEW, WORTH_A_TRY
from tests.cards.datasets import labelling_cards
from tests.cards.evidence import curve_cards
from tests.cards.measurements import BIG, CANDIDATES, DIFF, PRICES, SAME
from trainers.dataset.preference_pairs import PairsReport
from trainers.dataset.rows import Columns, ShownRow
from trainers.documents import Unreadable
from trainers.evaluation.results import MeasuredCandidate
from trainers.models.tokens import Spread
from trainers.providers.providers import load_providers

DAY = date(2026, 11, 25)
_SPREAD = Spread(total=8_400, mean=60.0, p50=58, p95=90, max=120)
PAIRS_REPORT = PairsReport(pairs=70, prompts=64, prompt=_SPREAD, longer=_SPREAD, preferred_longer=0.5)


def cards() -> dict[str, Message]:
    return {**_datasets(), **_learning(), **_others()}


def _entry(
    state: Any = "ready", candidate: MeasuredCandidate | None = None, looks: int = 0, **other: Any
) -> DatasetEntry:
    report = builders.report() if state == "ready" else None
    best = Best(candidate, 0.85) if report else None
    return DatasetEntry(
        builders.dataset(state=state, **other), report, best, Looks(looks, 200) if looks else None
    )


def _datasets() -> dict[str, Message]:
    entries = [
        _entry(candidate=CANDIDATES[0], version=2),
        _entry(candidate=CANDIDATES[4], name="mails", looks=3),
        _entry(candidate=measurements.candidate("kshot", BIG, 175), name="replies", looks=27),
        _entry(name="orders"),
        _entry("checking", name="faq"),
        _entry("refused", name="old", refusal="Line 7 is not JSON."),
    ]
    return {
        "dataset-received": check_reports.received_card(builders.dataset(state="received")),
        "dataset-ready": check_reports.checked_card(
            builders.dataset(version=2),
            builders.report(DUPLICATE, WORTH_A_TRY),
            may_show_row=True,
            taught=(TaughtRows("house/big", 119),),
        ),
        "dataset-calls": check_reports.checked_card(
            builders.dataset(), builders.report(task="free_text", labels=(), n_calling=383, n_functions=2)
        ),
        "dataset-calls-and-texts": check_reports.checked_card(
            builders.dataset(), builders.report(task="free_text", labels=(), n_calling=256, n_functions=2)
        ),
        "dataset-pairs-judged": check_reports.checked_card(
            replace(builders.dataset(), name="tickets-pairs", filename="tickets-pairs.jsonl"),
            builders.report(task="free_text", labels=(), pairs=PAIRS_REPORT),
            judged=JudgedModel("tickets-3", "tickets", 4),
        ),
        "dataset-in-public": check_reports.checked_card(
            builders.dataset(), builders.report(WORTH_A_TRY, n_train=301, n_copies=5)
        ),
        "dataset-unlabelled": check_reports.checked_card(
            builders.dataset(),
            builders.report(
                WORTH_A_TRY,
                builders.UNLABELLED,
                n_train=281,
                n_copies=5,
                n_earlier=10,
                n_sealed=34,
                n_earlier_sealed=4,
            ),
            may_show_row=True,
        ),
        "dataset-combined": check_reports.checked_card(
            builders.dataset(),
            builders.report(builders.SEVERAL_LABELS, WORTH_A_TRY, n_combined=2),
            may_show_row=True,
        ),
        "dataset-small": check_reports.checked_card(
            builders.dataset(), builders.small_report(), may_show_row=True, missing_bases=["toy"]
        ),
        "dataset-doubted": check_reports.checked_card(
            builders.dataset(), builders.report(*labelling_cards.LABEL_FINDINGS), may_show_row=True
        ),
        "dataset-clean": check_reports.checked_card(
            builders.dataset(),
            builders.report(
                format="chat",
                labels=(),
                task="free_text",
                columns=Columns(),
                column_names=(),
                example=ShownRow("How long is the warranty?", "Two years from the day you bought it."),
            ),
            may_show_row=True,
        ),
        "dataset-fields": check_reports.checked_card(
            builders.dataset(),
            builders.report(format="chat", labels=(), task="free_text", scoring="json", floor=0.131),
        ),
        "dataset-blocked": check_reports.checked_card(
            builders.dataset(), builders.blocked_report(NOT_JSON, DUPLICATE)
        ),
        "dataset-few": check_reports.checked_card(
            builders.dataset(), replace(builders.blocked_report(NOT_JSON, TOO_FEW), rows=3), days=30
        ),
        "dataset-columns": check_reports.checked_card(
            builders.dataset(), builders.report_with_unclear_columns()
        ),
        "dataset-sheets": check_reports.checked_card(
            builders.dataset(), builders.report_of_a_workbook(), may_show_row=True
        ),
        "dataset-text-unclear": check_reports.checked_card(
            builders.dataset(), builders.report_with_a_doubtful_text()
        ),
        "dataset-refused": check_reports.refused_card(
            builders.dataset(), "The file is a PNG image. Upload CSV or JSONL."
        ),
        "dataset-list": datasets.listing(builders.full_list(*entries)),
        "dataset-list-empty": datasets.listing(builders.full_list()),
        "waiver-asked": data_policy.request_card(builders.dataset(), "Acme Tuning", PERSONAL),
        "waiver-given": data_policy.waiver_recorded_card(
            builders.dataset(), Waiver(1, BEN, "the customers agreed, LEGAL-12", NOW)
        ),
        "dataset-unknown": general.text_message(datasets.no_such_dataset("tikets", ["tickets", "faq"])),
    }


def _learning() -> dict[str, Message]:
    flat = measurements.curve(points_per_100=0.004, needs=(), predicted=())
    return {
        "dataset-dropped": dataset_versions.version_changes(
            builders.dataset(version=2), replace(DIFF, held_out_dropped=18), 121
        ),
        "dataset-changed": dataset_versions.version_changes(builders.dataset(version=2), DIFF, 121),
        "dataset-unchanged": dataset_versions.version_changes(builders.dataset(version=3), SAME, 77),
        "curve-working": learning_curves.progress_card("tickets"),
        "curve-failed": learning_curves.failure_card(
            "tickets", "There are 14 rows; a curve needs 24 at least."
        ),
        "curve": learning_curves.card(measurements.curve(), number=5, label_usd=Decimal("0.10"), bar=0.9),
        "curve-flat": learning_curves.card(flat, number=5, label_usd=Decimal("0.10"), bar=0.95),
        "curve-untold": learning_curves.card(
            measurements.inconclusive_curve(), number=5, label_usd=Decimal("0.10")
        ),
        "curve-tuned": learning_curves.card(
            curve_cards.tuned_curve(), number=5, label_usd=Decimal("0.50"), bar=0.9
        ),
    }


def _others() -> dict[str, Message]:
    texts = ("Where is my parcel?", "It left on Monday.\nYou will have it on Friday.", "We don't know.")
    return {
        "prices": prices.listing(PRICES, DAY),
        "prices-short": prices.listing(PRICES[:-1], DAY, shown_by="`/finetune prices all`"),
        "prices-tried": prices.listing(
            PRICES, DAY, tried_with={row.name: row.tried_with for row in load_providers()}
        ),
        "prices-unknown": prices.listing(PRICES[-1:], DAY),
        "prices-none": prices.listing((), DAY),
        "preference-asked": judge_agreement.question_card("3 17", *texts, done=4, wanted=30),
        "preference-chosen": judge_agreement.choice_card(*texts, "tie", BEN),
        "knowledge-received": documents.document_received(measurements.document("received")),
        "knowledge-ready": documents.document_ready(measurements.document()),
        "knowledge-removed": documents.document_removed(
            measurements.document(), BEN, DocumentUse((7, 3), is_promoted=True)
        ),
        "knowledge-refused": documents.document_refused(
            measurements.document("refused"), documents.why_unreadable(Unreadable("no_text"))
        ),
    }
