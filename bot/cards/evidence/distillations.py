"""Distillation: the form that asks for rows without labels and shows a provider's terms, and the outcome of the
teacher's labelling. Contradictions contain customers' words, so only a form shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common import forms
from bot.cards.common.blocks import Block, CardBlock, Message, Note, Text, button, code, escape, quote
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import bar_share, candidate_name, quality
from bot.cards.common.general import details_modal
from bot.cards.common.words import capitalize, more_line, pluralize, shorten
from storage.records import Dataset, Labelling, LabellingRow
from trainers.dataset.formats import extensions
from trainers.evaluation.results import MeasuredCandidate

FORM = "distil_form"
CONTRADICTIONS = "contradictions"
SHOWN = 20


@dataclass(frozen=True)
class Contradictions:
    """People and the teacher both labelled `compared` questions; `rows` are those with different labels, each with the
    teacher's label."""

    compared: int
    rows: Sequence[tuple[LabellingRow, str]]


def form(
    channel: str, dataset: str, candidate: MeasuredCandidate, bar: float, terms: tuple[str, str] | None
) -> Block:
    """`terms` is the provider's title and the address of its terms; None if somebody has accepted them already."""
    blocks: list[CardBlock | Block] = [
        Text(f"{_score(candidate)} of {code(shorten(dataset))}. The bar is {bar_share(bar)}."),
        forms.file_input("file", "Rows without labels", extensions(asks=True)),
    ]
    if terms:
        title, address = terms
        link = f"<{address}|{escape(title)}'s terms>"
        words = f"{shorten(title)}'s terms allow our training on its answers"
        blocks += [
            Text(f"{link} say whether you may train on its models' answers. Read them before you continue."),
            forms.checkbox_input("terms", "Terms", [("yes", words)], is_consent=True),
        ]
    blocks.append(Note("You see the cost before anything is sent. The new rows are used for training only."))
    private = f"{channel} {dataset} {candidate.model}"
    return forms.modal("Label by a model", FORM, blocks, submit="Continue", private=private)


def done_card(
    labelling: Labelling, added: int, contradictions: Contradictions, version: Dataset | None
) -> Message:
    compared = contradictions.compared
    differ = len(contradictions.rows)
    pairs = []
    if labelling.left_out:
        pairs.append(("Left out", pluralize(labelling.left_out, "row")))
    if compared:
        agrees = f"on {compared - differ:,} of {pluralize(compared, 'question')} labelled by both"
        pairs.append(("Agrees with people", agrees))

    parts = Parts()
    parts.facts(pairs)
    if version:
        parts.text(f"They are training rows in {code(version.title)}; its card shows what changed.")
    else:
        parts.text("There are no new labels, so no new version was made.")
    if differ:
        parts.text("If people labelled the same question, their label is kept.")
        parts.buttons(button("Show contradictions", CONTRADICTIONS, str(labelling.id)))
    if labelling.left_out:
        parts.note(
            "Left out: rows without text or with personal data, known questions, and answers that are not labels."
        )
    teacher = shorten(str(labelling.teacher))
    return parts.titled(f"{labelling.dataset}: {pluralize(added, 'row')} labelled by {teacher}")


def contradictions_form(teacher: str, contradictions: Contradictions) -> Block:
    model = escape(shorten(teacher))
    parts = Parts()
    for row, label in contradictions.rows[:SHOWN]:
        by_people = escape(shorten(str(row.given)))
        by_model = escape(shorten(label))
        parts.text(f"{quote(row.text, 400)}\nPeople: *{by_people}*; {model}: *{by_model}*")
    hidden = len(contradictions.rows) - SHOWN
    if hidden > 0:
        parts.note(more_line(hidden))
    return details_modal("Contradictions", parts)


def not_measured(teacher: str, dataset: str) -> str:
    command = code(f"/finetune baseline {dataset} models={teacher}")
    return f"{code(teacher)} has not been measured on {code(dataset)} yet. Run {command} first."


def below_the_bar(candidate: MeasuredCandidate, bar: float) -> str:
    return (
        f"{_score(candidate)}, which does not clearly meet the bar of {bar_share(bar)}. "
        "Its labels would teach its mistakes, so measure a better model first."
    )


def _score(candidate: MeasuredCandidate) -> str:
    name = candidate_name(candidate.identity, 40)
    return f"{escape(capitalize(name))} gets {quality(candidate)} right on the held-out rows"


def unknown_terms(provider: str) -> str:
    return (
        f"This bot doesn't know {code(provider)}'s terms about training on its models' answers, so your team has to "
        'read them. Then the bot\'s operator adds their address to finetune.toml: `outputs_terms = "https://…"` under '
        f"[providers.{provider}]."
    )


def terms_not_accepted(title: str) -> str:
    return f"Tick the box: models of {title} label nothing until somebody has accepted its terms."
