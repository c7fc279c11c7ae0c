"""Distillation: the form that asks for rows without labels and shows a provider's terms, and the outcome of the
teacher's labelling. Contradictions contain customers' words, so only a form shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common import forms
from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Facts,
    Message,
    Note,
    Text,
    actions,
    button,
    code,
    escape,
    quote,
)
from bot.cards.common.candidates import bar_share, long_name, quality
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
    accept: list[CardBlock | Block] = []
    if terms:
        title, address = terms
        may = f"<{address}|{escape(title)}'s terms> say whether you may train on its models' answers."
        words = f"{shorten(title)}'s terms allow our training on its answers"
        box = forms.checkbox_input("terms", "Terms", [("yes", words)], is_consent=True)
        accept = [Text(f"{may} Read them before you continue."), box]
    blocks: list[CardBlock | Block] = [
        Text(f"{_score(candidate)} of {code(shorten(dataset))}. The bar is {bar_share(bar)}."),
        forms.file_input("file", "Rows without labels", extensions(asks=True)),
        *accept,
        Note("You see the cost before anything is sent. The new rows are used for training only."),
    ]
    return forms.modal(
        "Label by a model", FORM, blocks, submit="Continue", private=f"{channel} {dataset} {candidate.model}"
    )


def done_card(
    labelling: Labelling, added: int, contradictions: Contradictions, version: Dataset | None
) -> Message:
    teacher = shorten(str(labelling.teacher))
    headline = f"{labelling.dataset}: {pluralize(added, 'row')} labelled by {teacher}"
    text = "There are no new labels, so no new version was made."
    if version:
        text = f"They are training rows in {code(version.title)}; its card shows what changed."
    pairs = []
    if labelling.left_out:
        pairs.append(("Left out", pluralize(labelling.left_out, "row")))
    compared = contradictions.compared
    differ = len(contradictions.rows)
    if compared:
        agrees = f"on {compared - differ:,} of {pluralize(compared, 'question')} labelled by both"
        pairs.append(("Agrees with people", agrees))
    stays = Text("If people labelled the same question, their label is kept.")
    left_out = (
        "Left out: rows without text or with personal data, known questions, and answers that are not labels."
    )
    return Message.titled(
        headline,
        Facts(pairs) if pairs else None,
        Text(text),
        stays if differ else None,
        actions(button("Show contradictions", CONTRADICTIONS, str(labelling.id))) if differ else None,
        Note(left_out) if labelling.left_out else None,
    )


def contradictions_form(teacher: str, contradictions: Contradictions) -> Block:
    blocks: list[CardBlock | Block] = []
    for row, label in contradictions.rows[:SHOWN]:
        people, model = escape(shorten(str(row.given))), escape(shorten(teacher))
        labels = f"People: *{people}*; {model}: *{escape(shorten(label))}*"
        blocks.append(Text(f"{quote(row.text, 400)}\n{labels}"))
    hidden = len(contradictions.rows) - SHOWN
    if hidden > 0:
        blocks.append(Note(more_line(hidden)))
    return details_modal("Contradictions", blocks)


def not_measured(teacher: str, dataset: str) -> str:
    command = code(f"/finetune baseline {dataset} models={teacher}")
    return f"{code(teacher)} has not been measured on {code(dataset)} yet. Run {command} first."


def below_the_bar(candidate: MeasuredCandidate, bar: float) -> str:
    return (
        f"{_score(candidate)}, which does not clearly meet the bar of {bar_share(bar)}. "
        "Its labels would teach its mistakes, so measure a better model first."
    )


def _score(candidate: MeasuredCandidate) -> str:
    name = f"{long_name(candidate.identity)} on {shorten(str(candidate.model))}"
    return f"{escape(capitalize(name))} gets {quality(candidate)} right on the held-out rows"


def unknown_terms(provider: str) -> str:
    return (
        f"This bot doesn't know {code(provider)}'s terms about training on its models' answers, so your team has to "
        'read them. Then the bot\'s operator adds their address to finetune.toml: `outputs_terms = "https://…"` under '
        f"[providers.{provider}]."
    )


def terms_not_accepted(title: str) -> str:
    return f"Tick the box: models of {title} label nothing until somebody has accepted its terms."
