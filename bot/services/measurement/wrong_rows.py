"""Shows rows that a run's model, or a candidate of a measurement, answered wrongly: held-out rows, which count as
read from then on, or instead training rows, which a free model answered without having learnt from them.

Rows hold customers' words, so they go where a dataset's rows may be shown, which is asked again when they are sent.
That somebody was shown held-out rows is stored in the transaction that sends them, so that no claim forgets it
(services/evidence/read_rows.py, looks.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from bot import logs
from bot.cards.common.blocks import Block, Message
from bot.cards.common.candidates import table_name
from bot.cards.common.general import text_message
from bot.cards.common.words import OPERATOR
from bot.cards.evidence import wrong_rows as views
from bot.cards.evidence.wrong_rows import DifferentSide, WrongAnswers, WrongRowsOffer
from bot.cards.training.runs import no_such_run
from bot.command_options import Subject, read_subject
from bot.context import AppContext
from bot.rules.data_policy import RowDelivery
from bot.rules.plans import plan_from_json
from bot.rules.units import Misread
from bot.services.common import authorization
from bot.services.common.finished_measurements import read_evaluation
from bot.services.datasets import datasets, sealed_rows
from bot.services.datasets.dataset_worker import SEED, examples
from bot.services.evidence import evidence, notifications
from bot.services.evidence.evaluation_worker import read_keys
from bot.services.evidence.measured_candidates import folder_of
from bot.services.evidence.scored_rows import load_scored_rows
from bot.services.measurement import measurements
from bot.values.runs import Refusal
from bot.worker_pool import WorkerStopped
from storage.records import COMPARISON, Dataset, Draft, Measurement
from storage.shown_rows import RowRequest, ShownRows
from trainers.dataset.rows import at
from trainers.errors import FileChanged
from trainers.evaluation.results import MeasuredCandidate, Scoring
from trainers.evaluation.wrong_rows import (
    LEARNABLE,
    WrongRow,
    WrongRows,
    find_wrong_training_rows,
    wrong_indices,
)

ROWS_AT_ONCE = 8
NO_SUCH_CANDIDATE = "This candidate no longer belongs to the measurement."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Answered:
    """A result with the candidates that answered its held-out rows. `card` is the card under which rows are shown, and
    `names` are the candidates' names, in their order."""

    subject: Subject
    dataset: Dataset
    channel: str
    card: str
    holdout: str
    train: str
    candidates: tuple[MeasuredCandidate, ...]
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def audited(self) -> str:
        if self.subject.is_measurement:
            return f"measurement {self.subject.number}"
        return f"run {self.subject.number}"

    @property
    def scoring(self) -> Scoring:
        return self.candidates[0].scoring

    def wrong_answers(self, position: int) -> WrongAnswers:
        measured = self.candidates[position]
        wrong = wrong_indices(measured.scores)
        return WrongAnswers(position, self.names[position], len(wrong), measured.n)


@dataclass(frozen=True)
class _Page:
    """A card with held-out rows, and their positions in the holdout's file."""

    card: Message
    positions: tuple[int, ...]


def offer(context: AppContext, subject: Subject, person: str, here: str | None) -> WrongRowsOffer | Refusal:
    """Returns what can be shown of a result. A refusal where no row may be shown has the counts."""
    answered = _visible(context, subject, person, here)
    if isinstance(answered, Refusal):
        return answered
    delivery = _delivery(context, answered, person)
    if isinstance(delivery, Refusal):
        return delivery
    return _offer_of(context, answered)


def show_held_out(context: AppContext, value: str, person: str) -> str | Refusal:
    """Handles the button: sends a page of held-out rows, and records that they were read. `value` is the result, the
    candidate's position, and that of the page's first row."""
    word, candidate_position, first = value.split(" ")
    answered = _answered_of_button(context, word, person)
    if isinstance(answered, Refusal):
        return answered
    delivery = _delivery_of_held_out(context, answered, person)
    if isinstance(delivery, Refusal):
        return delivery
    candidate = int(candidate_position)
    page = _held_out_page(context, answered, candidate, int(first))
    if isinstance(page, Refusal):
        return page
    return _send_held_out(context, answered, page, person, delivery, answered.names[candidate])


def show_different(context: AppContext, value: str, person: str) -> str | Refusal:
    """Handles the button of a comparison: sends a page of the held-out rows that two results answered differently, and
    records that they were read. `value` is both results, each with its candidate's position, and that of the page's
    first row."""
    word, mine, other_word, theirs, first = value.split(" ")
    answered = _answered_of_button(context, word, person)
    if isinstance(answered, Refusal):
        return answered
    other = _answered_of_button(context, other_word, person)
    if isinstance(other, Refusal):
        return other
    delivery = _delivery_of_held_out(context, answered, person)
    if isinstance(delivery, Refusal):
        return delivery
    page = _different_page(context, answered, other, (int(mine), int(theirs)), int(first))
    if isinstance(page, Refusal):
        return page
    return _send_held_out(context, answered, page, person, delivery, f"beside {other.name}")


def offer_to_operator(context: AppContext, subject: Subject) -> WrongRowsOffer | Refusal:
    """For the terminal: anybody who has the machine can read the files of rows, too."""
    answered = _load(context, subject)
    if isinstance(answered, Refusal):
        return answered
    return _offer_of(context, answered)


def training_for_operator(
    context: AppContext, subject: Subject, first: int, command: str
) -> Message | Refusal:
    """Returns a page of training rows for the terminal, where `command` shows it. That may take minutes."""
    answered = _load(context, subject)
    if isinstance(answered, Refusal):
        return answered
    why_not = _why_not_training(context, answered)
    if why_not:
        return Refusal(f"Training rows can't be shown: {why_not}")
    try:
        page = find_in_file(context.settings.files, answered.train, answered.scoring, first)
    except FileChanged as changed:
        return Refusal(str(changed))
    return views.training_card(answered.name, page, command)


def held_out_for_operator(
    context: AppContext, subject: Subject, candidate: int, first: int, command: str
) -> Message | Refusal:
    """Returns a page of held-out rows for the terminal, where `command` shows it, and records that they were read."""
    answered = _load(context, subject)
    if isinstance(answered, Refusal):
        return answered
    page = _held_out_page(context, answered, candidate, first, command)
    if isinstance(page, Refusal):
        return page
    with context.store.transaction():
        _record_read(context, answered, page, OPERATOR, answered.names[candidate])
    return page.card


def _delivery_of_held_out(context: AppContext, answered: _Answered, person: str) -> RowDelivery | Refusal:
    """Returns where held-out rows are shown. Reading them takes the right to measure, besides the right to see rows."""
    refusal = authorization.refusal(context, person, "measure", answered.channel)
    return refusal or _delivery(context, answered, person)


def _send_held_out(
    context: AppContext, answered: _Answered, page: _Page, person: str, delivery: RowDelivery, what: str
) -> str:
    """Sends a page and records that it was read. Returns the text for the person. `what` is for the audit log."""
    with context.store.transaction():
        _record_read(context, answered, page, person, what)
        context.send(_draft(answered, page.card.letter(), person, delivery))
    return views.coming_text("The rows are", delivery)


def _record_read(context: AppContext, answered: _Answered, page: _Page, person: str, what: str) -> None:
    shown = ShownRows(
        answered.dataset.id, answered.holdout, answered.name, person, page.positions, context.clock()
    )
    detail = f"{len(page.positions)} held-out rows of {answered.dataset.name}, {what}"
    context.store.shown_rows.add(shown)
    context.audit(person, "read wrong rows", answered.audited, detail)


def ask_training(context: AppContext, value: str, person: str) -> str | Refusal:
    """Handles the button: records a request for a page of training rows, which a worker finds. `value` is the result
    and the position of the page's first row."""
    word, first = value.split(" ")
    answered = _answered_of_button(context, word, person)
    if isinstance(answered, Refusal):
        return answered
    delivery = _delivery(context, answered, person)
    if isinstance(delivery, Refusal):
        return delivery
    why_not = _why_not_training(context, answered)
    if why_not:
        return Refusal(why_not)
    with context.store.transaction():
        request = context.store.row_requests.ask(
            answered.dataset.id, word, person, int(first), now=context.clock()
        )
        if request is None:
            return Refusal("Training rows of this dataset are already being looked for, for you.")
        context.audit(person, "read training rows", answered.audited)
    return views.coming_text("They will be", delivery)


def step(context: AppContext, request: RowRequest) -> None:
    """Has a worker find the rows, then sends them or tells the person why not."""
    answered = _answered_of_button(context, request.subject, request.person)
    if isinstance(answered, Refusal):
        _give_up(context, request, answered.text)
        return
    # Looked up at each tick: the person may have left the channel while the rows were looked for.
    delivery = _delivery(context, answered, request.person)
    if isinstance(delivery, Refusal):
        _give_up(context, request, delivery.text)
        return
    try:
        page = context.workers.poll(
            f"wrong rows {request.id}",
            find_in_file,
            context.settings.files,
            answered.train,
            answered.scoring,
            request.first,
        )
    except (WorkerStopped, FileChanged) as stopped:
        _give_up(context, request, f"Looking for wrong training rows {stopped}.")
        return
    except Exception as error:
        # Whatever the search raises in its process is raised here. Without an answer, the request would wait forever.
        log.exception("looking for wrong rows %s", request.id)
        _give_up(context, request, f"That stopped with {type(error).__name__}. {logs.sorry()}")
        return
    if page is None:
        return
    message = views.training_card(answered.name, page)
    with context.store.transaction():
        if context.store.row_requests.finish(request):
            context.send(_draft(answered, message.letter(), request.person, delivery))


def find_in_file(files: Path, train: str, scoring: Scoring, first: int) -> WrongRows:
    """Runs in a worker."""
    return find_wrong_training_rows(examples(files, train), scoring, SEED, first, ROWS_AT_ONCE)


def _give_up(context: AppContext, request: RowRequest, why: str) -> None:
    dataset = context.store.datasets.get(request.dataset_id)
    body = text_message(why).body()
    with context.store.transaction():
        if context.store.row_requests.finish(request):
            context.send(Draft("direct", dataset.channel, body, person=request.person, topic="answers"))


def _draft(answered: _Answered, body: Block, person: str, delivery: RowDelivery) -> Draft:
    if delivery == "thread":
        return Draft(
            "post",
            answered.channel,
            body,
            thread=answered.card,
            private=True,
            concerns=person,
            topic="answers",
        )
    return Draft("direct", answered.channel, body, person=person, private=True, topic="answers")


def _delivery(context: AppContext, answered: _Answered, person: str) -> RowDelivery | Refusal:
    delivery = authorization.row_delivery(context, answered.dataset, person)
    if delivery == "thread" and not authorization.may_show_rows(context, answered.dataset, answered.channel):
        delivery = "others read here"  # the result was posted in another channel than the dataset's
    if delivery == "thread" or delivery == "direct":
        return delivery
    offered = _offer_of(context, answered)
    return Refusal(views.not_shown_text(offered, delivery, answered.dataset.uploaded_by))


def _offer_of(context: AppContext, answered: _Answered) -> WrongRowsOffer:
    return WrongRowsOffer(
        subject=answered.name,
        dataset=answered.dataset.name,
        candidates=tuple(answered.wrong_answers(position) for position in range(len(answered.candidates))),
        why_not_training=_why_not_training(context, answered),
    )


def _why_not_training(context: AppContext, answered: _Answered) -> str:
    if answered.scoring not in LEARNABLE:
        return "no free model can answer them, as these answers are neither labels nor JSON objects."
    path = context.settings.files / f"{answered.train}.jsonl"
    if not path.is_file():
        return "their file was deleted."
    return ""


def _answered_of_button(context: AppContext, word: str, person: str) -> _Answered | Refusal:
    """Asks Slack whether the person may know of the result, since a button may be pressed elsewhere."""
    subject = read_subject(word.replace("-", " "))
    if isinstance(subject, Misread):
        return Refusal(subject.sentence)
    answered = _load(context, subject)
    if isinstance(answered, Refusal):
        return answered
    refusal = authorization.dataset_button_refusal(context, "read", answered.dataset, person)
    return refusal or answered


def _visible(context: AppContext, subject: Subject, person: str, here: str | None) -> _Answered | Refusal:
    if not authorization.may_know_result(context, subject, person, here):
        return missing_refusal(subject)
    return _load(context, subject)


def missing_refusal(subject: Subject) -> Refusal:
    """Refuses a result that doesn't exist, or that the person may not know about."""
    if subject.is_measurement:
        return measurements.state_refusal(subject.number, None)
    return Refusal(no_such_run(subject.number))


def _load(context: AppContext, subject: Subject) -> _Answered | Refusal:
    if subject.is_measurement:
        return _load_measurement(context, subject)
    return _load_run(context, subject)


def _load_run(context: AppContext, subject: Subject) -> _Answered | Refusal:
    run = context.store.runs.get(subject.number)
    if run is None:
        return missing_refusal(subject)
    measured = evidence.tuned_candidate(context.store, run)
    if measured is None:
        return Refusal(f"Run {run.id} has no answers to held-out rows, so there are no wrong rows to show.")
    plan = plan_from_json(run.plan)
    dataset = context.store.datasets.get(run.dataset_id)
    return _Answered(
        subject=subject,
        dataset=dataset,
        channel=run.channel,
        card=notifications.posted_result_card_of(context, run),
        holdout=plan.holdout_sha256,
        train=_training_part(dataset),
        candidates=(measured,),
        names=(run.model or plan.base_model,),
    )


def _load_measurement(context: AppContext, subject: Subject) -> _Answered | Refusal:
    measurement = context.store.measurements.get(subject.number)
    if measurement is None:
        return missing_refusal(subject)
    unreadable = measurements.unreadable_refusal(measurement)
    if unreadable:
        return unreadable
    if measurement.kind != COMPARISON or measurement.result is None:
        return Refusal(
            f"m{measurement.id} has no answers to held-out rows, so there are no wrong rows to show."
        )
    if sealed_rows.opens_sealed_rows(measurement):
        return Refusal(f"m{measurement.id} was measured on sealed rows, which are shown to nobody.")
    evaluation = read_evaluation(measurement)
    if evaluation is None or not evaluation.comparison.candidates:
        return Refusal(f"m{measurement.id} has no candidates with answers.")
    candidates = evaluation.comparison.candidates
    dataset = context.store.datasets.get(measurement.dataset_id)
    return _Answered(
        subject=subject,
        dataset=dataset,
        channel=measurement.channel,
        card=measurements.result_card_of(context, measurement),
        holdout=evaluation.plan.holdout_sha256,
        train=evaluation.plan.train_sha256,
        candidates=candidates,
        names=tuple(table_name(candidate.identity) for candidate in candidates),
    )


def _training_part(dataset: Dataset) -> str:
    """Returns the file of a version's training rows. A run by preferences learns from another file of the same."""
    report = datasets.report_of(dataset)
    if report is None:
        return ""
    return str(report.train_sha256)


def _held_out_page(
    context: AppContext, answered: _Answered, candidate: int, first: int, command: str | None = None
) -> _Page | Refusal:
    """Returns the candidate's wrong rows from position `first` on. `command` shows them in the terminal."""
    if candidate >= len(answered.candidates):
        return Refusal(NO_SUCH_CANDIDATE)
    measured = answered.candidates[candidate]
    positions = load_scored_rows(context.settings.files, answered.holdout).positions
    if len(positions) != measured.n:
        return Refusal("The held-out rows are no longer stored, so none can be shown.")
    wrong = wrong_indices(measured.scores)
    shown = at(wrong[first : first + ROWS_AT_ONCE], positions)
    if not shown:
        return Refusal("There are no more wrong rows.")
    try:
        rows = examples(context.settings.files, answered.holdout)
    except FileChanged as changed:
        return Refusal(str(changed))
    texts = _answers(context, answered, candidate, len(rows))
    wrong_rows = []
    for position in shown:
        row = rows[position]
        question = row.prompt[-1].content
        wrong_rows.append(WrongRow(question, row.answer, texts.get(position)))
    page = WrongRows(tuple(wrong_rows), first, len(wrong), measured.n)
    counted = answered.wrong_answers(candidate)
    card = views.held_out_card(answered.name, counted, page, command)
    return _Page(card, shown)


def _answers(context: AppContext, answered: _Answered, candidate: int, count: int) -> dict[int, str]:
    """Returns a candidate's stored answers by the position of their row. Those of a measurement are found by their
    keys, which are deleted some days after it."""
    if not answered.subject.is_measurement:
        rows = context.store.runs.answers(answered.subject.number, "tuned")
        return {row.row: row.text for row in rows}
    measurement: Measurement | None = context.store.measurements.get(answered.subject.number)
    if measurement is None:
        return {}
    keys_of = read_keys(folder_of(context, measurement)) or {}
    its = keys_of.get(answered.candidates[candidate].identity)
    if its is None or len(its.keys) != count:
        return {}
    replies = context.store.answers.read(its.keys)
    texts = {}
    for position, key in enumerate(its.keys):
        if key in replies:
            texts[position] = replies[key].text
    return texts


def _different_page(
    context: AppContext, answered: _Answered, other: _Answered, sides: tuple[int, int], first: int
) -> _Page | Refusal:
    """Returns the rows that the candidates at `sides` of two results answered differently, from position `first` on."""
    mine, theirs = sides
    if mine >= len(answered.candidates) or theirs >= len(other.candidates):
        return Refusal(NO_SUCH_CANDIDATE)
    # Where rows may be shown, and for which versions they count as read, was decided by the first dataset alone.
    if answered.dataset.name != other.dataset.name:
        return Refusal(
            f"{answered.name} and {other.name} are results of two datasets, so no rows are shown beside each other."
        )
    measured = answered.candidates[mine]
    other_measured = other.candidates[theirs]
    positions = load_scored_rows(context.settings.files, answered.holdout).positions
    are_same_rows = answered.holdout == other.holdout
    have_all_scores = measured.n == other_measured.n == len(positions)
    if not are_same_rows or not have_all_scores:
        return Refusal("These two answered different versions' rows, or their rows are no longer stored.")
    scores = zip(measured.scores, other_measured.scores, strict=True)
    different = [position for position, (score, its_score) in enumerate(scores) if score != its_score]
    shown = at(different[first : first + ROWS_AT_ONCE], positions)
    if not shown:
        return Refusal("There are no more rows that differ.")
    try:
        rows = examples(context.settings.files, answered.holdout)
    except FileChanged as changed:
        return Refusal(str(changed))
    texts = _answers(context, answered, mine, len(rows))
    other_texts = _answers(context, other, theirs, len(rows))
    different_rows = []
    for position in shown:
        row = rows[position]
        answers = (texts.get(position), other_texts.get(position))
        different_rows.append(views.DifferentRow(row.prompt[-1].content, row.answer, *answers))
    side = DifferentSide(answered.name, mine)
    other_side = DifferentSide(other.name, theirs)
    card = views.different_rows_card(side, other_side, different_rows, first, len(different))
    return _Page(card, shown)
