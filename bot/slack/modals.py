"""Submitted forms: each is checked at once, and recorded before it closes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from slack_bolt import Ack, App

from bot.cards import home
from bot.cards.common import permissions as permission_cards
from bot.cards.datasets import data_policy as waiver_cards
from bot.cards.datasets import dataset_columns as column_cards
from bot.cards.datasets import dataset_deletion as dataset_deletion_cards
from bot.cards.datasets import datasets as dataset_cards
from bot.cards.datasets import documents as document_cards
from bot.cards.datasets import row_labels as row_label_cards
from bot.cards.decisions import estimate_form
from bot.cards.decisions import plans as plan_cards
from bot.cards.evidence import distillations as distillation_cards
from bot.cards.evidence import evaluations as evaluation_cards
from bot.cards.models import tried_answers as answer_cards
from bot.cards.training import interventions as intervention_cards
from bot.command_options import ASKED_KINDS, normalize_name, read_count
from bot.command_parser import parse_form, strip_quotes
from bot.context import AppContext
from bot.health import metrics
from bot.rules.units import Misread, Volume, parse_request_volume
from bot.services import dataset_deletion
from bot.services.common import authorization
from bot.services.datasets import data_policy, dataset_columns, datasets, documents, row_labels
from bot.services.datasets.datasets import Upload
from bot.services.datasets.documents import DocumentUpload
from bot.services.datasets.row_labels import RowsToLabel
from bot.services.decisions import approvals, estimate_requests
from bot.services.measurement import distillations, evaluations
from bot.services.measurement.distillations import RowsToTeach
from bot.services.models import models, tried_answers
from bot.services.training import interventions
from bot.slack import commands
from bot.slack.homes import Homes
from bot.values.requests import Baseline, Delete, Estimate
from bot.values.runs import Refusal

Errors = dict[str, str]


@dataclass(frozen=True)
class Answers:
    """A submitted form. `metadata` was set when it was opened. `values` are the entries by block: a text, the value of
    an option, or the id of a conversation; None if empty."""

    context: AppContext
    person: str
    metadata: str
    values: Mapping[str, str | None]
    blocks: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @property
    def words(self) -> list[str]:
        return self.metadata.split()

    @property
    def number(self) -> int:
        return int(self.words[0])

    @property
    def file(self) -> Mapping[str, Any]:
        files = self.blocks.get("file", {}).get("value", {}).get("files") or [{}]
        file: Mapping[str, Any] = files[0]
        return file

    def text(self, block: str) -> str:
        return self.values.get(block) or ""

    def several(self, block: str) -> tuple[str, ...]:
        """Returns the chosen options, or the typed text, split at commas."""
        element = next(iter(self.blocks.get(block, {}).values()), {})
        chosen = [str(option["value"]) for option in element.get("selected_options") or []]
        typed = [word.strip() for word in str(element.get("value") or "").split(",")]
        return tuple(chosen or [word for word in typed if word])


def read_answers(context: AppContext, body: Mapping[str, Any]) -> Answers:
    blocks: Mapping[str, Mapping[str, Mapping[str, Any]]] = body["view"]["state"]["values"]
    values: dict[str, str | None] = {}
    for name, block in blocks.items():
        element = next(iter(block.values()))
        option = element.get("selected_option") or {}
        value = element.get("value") or option.get("value") or element.get("selected_conversation")
        values[name] = str(value) if value else None
    metadata = str(body["view"]["private_metadata"])
    return Answers(context, str(body["user"]["id"]), metadata, values, blocks)


def register(app: App, context: AppContext, homes: Homes, wake: Callable[[], None]) -> None:
    def listen_to(form: str, record: Callable[[Answers], Errors]) -> None:
        @app.view(form)
        def listen(ack: Ack, body: dict[str, Any]) -> None:
            answers = read_answers(context, body)
            with metrics.counting_failures(metrics.FORMS, form):
                errors = _channel_errors(form, answers) or record(answers)
            metrics.FORMS.labels(form, metrics.REFUSED if errors else metrics.ANSWERED).inc()
            if errors:
                ack(response_action="errors", errors=errors)
                return
            ack()
            if form == estimate_form.ESTIMATE:
                # takes longer than Slack waits for an ack, so it is done after the form has closed
                request = _estimate_request(answers)
                if isinstance(request, Estimate):
                    estimate_requests.answer(answers.context, request, answers.person, answers.words[0])
            wake()
            if home.FORM in answers.words:
                homes.draw(answers.person)

    for form, record in FORMS.items():
        listen_to(form, record)


def _receive(answers: Answers) -> Errors:
    channel, known_file, known_name = (*answers.metadata.split(" ", 2), "", "")[:3]
    # a file from a channel's message belongs to that channel, as rules about data depend on the channel
    is_asked = not known_file or channel.startswith("D")
    upload = Upload(
        name=answers.text("name"),
        channel=(is_asked and answers.values.get("channel")) or channel,
        here=channel,
        person=answers.person,
        file_id=known_file or str(answers.file.get("id", "")),
        filename=known_name or str(answers.file.get("name") or "upload"),
        text_column=answers.values.get("text"),
        label_column=answers.values.get("label"),
        sheet=answers.values.get("sheet"),
        sealed=answers.values.get("sealed"),
    )
    return _errors_by_field(datasets.receive(answers.context, upload), "name")


def _choose_columns(answers: Answers) -> Errors:
    chosen = column_cards.chosen_columns(answers.values)
    result = dataset_columns.choose_columns(answers.context, answers.number, chosen, answers.person)
    fields = (name for name in ("label", "text", "sheet") if answers.values.get(name))
    return _errors(result, next(fields, "text"))


def _estimate(answers: Answers) -> Errors:
    request = _estimate_request(answers)
    if isinstance(request, Refusal):
        return {estimate_form.refused_field(request): request.text}
    refusal = estimate_requests.may_ask(answers.context, request, answers.person, answers.words[0])
    return {estimate_form.refused_field(refusal): refusal.text} if refusal else {}


def _estimate_request(answers: Answers) -> Estimate | Refusal:
    """Builds the request. Options without a field in the form keep their values from the estimate that it changes."""
    others: dict[str, str] = {}
    number = next((word for word in answers.words[1:] if word.isdigit()), None)
    if number is not None:
        before = estimate_requests.load_asked_estimate(answers.context, int(number), answers.person)
        if isinstance(before, Refusal):
            return before
        others = {name: value for name, value in before.typed.items() if name not in estimate_form.FIELDS}
    fields = {**others, **answers.values}
    volume = parse_request_volume(answers.text("volume"))
    if isinstance(volume, Volume):
        fields["volume"] = volume.word
    values = parse_form(commands.estimate, fields)
    return values if isinstance(values, Refusal) else commands.estimate_request(values)


def _measure(answers: Answers) -> Errors:
    several = {field: ",".join(answers.several(field)) for field in ("candidates", "models")}
    if several["candidates"] == ",".join(ASKED_KINDS):
        several["candidates"] = ""  # all candidates that fit, including an optimised prompt
    values = parse_form(commands.measure_baseline, {**answers.values, **several})
    if isinstance(values, Refusal):
        return {values.about or "dataset": values.text}
    result = evaluations.ask(answers.context, Baseline(**values), answers.person, answers.words[0])
    about = result.about if isinstance(result, Refusal) else None
    return _errors(result, about if about in evaluation_cards.ANSWERED_BELOW else "dataset")


def _add_knowledge(answers: Answers) -> Errors:
    channel, dataset = answers.words[:2]
    file, name = str(answers.file.get("id", "")), str(answers.file.get("name") or "document")
    upload = DocumentUpload(dataset, channel, answers.person, file, name)
    return _errors(documents.receive(answers.context, upload), "file")


def _label(answers: Answers) -> Errors:
    channel, dataset = answers.words[:2]
    count = read_count(answers.text("count").strip())
    if isinstance(count, Misread):
        return {"count": count.sentence}
    file, name = answers.file.get("id"), answers.file.get("name")
    wanted = RowsToLabel(dataset, channel, answers.person, count, file, name)
    return _errors_by_field(row_labels.begin(answers.context, wanted), "count")


def _approve(answers: Answers) -> Errors:
    plan, reason = answers.words[0], answers.text("reason")
    return _errors(approvals.approve(answers.context, plan, answers.person, reason), "reason")


def _reject(answers: Answers) -> Errors:
    plan, reason = answers.words[0], answers.text("reason")
    return _errors(approvals.reject(answers.context, plan, answers.person, reason), "reason")


def _waive(answers: Answers) -> Errors:
    dataset, reason = answers.number, answers.text("reason")
    return _errors(data_policy.record_waiver(answers.context, dataset, answers.person, reason), "reason")


def _try(answers: Answers) -> Errors:
    channel, model = answers.words[:2]
    return _errors(models.ask(answers.context, model, answers.text("text"), answers.person, channel), "text")


def _distil(answers: Answers) -> Errors:
    channel, dataset, teacher = answers.words[:3]
    file, name = str(answers.file.get("id", "")), str(answers.file.get("name") or "rows")
    accepts = bool(answers.several("terms"))
    wanted = RowsToTeach(dataset, teacher, channel, answers.person, file, name, accepts)
    return _errors_by_field(distillations.receive(answers.context, wanted), "file")


def _better(answers: Answers) -> Errors:
    tried, text = answers.number, answers.text("text")
    return _errors(tried_answers.correct(answers.context, tried, answers.person, text), "text")


def _delete(answers: Answers) -> Errors:
    channel, dataset, *before = answers.words
    if normalize_name(strip_quotes(answers.text("name").strip())) != dataset:
        return {"name": f"Type {dataset} to delete it, or close this form."}
    command = Delete(dataset, date.fromisoformat(before[0]) if before else None)
    return _errors(dataset_deletion.ask(answers.context, command, answers.person, channel), "name")


def _decide(answers: Answers) -> Errors:
    choice, number = intervention_cards.parse_metadata(answers.metadata)
    reason, job = answers.text("reason"), answers.values.get("job")
    result = interventions.decide(answers.context, number, choice, answers.person, reason, job)
    return _errors_by_field(result, "reason")


# Each function records what a form asks for, or returns errors, which Slack shows below their fields.
FORMS: Mapping[str, Callable[[Answers], Errors]] = {
    dataset_cards.UPLOAD: _receive,
    estimate_form.ESTIMATE: _estimate,
    evaluation_cards.FORM: _measure,
    column_cards.CHOOSE_COLUMNS: _choose_columns,
    document_cards.DOCUMENT_FORM: _add_knowledge,
    plan_cards.APPROVE_FORM: _approve,
    plan_cards.REJECT_FORM: _reject,
    waiver_cards.WAIVER_FORM: _waive,
    dataset_deletion_cards.DELETION_FORM: _delete,
    intervention_cards.FORM: _decide,
    answer_cards.TRY_FORM: _try,
    row_label_cards.FORM: _label,
    distillation_cards.FORM: _distil,
    answer_cards.BETTER_FORM: _better,
}


FORMS_OF_A_CHANNEL = frozenset(
    {
        dataset_cards.UPLOAD,
        estimate_form.ESTIMATE,
        evaluation_cards.FORM,
        document_cards.DOCUMENT_FORM,
        dataset_deletion_cards.DELETION_FORM,
        answer_cards.TRY_FORM,
        row_label_cards.FORM,
        distillation_cards.FORM,
    }
)
"""Forms whose metadata begin with the channel that they were opened in."""


def _channel_errors(form: str, answers: Answers) -> Errors:
    """Refuses a form of a private channel that its person has left since it was opened. A form stays open for as long
    as somebody likes, so that the channel in it is no proof that they are still a member."""
    if form not in FORMS_OF_A_CHANNEL or not answers.words:  # the App Home and the shortcut have no channel
        return {}
    channel = answers.words[0]
    if answers.values.get("channel") not in (None, channel):
        return {}  # it is for another channel, whose members are looked up when it is received
    if authorization.may_act_in(answers.context, channel, answers.person):
        return {}
    return {next(iter(answers.blocks)): permission_cards.NOT_IN_CHANNEL}


def _errors(result: object, field: str) -> Errors:
    return {field: result.text} if isinstance(result, Refusal) else {}


def _errors_by_field(result: object, otherwise: str) -> Errors:
    """Returns the refusal below the field that it is about, or below `otherwise`."""
    return _errors(result, (isinstance(result, Refusal) and result.about) or otherwise)
