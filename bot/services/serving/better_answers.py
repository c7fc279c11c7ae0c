"""What becomes of the verdicts on a model's answers: the pairs train the model that was judged, and the better answers
that people wrote become training rows of its dataset.

The rows are a batch of labels that needs nobody's answer any more (services/datasets/row_labels.py): a tick writes them
into the next version, which is checked like an upload. None of them is held out, since they were chosen for being hard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

from bot.cards.datasets import row_labels as batch_views
from bot.cards.models import tried_answers as views
from bot.context import AppContext
from bot.rules.estimate_inputs import Question
from bot.services.common import authorization
from bot.services.datasets import datasets, row_labels, trained_rows
from bot.services.datasets.datasets import CheckedDataset
from bot.services.datasets.pairs import dataset_behind
from bot.services.datasets.row_labels_worker import key_of_text
from bot.services.decisions import plans, team_questions
from bot.values.requests import Start
from bot.values.runs import Refusal
from storage.questions import TriedAnswer
from storage.records import LabellingRow, RowLabel, Run
from storage.row_labels import NewLabelling
from trainers.dataset import Report

GONE = Refusal("There is no such dataset any more.")


def train_further(context: AppContext, value: str, person: str) -> Run | Refusal:
    """Handles the button on the card of a dataset of pairs: plans a training by these pairs that goes on from the model
    that was judged. `value` is the dataset and the model. Today's model and the volume are those of the dataset behind
    the pairs."""
    name, _, model = value.partition(" ")
    pairs = context.store.datasets.newest(name)
    if pairs is None:
        return GONE
    refusal = authorization.button_refusal(context, name, person, GONE)
    if refusal:
        return refusal
    behind = dataset_behind(context, pairs)
    asked_about = name
    if behind is not None:
        asked_about = behind.name
    request = Start(asked_about, Question(target=model, method="dpo"))
    request = team_questions.continue_from_team(context, request)
    request = replace(request, dataset=name)
    return plans.start(context, request, person, pairs.channel)


@dataclass(frozen=True)
class _BetterRows:
    """The better answers that can become rows, and the numbers of those that can't: their questions are held out, or
    training rows ask them already, or the answer is not of the dataset's kind."""

    usable: tuple[TriedAnswer, ...]
    held: int = 0
    repeated: int = 0
    unfit: int = 0


def add_to_dataset(context: AppContext, dataset_id: int, person: str) -> str | Refusal:
    """Handles the button that adds the better answers to the rows of a dataset. Returns the text for the person who
    pressed it; the batch's card shows what becomes of them."""
    name = context.store.datasets.get(dataset_id).name
    refusal = authorization.button_refusal(context, name, person, GONE)
    if refusal:
        return refusal
    owner = context.store.datasets.owners()[name]
    checked = datasets.load_usable(context, name, person, owner)
    if isinstance(checked, Refusal):
        return checked
    refusal = authorization.refusal(context, person, "upload", owner)
    if refusal:
        return refusal
    if checked.report.pairs:
        return Refusal(views.not_for_pairs(name))
    better = _sort_out(context, checked)
    left_out = views.left_out_text(name, better.held, better.repeated, better.unfit, checked.report)
    if not better.usable:
        return Refusal(f"{views.no_better_answers(name)} {left_out}".strip())
    return _begin(context, checked, better, person, left_out)


def _begin(
    context: AppContext, checked: CheckedDataset, better: _BetterRows, person: str, left_out: str
) -> str | Refusal:
    """Records the batch with its answers, already ended by the person who pressed the button."""
    dataset = checked.dataset
    now = context.clock()
    row_numbers: dict[str, int] = {}  # a question may have better answers by several people
    for tried in better.usable:
        key = key_of_text(tried.question).hex()
        row_numbers.setdefault(key, len(row_numbers))
    new = NewLabelling(dataset.name, dataset.id, dataset.owner, person, len(row_numbers))
    numbers = ", ".join(str(tried.id) for tried in better.usable)
    with context.store.transaction():
        batch = context.store.labellings.add(new, now=now)
        if batch is None:
            return Refusal(batch_views.under_way(dataset))
        rows = {}
        for tried in better.usable:
            key = key_of_text(tried.question).hex()
            label = str(tried.better).strip()
            rows[key] = LabellingRow(batch.id, row_numbers[key], key, tried.question, None, label)
        context.store.labellings.add_rows(rows.values())
        for tried in better.usable:
            key = key_of_text(tried.question).hex()
            answer = str(tried.better).strip()
            label_of_row = RowLabel(batch.id, row_numbers[key], tried.person, answer, now)
            context.store.labellings.answer(label_of_row)
        changes = {"closed_by": person, "next_at": now, "tries": 0}
        closing = context.store.labellings.move(batch, "closing", now=now, **changes)
        if closing is None:
            raise RuntimeError(f"moving batch {batch.id}, which this transaction has added")
        context.audit(person, "add better answers", f"dataset {dataset.id}", f"answers {numbers}")
        row_labels.show(context, closing, batch_views.closing_card(closing))
    added = views.better_answers_added(dataset.name, len(row_numbers))
    return f"{added} {left_out}".strip()


def _sort_out(context: AppContext, checked: CheckedDataset) -> _BetterRows:
    report = checked.report
    held_keys = trained_rows.keys_set_aside(context, report)
    train_path = context.settings.files / f"{report.train_sha256}.jsonl"
    trained_keys = trained_rows.question_keys_in(train_path)
    usable = []
    held = 0
    repeated = 0
    unfit = 0
    for tried in context.store.tried_answers.judged(checked.dataset.name):
        if not tried.better:
            continue
        key = key_of_text(tried.question)
        if key in held_keys:
            held += 1
        elif key in trained_keys:
            repeated += 1
        elif not _fits(tried.better, report):
            unfit += 1
        else:
            usable.append(tried)
    return _BetterRows(tuple(usable), held, repeated, unfit)


def _fits(answer: str, report: Report) -> bool:
    """True if the answer is of the kind that the dataset's answers are."""
    if report.labels:
        labels = {count.label for count in report.labels}
        return answer.strip() in labels
    if report.scoring != "json":
        return True
    try:
        value = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict)
