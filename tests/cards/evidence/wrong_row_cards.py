"""Cards of wrong rows."""

from __future__ import annotations

from bot.cards.common.blocks import Message
from bot.cards.common.general import text_message
from bot.cards.evidence import wrong_rows
from bot.cards.evidence.wrong_rows import DifferentRow, DifferentSide, WrongAnswers, WrongRowsOffer
from tests.cards.builders import BEN
from trainers.evaluation.wrong_rows import WrongRow, WrongRows

ROWS = (
    WrongRow("Where is my parcel? It should have been here on Monday.", "lost_parcel", "card_arrival"),
    WrongRow("I want <@U1> *my* money\nback, now", "refund", ""),
    WrongRow("Are you open on Sundays?", "opening hours", None),
)


def cards() -> dict[str, Message]:
    best = WrongAnswers(0, "prompt alone, openai/gpt-4o-mini", 23, 200)
    right = WrongAnswers(1, "encoder", 0, 200)
    offer = WrongRowsOffer("m7", "tickets", (best, right))
    text = WrongRowsOffer(
        "run 3",
        "faq",
        (WrongAnswers(0, "faq-3", 61, 200),),
        why_not_training="no free model can answer them, as these answers are neither labels nor JSON objects.",
    )
    many = WrongRowsOffer("m8", "tickets", tuple(WrongAnswers(n, f"candidate {n}", n, 200) for n in range(8)))
    return {
        "wrong-rows-offer": wrong_rows.offer_card(offer),
        "wrong-rows-offer-of-texts": wrong_rows.offer_card(text),
        "wrong-rows-offer-of-many": wrong_rows.offer_card(many),
        "wrong-rows-held-out": wrong_rows.held_out_card("m7", best, WrongRows(ROWS, 0, 23, 200)),
        "wrong-rows-last": wrong_rows.held_out_card("run 3", best, WrongRows(ROWS[:1], 22, 23, 200)),
        "wrong-rows-different": wrong_rows.different_rows_card(
            DifferentSide("run 3"),
            DifferentSide("m7", 2),
            [
                DifferentRow("Where is my parcel?", "lost_parcel", "lost_parcel", "card_arrival"),
                DifferentRow("I want my money back", "refund", "", None),
            ],
            8,
            11,
        ),
        "wrong-rows-training": wrong_rows.training_card("m7", WrongRows(ROWS, 8, 40, 383)),
        "wrong-rows-training-all-right": wrong_rows.training_card("m7", WrongRows((), 0, 0, 383)),
        "wrong-rows-hidden": text_message(wrong_rows.not_shown_text(offer, "others read here", BEN)),
    }
