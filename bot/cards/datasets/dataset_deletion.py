"""Cards and the form about deleting datasets and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common import forms
from bot.cards.common.blocks import Block, Message, Text, code, escape
from bot.cards.common.candidates import promotable_text
from bot.cards.common.forms import modal
from bot.cards.common.general import text_message
from bot.cards.common.words import pluralize
from bot.rules.models.promotion import alias_for
from bot.values.requests import Delete
from storage.promotions import Fallback, Promotion

DELETION_FORM = "delete_dataset"


@dataclass(frozen=True)
class UnderWay:
    """A run of another dataset that goes on from a deleted model. `has_begun` is True once a trainer has its job."""

    run: int
    dataset: str
    has_begun: bool


@dataclass(frozen=True)
class DeletionScope:
    """What a deletion includes. `in_use` names what programs still call. `answered` rows of an open batch have labels
    by people, which are in no version yet. `pairs` is the dataset of preference pairs that was made from its models'
    answers and stays, and `stays_in_use` what learnt from them and is in use for this dataset. `descendants` are models
    of other datasets that were trained from the deleted models and stay, with their datasets; `hidden` counts those of
    other channels. `under_way` and `hidden_runs` are the same of runs that have not ended."""

    dataset: str
    versions: tuple[int, ...]
    is_whole: bool
    runs: int
    measurements: int
    in_use: tuple[str, ...] = ()
    answered: int = 0
    pairs: str | None = None
    stays_in_use: str | None = None
    descendants: tuple[tuple[str, str], ...] = ()
    hidden: int = 0
    under_way: tuple[UnderWay, ...] = ()
    hidden_runs: int = 0

    @property
    def title(self) -> str:
        if self.is_whole:
            return self.dataset
        if len(self.versions) == 1:
            return f"{self.dataset}, version {self.versions[0]}"
        numbers = ", ".join(map(str, self.versions))
        return f"{self.dataset}, versions {numbers}"

    @property
    def with_it(self) -> str:
        counts = {"version": len(self.versions), "run": self.runs, "measurement": self.measurements}
        # There is always a version to delete, so the list is never empty.
        *others, last = [pluralize(count, what) for what, count in counts.items() if count]
        if not others:
            return last
        return f"{', '.join(others)} and {last}"


def deletion_form(scope: DeletionScope, private: str) -> Block:
    text = (
        f"This permanently deletes {code(scope.title)}: {scope.with_it}, with all files, answers and tuned models, "
        "here and at trainers. Costs, approvals and the audit log stay; they contain none of its rows."
    )
    for used in scope.in_use:
        text += f"\n*{escape(used)} is in use*: programs that call it will get an error."
    for sentence in _further_sentences(scope, "/finetune delete"):
        text += f"\n{sentence}"
    # Typing the name is slower than a click, and nothing brings the data back.
    name = forms.required_text_input("name", "Type the dataset's name to delete it", most=40, multiline=False)
    return modal(
        "Delete data", DELETION_FORM, [Text(text), name], submit="Delete permanently", private=private
    )


def deletion_question(scope: DeletionScope) -> str:
    """A question in the terminal."""
    question = f"Delete {scope.title} for good: {scope.with_it}, and everything that was made from it?"
    return " ".join((question, *_further_sentences(scope, "finetune forget")))


def _further_sentences(scope: DeletionScope, command: str) -> list[str]:
    sentences = []
    batch = "that people have labelled in an open batch"
    if scope.answered == 1:
        sentences.append(f"1 row {batch} is deleted too.")
    elif scope.answered:
        sentences.append(f"{scope.answered:,} rows {batch} are deleted too.")
    if scope.pairs:
        deletes = code(f"{command} {scope.pairs}")
        sentences.append(
            f"{code(scope.pairs)} stays: its pairs hold questions of the same customers. {deletes} deletes it."
        )
    if scope.stays_in_use:
        ends = code(f"/finetune rollback {scope.dataset} to=nothing")
        sentences.append(
            f"{code(scope.stays_in_use)} learnt from these pairs and stays in use: programs that call "
            f"{code(alias_for(scope.dataset))} still get its answers. {ends} takes it out of use."
        )
    sentences += [_descendant_text(model, dataset, command) for model, dataset in scope.descendants]
    if scope.hidden:
        models = pluralize(scope.hidden, "model")
        sentences.append(
            f"{models} in other channels went on from models that are deleted here, so they have learnt from these "
            "rows, too, and stay."
        )
    sentences += [_under_way_text(run) for run in scope.under_way]
    if scope.hidden_runs:
        runs = pluralize(scope.hidden_runs, "run")
        sentences.append(
            f"{runs} under way in other channels began from models that are deleted here. What they train has learnt "
            "from these rows, too, and stays."
        )
    return sentences


def _under_way_text(going_on: UnderWay) -> str:
    run = f"Run {going_on.run} on {code(going_on.dataset)} goes on from a model that is deleted here"
    if not going_on.has_begun:
        return f"{run}, so it will not begin."
    cancels = code(f"/finetune cancel {going_on.run}")
    return f"{run}. What it trains has learnt from these rows, too, and stays; {cancels} ends it first."


def _descendant_text(model: str, dataset: str, command: str) -> str:
    deletes = code(f"{command} {dataset}")
    return (
        f"{code(model)} stays, although it went on from a model that is deleted here and has learnt from these rows, "
        f"too. {deletes} deletes it."
    )


def in_use_obstacle(standing: Promotion) -> str:
    """Why only a part of a dataset can't be deleted; follows 'can't be deleted now: '."""
    learnt = "measured with" if standing.model is None else "trained on"
    command = code(f"/finetune rollback {standing.dataset} to=nothing")
    return (
        f"{promotable_text(standing.what)}, which is in use, was {learnt} it. Deploy something newer first, or take it "
        f"out of use: {command}."
    )


def fallback_obstacle(fallback: Fallback) -> str:
    """Why only a part of a dataset can't be deleted; follows 'can't be deleted now: '."""
    command = code(f"/finetune fallback {fallback.dataset} to=nothing")
    return (
        f"{promotable_text(fallback.what)}, which answers when what is in use can't, was measured with it. Choose "
        f"something newer first, or end that: {command}."
    )


def open_answers_obstacle(answered: int) -> str:
    """Why only a part of a dataset can't be deleted; follows 'can't be deleted now: '."""
    rows = pluralize(answered, "row")
    return (
        f"people have labelled {rows} in an open batch, and these labels would be lost. Press *Make the new version* "
        "or *Discard* on its card first."
    )


def batch_deleted_card(dataset: str) -> Message:
    return text_message(
        f"The rows of {code(dataset)} that were waiting for labels were deleted with their version."
    )


def row_deletion_question(scope: DeletionScope, newest: int, rows: int, held: int) -> str:
    """A question in the terminal. The next version is version `newest` without the rows."""
    text = (
        f"Permanently delete {pluralize(rows, 'row')} of {scope.dataset}, including rows with the same question? "
        f"Version {newest} without them becomes the next version. Everything older is deleted: {scope.with_it}, with "
        "files, answers and tuned models."
    )
    for used in scope.in_use:
        text += f" {used} is in use and is deleted too: programs that call it will get an error."
    if held:
        text += f" {_held_text(held)}"
    return " ".join((text, *_further_sentences(scope, "finetune forget")))


def unanswered_notice(name: str) -> Message:
    """For a person whose question was deleted with what should have answered it. `name` is what they asked."""
    return text_message(f"Your question to {code(name)} gets no answer: it was deleted with its dataset.")


def rows_deleted_notice(before: int, rows: int, held: int) -> Message:
    were_deleted = f"{rows:,} rows of version {before} were deleted"
    if rows == 1:
        were_deleted = f"1 row of version {before} was deleted"
    text = f"{were_deleted} in the terminal. This version has the other rows, with new line numbers."
    if held:
        return text_message(f"{text} {_held_text(held)}")
    return text_message(f"{text} The held-out rows are the same.")


def _held_text(held: int) -> str:
    are_among = f"{held:,} held-out rows are among them"
    if held == 1:
        are_among = "1 held-out row is among them"
    return f"{are_among}, so earlier results can't be compared with new ones."


def deletion_metadata(command: Delete, channel: str) -> str:
    """The form's private metadata."""
    # Neither an id nor a dataset's name has spaces, so the parts can be told apart again.
    return f"{channel} {command.dataset} {command.before or ''}".strip()


def deleted_card(scope: DeletionScope, by: str, left: Sequence[str], nights: int) -> Message:
    text = (
        f"{code(scope.title)} was deleted, as {by} asked: {scope.with_it}. Messages posted in Slack and copies of "
        "backups stay until somebody deletes them."
    )
    # A deletion doesn't touch the backups, which are files of their own.
    if nights:
        text += f" Older nightly backups contain it for up to {pluralize(nights, 'night')} more."
    if left:
        items = [f"• {escape(item)}" for item in left]
        text = "\n".join([text, "Not deleted:", *items])
    return text_message(text)


def not_deleted_card(dataset: str, why: str) -> Message:
    return text_message(f"{code(dataset)} was not deleted: {why}")
