"""Wrong rows of a result: the choice between training rows, which cost nothing to read, and held-out rows, which count
as read afterwards; and the rows themselves, which hold customers' words and are for private channels only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Message,
    Note,
    Text,
    actions,
    button,
    code,
    confirm,
    cut,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.words import pluralize, shorten
from bot.rules.data_policy import NoDelivery, RowDelivery
from trainers.evaluation.wrong_rows import WrongRow, WrongRows

WRONG_ROWS = "wrong_rows"
SHOW_TRAINING = "show_wrong_training_rows"
SHOW_HELD_OUT = "show_wrong_held_out_rows"
SHOW_DIFFERENT = "show_different_rows"
SHOWN_CANDIDATES = 6
SHOW_WORDS = "Show wrong rows"
TRAINING = (
    "*Training rows* show what is hard as well, and cost nothing to read: a free model answers each of them without "
    "having learnt from it."
)
_WHEN_READ = (
    "they count as wrong for whatever learns from rows uploaded later, and a prompt written later can't show on this "
    "holdout that it meets the bar."
)
HELD_OUT = f"*Held-out rows* decide what is good enough. Once somebody has read them, {_WHEN_READ}"
CONSEQUENCE = f"From then on {_WHEN_READ} Reading training rows changes nothing."


@dataclass(frozen=True)
class WrongAnswers:
    """How many of a candidate's answers to the `of` held-out rows are not entirely right. `position` is that of the
    candidate in its result; `name` is plain text."""

    position: int
    name: str
    wrong: int
    of: int


@dataclass(frozen=True)
class WrongRowsOffer:
    """What can be shown of the result `subject`, 'run 3' or 'm7'. `why_not_training` says why no training rows can be
    shown, '' if they can."""

    subject: str
    dataset: str
    candidates: tuple[WrongAnswers, ...]
    why_not_training: str = ""


def wrong_rows_button(subject: str) -> Block:
    """The button on a result, 'run 3' or 'm7'. Its value is the command that it stands for."""
    return button(SHOW_WORDS, WRONG_ROWS, f"wrong {subject}")


def details_note(subject: str) -> Note:
    """How to get to the rows from a card that had no room for the button."""
    return Note(f"{code(f'/finetune wrong {subject}')} shows rows that were answered wrongly.")


def offer_card(offer: WrongRowsOffer) -> Message:
    """Training rows first, as they are as good a teacher and cost nothing."""
    parts = Parts()
    parts.add(_training_text(offer))
    parts.text(HELD_OUT)
    for candidate in offer.candidates[:SHOWN_CANDIDATES]:
        parts.add(_candidate_text(offer, candidate))
    hidden = len(offer.candidates) - SHOWN_CANDIDATES
    if hidden > 0:
        parts.note(f"The {pluralize(hidden, 'other candidate')} can't be chosen here.")
    return parts.titled(f"Wrong rows of {offer.subject}")


def offer_in_terminal(offer: WrongRowsOffer, command: str) -> Message:
    """The same choice for the terminal, by the options of `command`."""
    parts = Parts()
    if offer.why_not_training:
        parts.add(_training_text(offer))
    else:
        parts.text(f"{TRAINING} {code(f'{command} --training')} shows them.")
    parts.text(HELD_OUT)
    parts.lines(
        [
            f"{candidate.position + 1}. {escape(candidate.name)}: {candidate.wrong:,} of {candidate.of:,} wrong"
            for candidate in offer.candidates
        ]
    )
    parts.text(f"{code(f'{command} --held-out NUMBER')} shows those of one, after asking.")
    return parts.titled(f"Wrong rows of {offer.subject}")


def _training_text(offer: WrongRowsOffer) -> CardBlock:
    if offer.why_not_training:
        return Text(
            f"*Training rows* would cost nothing to read, but can't be shown: {offer.why_not_training}"
        )
    value = f"{_word(offer.subject)} 0"
    return Text(TRAINING, button("Show training rows", SHOW_TRAINING, value, style="primary"))


def _candidate_text(offer: WrongRowsOffer, candidate: WrongAnswers) -> CardBlock:
    text = f"{escape(shorten(candidate.name, 60))}: {candidate.wrong:,} of {candidate.of:,} wrong"
    if not candidate.wrong:
        return Text(text)
    return Text(text, held_out_button("Show them", offer.subject, candidate.position, 0))


def held_out_button(words: str, subject: str, position: int, first: int) -> Block:
    """Shows a page of held-out rows after a confirmation, as that can't be taken back."""
    return button(words, SHOW_HELD_OUT, f"{_word(subject)} {position} {first}", confirm=_sure())


@dataclass(frozen=True)
class DifferentSide:
    """A result whose answers are set beside another's, 'run 3' or 'm7', and its candidate's position there."""

    subject: str
    position: int = 0

    @property
    def value(self) -> str:
        return f"{_word(self.subject)} {self.position}"


def different_rows_button(words: str, side: DifferentSide, other: DifferentSide, first: int) -> Block:
    """Shows a page of the held-out rows that two results answered differently, after the same confirmation."""
    value = f"{side.value} {other.value} {first}"
    return button(words, SHOW_DIFFERENT, value, confirm=_sure())


def _sure() -> Block:
    return confirm("Read held-out rows?", CONSEQUENCE, "Show them", "Not now")


def _word(subject: str) -> str:
    """The subject as one word of a button's value: 'run-3' or 'm7'."""
    return subject.replace(" ", "-")


def held_out_card(
    subject: str, candidate: WrongAnswers, page: WrongRows, command: str | None = None
) -> Message:
    """A page of held-out rows. Holds customers' words."""
    parts = Parts()
    parts.lines([_row(row) for row in page.rows])
    shown = page.first + len(page.rows)
    if shown < page.wrong:
        more = held_out_button("Show more of them", subject, candidate.position, shown)
        parts.add(_more(more, command, shown))
    parts.note(_read_from_now_on(len(page.rows)))
    name = escape(shorten(candidate.name, 60))
    return _titled(parts, f"Wrong held-out rows of {subject}", f"{name}, {_range(page)}")


@dataclass(frozen=True)
class DifferentRow:
    """A held-out row of which only one of two results is right, or one is better. Holds customers' words."""

    question: str
    expected: str
    answer: str | None
    other_answer: str | None


def different_rows_card(
    side: DifferentSide, other: DifferentSide, rows: Sequence[DifferentRow], first: int, count: int
) -> Message:
    """A page of the `count` rows that differ. Holds customers' words."""
    parts = Parts()
    parts.lines([_different_row(row, side.subject, other.subject) for row in rows])
    shown = first + len(rows)
    if shown < count:
        parts.buttons(different_rows_button("Show more of them", side, other, shown))
    parts.note(_read_from_now_on(len(rows)))
    return _titled(
        parts,
        f"Rows that {side.subject} and {other.subject} answer differently",
        f"{first + 1:,} to {shown:,} of {count:,}",
    )


def _read_from_now_on(rows: int) -> str:
    count = "these rows count"
    if rows == 1:
        count = "this row counts"
    return f"From now on {count} as wrong for whatever learns from rows uploaded later."


def _different_row(row: DifferentRow, subject: str, other: str) -> str:
    question = escape(cut(_on_one_line(row.question), 160))
    answers = f"expected {_answer(row.expected)}, {subject} {_stored(row.answer)}, {other} {_stored(row.other_answer)}"
    return f"• {question}\n      {answers}"


def _stored(answer: str | None) -> str:
    if answer is None:
        return "no longer stored"
    return _answer(answer)


def training_card(subject: str, page: WrongRows, command: str | None = None) -> Message:
    """A page of training rows. Holds customers' words. `command` shows it in the terminal, None in Slack."""
    parts = Parts()
    parts.lines([_row(row) for row in page.rows])
    shown = page.first + len(page.rows)
    if shown < page.wrong:
        more = button("Show more of them", SHOW_TRAINING, f"{_word(subject)} {shown}")
        parts.add(_more(more, command, shown))
    if not page.wrong:
        parts.text("The free model gets all training rows right that it could be asked.")
    parts.note(
        "Each was answered by the free classical model that had not learnt from it. No held-out row was read."
    )
    return _titled(parts, f"Wrong training rows of {subject}", _range(page))


def _more(more: Block, command: str | None, shown: int) -> CardBlock:
    """The way to the next page: the button `more` in Slack, and in the terminal an option of `command`."""
    if command is None:
        return actions(more)
    return Text(f"{code(f'{command} --from {shown + 1}')} shows more of them.")


def _titled(parts: Sequence[CardBlock], headline: str, subject: str) -> Message:
    card = Parts()
    card.note(subject)
    card.add(*parts)
    return card.titled(headline)


def _range(page: WrongRows) -> str:
    if not page.rows:
        return f"none of {pluralize(page.of, 'row')} is wrong"
    last = page.first + len(page.rows)
    return f"{page.first + 1:,} to {last:,} of {page.wrong:,} wrong among {pluralize(page.of, 'row')}"


def _row(row: WrongRow) -> str:
    question = escape(cut(_on_one_line(row.question), 160))
    answered = "its answer is no longer stored"
    if row.answer is not None:
        answered = f"answered {_answer(row.answer)}"
    return f"• {question}\n      expected {_answer(row.expected)}, {answered}"


def _answer(text: str) -> str:
    answer = _on_one_line(text)
    if not answer:
        return "nothing"
    return code(cut(answer, 60))


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def coming_text(what: str, delivery: RowDelivery) -> str:
    """The answer to the person who pressed the button."""
    if delivery == "thread":
        return f"{what} in the thread under the result."
    return f"{what} in a direct message to you, as others read the dataset's channel."


def not_shown_text(offer: WrongRowsOffer, why: NoDelivery, uploader: str) -> str:
    """Why no row is shown to this person, with the counts, which everybody may read."""
    counts = []
    for candidate in offer.candidates[:SHOWN_CANDIDATES]:
        name = escape(shorten(candidate.name, 60))
        counts.append(f"{name}: {candidate.wrong:,} of {candidate.of:,} wrong")
    reason = "you are not in the dataset's channel"
    if why == "others read here":
        reason = (
            "rows are only shown in a dataset's own private channel, or to the person who uploaded it "
            f"(<@{uploader}>)"
        )
    return f"{'; '.join(counts)}. The rows themselves stay hidden: {reason}."
