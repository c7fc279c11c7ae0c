"""Answers to questions that people try, and people's verdicts on them."""

from __future__ import annotations

from bot.cards.common import forms
from bot.cards.common.blocks import (
    Block,
    Message,
    Note,
    Text,
    actions,
    button,
    code,
    cut,
    escape,
    quote,
    sentence,
)
from bot.cards.common.candidates import promotable_text
from bot.cards.common.general import text_message
from bot.cards.common.words import capitalize, percent, pluralize
from bot.cards.datasets.check_reports import ADD_BETTER
from storage.promotions import Promotion
from storage.records import Ask, Promotable
from trainers.dataset import Report
from trainers.recipes.free import FreeAnswer
from trainers.types import Answer

TRY_FORM = "try_form"
GOOD = "answer_good"
NOT_GOOD = "answer_not_good"
BETTER_FORM = "better_answer"
LONGEST_ECHO = 80
LONGEST_QUOTE = 1200


def try_form(model: str, channel: str) -> Block:
    hint = f"Only you see the answer of {model}."
    text = forms.required_text_input("text", "Ask it something", most=forms.LONGEST_TEXT, hint=hint)
    return forms.modal("Try the tuned model", TRY_FORM, [text], submit="Ask", private=f"{channel} {model}")


def not_ready(promotion: Promotion) -> str:
    """For somebody who asks what is in use before programs get it, or after what it answers from was deleted."""
    name = capitalize(promotable_text(promotion.what))
    if promotion.ended_at is not None:
        return f"{name} is no longer in use, and what it answers from was deleted."
    if promotion.trouble is not None:
        return f"{name} is in use for {code(promotion.dataset)}, but can't answer yet: {escape(promotion.trouble)}"
    return f"{name} is being made ready for {code(promotion.dataset)}. Ask again in a minute."


def pending_card(ask: Ask) -> Message:
    return text_message(f"Asking {code(ask.model)} …")


def answer_note(what: Promotable, answer: Answer) -> str:
    used = pluralize(answer.prompt_tokens + answer.completion_tokens, "token")
    spent = f"{max(answer.seconds, 0.1):.1f} seconds, {used}."
    if what.model is not None:
        return spent
    return f"{capitalize(promotable_text(what))}: {spent}"


def free_note(what: Promotable, answer: FreeAnswer) -> str:
    """Says how probable the answer is, where that is calibrated."""
    note = f"{capitalize(promotable_text(what))}, which costs nothing."
    if answer.probabilities is None:
        return note
    (_, likeliest), *others = answer.probabilities
    note += f" It is right with a probability of {percent(likeliest)}"
    if others:
        label, share = others[0]
        note += f"; {escape(cut(label, 60))} has {percent(share)}"
    return f"{note}."


def answer_card(ask: Ask, answer: str, note: str) -> Message:
    verdicts = [button("👎 Not good", NOT_GOOD, str(ask.id))]
    if answer.strip():  # an empty answer can't be the better one of a pair
        verdicts.insert(0, button("👍 Good", GOOD, str(ask.id)))
    shown = cut(answer.strip(), 500) or "(nothing)"
    return Message(
        f"{code(ask.model)} answers: {escape(shown)}",
        (
            Text(f"{code(ask.model)} was asked:\n{quote(ask.text, LONGEST_QUOTE)}"),
            Text(f"It answers:\n{quote(answer, LONGEST_QUOTE)}"),
            actions(*verdicts),
            Note(f"{note} Only you see this."),
        ),
    )


def better_form(number: int) -> Block:
    """Asks for a better answer than the one that was not good."""
    hint = "Your answer and the model's become a preference pair. Don't include names or addresses."
    text = forms.required_text_input(
        "text", "What would be a better answer?", most=forms.LONGEST_TEXT, hint=hint
    )
    return forms.modal("A better answer", BETTER_FORM, [text], submit="Save", private=str(number))


def verdict_noted(question: str, dataset: str, pairs: int, least: int, *, is_empty: bool = False) -> str:
    """The answer to a verdict, in one line. The dataset's models have `pairs` preference pairs so far; training needs
    `least`. `is_empty` is true if the model's answer was empty."""
    asked_text = escape(cut(" ".join(question.split()), LONGEST_ECHO))
    if is_empty:
        return f"Saved for “{asked_text}”. The model's empty answer makes no preference pair, as that needs two texts."
    if pairs < least:
        return f"Saved for “{asked_text}”: {pairs:,} of the {least:,} preference pairs that training needs."
    command = code(f"/finetune pairs {dataset}")
    return f"Saved for “{asked_text}”. {command} makes a dataset of the {pairs:,} preference pairs."


def noted_message(text: str, dataset_id: int) -> Message:
    """The answer to a better answer, with the button that makes it a training row."""
    add = button("Add the better answers as rows", ADD_BETTER, str(dataset_id))
    return Message(text, (Text(text), actions(add)))


def better_answers_added(dataset: str, count: int) -> str:
    rows = "1 better answer is" if count == 1 else f"{count:,} better answers are"
    return f"{rows} being added to the training rows of {code(dataset)}; the card in its channel says when."


def no_better_answers(dataset: str) -> str:
    return (
        f"No better answer can be added to {code(dataset)}. Press 👎 on an answer to {code('/finetune try')} and write "
        "a better one."
    )


def not_for_pairs(dataset: str) -> str:
    return (
        f"The rows of {code(dataset)} are preference pairs, so better answers alone can't be added. "
        f"{code(f'/finetune pairs {dataset}')} makes pairs of them."
    )


def left_out_text(dataset: str, held: int, repeated: int, unfit: int, report: Report) -> str:
    """Why some better answers are left out; '' if none is."""
    reasons = []
    if held:
        reasons.append(f"{held:,} to questions that {code(dataset)} holds out to measure models")
    if repeated:
        reasons.append(f"{repeated:,} to questions that its training rows ask already")
    if unfit:
        kind = "none of its labels" if report.labels else "no JSON object"
        reasons.append(f"{unfit:,} that {'is' if unfit == 1 else 'are'} {kind}")
    if not reasons:
        return ""
    return f"Left out: {', '.join(reasons)}."


def held_out_pairs(dataset: str, count: int) -> str:
    pairs = f"{pluralize(count, 'pair')} {'is' if count == 1 else 'are'} left out"
    return f"{pairs}, because {code(dataset)} holds out the question to measure models."


def too_few_pairs(dataset: str, pairs: int, least: int, empty: int, held: int = 0) -> str:
    """`empty` answers make no pair, and neither do those to `held` held-out questions."""
    text = f"Verdicts on models of {code(dataset)} make {pluralize(pairs, 'preference pair')}; training needs {least}. "
    if empty:
        text += f"{empty_answers(empty)} "
    if held:
        text += f"{held_out_pairs(dataset, held)} "
    return f"{text}Ask its model something with {code('/finetune try')}, press 👎 and write a better answer."


def empty_answers(count: int) -> str:
    verb = "is" if count == 1 else "are"
    return f"{pluralize(count, 'empty answer')} {verb} left out, as a pair needs two texts."


def failure_card(ask: Ask, why: str) -> Message:
    """`why` is any text, with its cure."""
    text = f"{code(ask.model)} could not be asked: {sentence(why)}"
    asked_text = escape(cut(ask.text, 200))
    return Message(text, (Text(text), Note(f"You asked: {asked_text}")))
