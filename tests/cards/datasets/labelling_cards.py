"""Cards and forms of labelling."""

from __future__ import annotations

from typing import Any

from bot.cards.common.blocks import Message
from bot.cards.datasets import row_labels
from bot.cards.datasets.row_labels import OvertakenRows, RowToLabel
from bot.cards.evidence import distillations
from bot.cards.evidence.distillations import Contradictions
from bot.values.row_labels import outcome_in_version, tally_answers
from storage.records import Labelling, LabellingRow, RowLabel
from tests.cards import builders, measurements
from tests.cards.builders import ANA, BEN, NOW
from tests.cards.measurements import BIG
from trainers.dataset import Finding

LABELS = ("card_arrival", "refund", "opening hours", "<odd> *label*")
MANY_LABELS = tuple(f"label number {number:03}" for number in range(150))
LABEL_FINDINGS = (
    Finding(
        None,
        "warns",
        "label_errors",
        "12 labels look different from those of similar rows; about 9 of them are probably wrong (2.3% of 383).",
        "Have a person check some of these lines.",
        12,
    ),
    *(
        Finding(
            line,
            "warns",
            "label_doubted",
            f"Line {line} is labelled 'refund', but similar rows are 'card_arrival'.",
            "Look at the row, and correct its label if it is wrong.",
        )
        for line in (17, 44)
    ),
)
ROWS = [
    LabellingRow(
        1, place, f"k{place}", "Where is my *card*?\nIt was sent on <Monday>.", "refund", "card_arrival"
    )
    for place in range(20)
]
CONTRADICTIONS = Contradictions(40, [(ROWS[0], "card_arrival")])
TERMS = ("OpenAI", "https://openai.com/policies/services-agreement/")
NEW_ROWS = [LabellingRow(2, 0, "k0", "When do you open?", None, "opening hours")]


def labelling(state: Any = "open", **other: Any) -> Labelling:
    values = {
        "id": 1, "dataset": "tickets", "dataset_id": 3, "channel": "C0TICKETS", "person": ANA, "count": 20,
        "filename": None, "source": None, "sha256": None, "left_out": 0,
        "teacher": None, "measurement_id": None, "closed_by": BEN, "version_id": None,
        "tries": 0, "next_at": 0.0, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    return Labelling(**{**values, "state": state, **other})


def answers(count: int, person: str = ANA, label: str | None = "card_arrival") -> list[RowLabel]:
    return [RowLabel(1, place, person, label, NOW) for place in range(count)]


def cards() -> dict[str, Message]:
    ana_s, ben_s = ("card_arrival", "refund", "refund") * 4, ("card_arrival", "refund", "opening hours") * 4
    both = [
        RowLabel(1, place, person, label, NOW)
        for person, labels in ((ANA, ana_s), (BEN, ben_s))
        for place, label in enumerate(labels)
    ]
    half = tally_answers(ROWS, both)
    complete = tally_answers(
        ROWS, [*answers(17), *[RowLabel(1, place, ANA, "refund", NOW) for place in (17, 18, 19)]]
    )
    unlabelled = labelling(id=2, source="F1", filename="new.csv", left_out=1_204)
    next_version = builders.dataset(version=2, state="checking")
    same = tally_answers(ROWS, answers(3, label="refund"))
    return {
        "labels-open": row_labels.open_card(labelling(), tally_answers(ROWS, [])),
        "labels-half": row_labels.open_card(labelling(), half),
        "labels-all": row_labels.open_card(labelling(), complete),
        "labels-of-a-file": row_labels.open_card(unlabelled, tally_answers(NEW_ROWS, [])),
        "labels-closing": row_labels.closing_card(labelling("closing")),
        "labels-done": row_labels.done_card(labelling("done"), complete, next_version),
        "labels-done-disputed": row_labels.done_card(labelling("done"), half, next_version),
        "labels-done-same": row_labels.done_card(labelling("done"), same, None),
        "labels-done-overtaken": row_labels.done_card(
            labelling("done"),
            outcome_in_version(complete, ROWS, {"k0", "k1", "k2", "k3"}, ()),
            builders.dataset(version=3, state="checking"),
            OvertakenRows(builders.dataset(version=2), (12, 40, 77), 1),
        ),
        "labels-discarded": row_labels.discarded_card(labelling("cancelled")),
        "labels-by-a-model": distillations.done_card(
            labelling("done", teacher=BIG, left_out=31, measurement_id=4), 412, CONTRADICTIONS, next_version
        ),
        "labels-failed": row_labels.failed_notice(labelling("failed"), row_labels.no_doubted_rows("tickets")),
    }


def forms() -> dict[str, Any]:
    return {
        "form-label": row_labels.choice_form("C0TICKETS", "tickets"),
        "form-label-row": row_labels.row_form(RowToLabel(ROWS[0], LABELS, 3, 20)),
        "form-label-of-many": row_labels.row_form(RowToLabel(ROWS[0], MANY_LABELS, 3, 20)),
        "form-label-new-row": row_labels.row_form(RowToLabel(NEW_ROWS[0], LABELS, 0, 1)),
        "form-distil": distillations.form(
            "C0TICKETS", "tickets", measurements.candidate("zero", BIG, 190), 0.85, TERMS
        ),
        "form-distil-accepted": distillations.form(
            "C0TICKETS", "tickets", measurements.candidate("zero", BIG, 190), 0.85, None
        ),
        "form-contradictions": distillations.contradictions_form(BIG, CONTRADICTIONS),
        "form-label-all": row_labels.finished_form(labelling(), 20),
    }
