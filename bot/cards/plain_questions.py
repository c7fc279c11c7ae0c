"""What people read when a model has read their question in plain words, and why one has not."""

from __future__ import annotations

from bot.cards.common.blocks import Message, button, code, escape, quote
from bot.cards.common.builder import Parts
from bot.cards.common.general import command_button
from bot.cards.common.words import capitalize, pluralize
from bot.questions.model_answer import LONGEST_SENTENCE
from storage.questions import PlainCounts
from trainers.money import usd_micros

RIGHT = "question_read_right"
WRONG = "question_read_wrong"
BY_WORDS = "These are the commands whose words are nearest."
FROZEN = "A model that costs money can't read your question now, because new spending is frozen."
DEARER = "Reading your question would cost more by now than was reserved for it."
INTERRUPTED = (
    "The bot was stopped while a model read your question, so it counts as paid for and is not sent again."
)
BOT_FAILED = "Something in the bot went wrong while a model read your question."


def offered_card(number: int, line: str, what: str, model: str, *, is_complete: bool) -> Message:
    """A command that waits for a click, or for what the question left open. `line` is what follows `/finetune`."""
    parts = Parts()
    parts.text(_line_text(line, what))
    if is_complete:
        parts.buttons(command_button(capitalize(line), line))
        parts.note(
            f"{code(model)} read your question; nothing has been done. The button runs the command with the rights of "
            "the person who presses it."
        )
    else:
        parts.note(
            f"{code(model)} read your question; nothing has been done. Type the command with values for the words in "
            "capitals."
        )
    return _with_thumbs(parts, number).titled("I read that as a command")


def ran_card(number: int, line: str, what: str, model: str) -> Message:
    """Comes before the answer of a command that only reads."""
    parts = Parts()
    parts.text(_line_text(line, what))
    parts.note(f"{code(model)} read your question. The command only shows something, so here is its answer.")
    return _with_thumbs(parts, number).titled("I read that as a command")


def none_card(number: int, sentence: str, model: str) -> Message:
    """The model named no command. The sentence is its own."""
    parts = Parts()
    if sentence:
        parts.text(f"{code(model)} answers:\n{quote(sentence, LONGEST_SENTENCE)}")
    parts.note(
        f"{code(model)} read your question and found no command for it. `/finetune help all` lists all."
    )
    return _with_thumbs(parts, number).titled("No command fits")


def most_text(micros: int) -> str:
    """The maximum cost, for the audit log; '' if it is free."""
    return f"up to {usd_micros(micros)}" if micros else ""


def cap_reached(cap_micros: int) -> str:
    return (
        f"Models may read questions for {usd_micros(cap_micros)} a day (`daily_usd` under [assistant] in "
        "finetune.toml), and today's is used up."
    )


def names_withheld(dataset: str, provider: str) -> str:
    return f"Your question names {code(dataset)}, whose rows may not go to {escape(provider)}, so it is not sent there."


def unusable(model: str, why: str) -> str:
    """`why` completes "The answer of MODEL"."""
    return f"The answer of {code(model)} {why}"


def failed(model: str, why: str) -> str:
    return f"{code(model)} could not read your question: {escape(why)}"


def too_slow(model: str, seconds: float) -> str:
    return f"{code(model)} did not answer within {seconds:.0f} seconds."


def verdict_noted(counts: PlainCounts, model: str) -> str:
    return f"Noted, thank you. {reading_record(counts, model)}"


def reading_record(counts: PlainCounts, model: str) -> str:
    """How often a model's readings were right, as far as people said so."""
    read = pluralize(counts.answers, "question")
    judged = counts.right + counts.wrong
    if not judged:
        return f"{code(model)} has read {read}; nobody has said yet whether it was right."
    return f"{code(model)} has read {read}; people found {counts.right} of {judged} right."


def _line_text(line: str, what: str) -> str:
    return f"{code(f'/finetune {line}')}: {escape(what)}"


def _with_thumbs(parts: Parts, number: int) -> Parts:
    parts.buttons(
        button("👍 Right", RIGHT, str(number)),
        button("👎 Not what I meant", WRONG, str(number)),
    )
    return parts
