"""Distillation: the form that asks for rows without labels and shows a provider's terms, and what came of the teacher's
labels. Contradictions hold customers' words: they are shown in a form alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards import forms
from bot.cards.blocks import (
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
from bot.cards.candidates import bar_share, long_name, quality
from bot.cards.general import details_modal
from bot.cards.row_labels import KINDS
from bot.cards.words import capitalize, pluralize, shorten
from storage.records import Dataset, Labelling, LabellingRow
from trainers.evaluation.results import Rung

FORM, CONTRADICTIONS = "distil_form", "contradictions"
SHOWN = 20


@dataclass(frozen=True)
class Contradictions:
    """Of `compared` questions that people and the teacher both labelled, `rows` are those where the teacher's label is
    another one."""

    compared: int
    rows: Sequence[tuple[LabellingRow, str]]


def form(channel: str, dataset: str, rung: Rung, bar: float, terms: tuple[str, str] | None) -> Block:
    """`terms`: of the provider, its title and the address, where nobody has accepted them yet."""
    accept: list[CardBlock | Block] = []
    if terms:
        title, address = terms
        may = f"Whether you may train on the answers of {escape(title)}'s models stands in <{address}|its terms>."
        words = f"{shorten(title)}'s terms allow our training on its answers"
        box = forms.checkbox_input("terms", "Terms", [("yes", words)], is_consent=True)
        accept = [Text(f"{may} Read them first."), box]
    blocks: list[CardBlock | Block] = [
        Text(f"{_score(rung)} of {code(shorten(dataset))}; the bar is {bar_share(bar)}."),
        forms.file_input("file", "Rows without labels", KINDS),
        *accept,
        Note("The cost is shown before anything is sent. The rows are trained on, and never tested with."),
    ]
    return forms.modal(
        "Label by a model", FORM, blocks, submit="Continue", private=f"{channel} {dataset} {rung.arm.model}"
    )


def done_card(
    labelling: Labelling, added: int, contradictions: Contradictions, version: Dataset | None
) -> Message:
    teacher = shorten(str(labelling.teacher))
    headline = f"{labelling.dataset}: {pluralize(added, 'row')} labelled by {teacher}"
    text = "No version was made: there is no new label."
    if version:
        text = f"They are in {code(version.title)}, to train on: its card says what changed."
    pairs = []
    if labelling.left_out:
        pairs.append(("Left out", pluralize(labelling.left_out, "row")))
    compared, differ = contradictions.compared, len(contradictions.rows)
    if compared:
        agrees = f"on {compared - differ:,} of {pluralize(compared, 'question')} that both labelled"
        pairs.append(("Agrees with people", agrees))
    stays = Text("Where people labelled the same question, their label stays.")
    left_out = (
        "Left out: rows without a text or with personal data, known questions, and answers that are no label."
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
    blocks += [Note(f"… and {hidden:,} more")] if hidden > 0 else []
    return details_modal("Contradictions", blocks)


def not_measured(teacher: str, dataset: str) -> str:
    command = code(f"/finetune baseline {dataset} models={teacher}")
    return f"{code(teacher)} was not measured on the test of {code(dataset)} yet: {command} does it first."


def below_the_bar(rung: Rung, bar: float) -> str:
    return (
        f"{_score(rung)}, which is not shown to meet the bar of {bar_share(bar)}. "
        "What it labels would teach its mistakes: measure a better model first."
    )


def _score(rung: Rung) -> str:
    name = f"{long_name(rung.arm)} on {shorten(str(rung.arm.model))}"
    return f"{escape(capitalize(name))} has {quality(rung)} right on the test"


def unknown_terms(provider: str) -> str:
    return (
        f"The terms of {code(provider)} about training on its models' answers are not known to this bot, so your team "
        'has to read them. Then the bot\'s operator puts their address here: `outputs_terms = "https://…"` under '
        f"[providers.{provider}] in finetune.toml."
    )


def terms_not_accepted(title: str) -> str:
    return f"Tick the box: no model of {title} labels anything before somebody has accepted its terms."
