"""Submitted forms: each is checked at once, and recorded before it closes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

from slack_bolt import Ack, App

from bot.cards import home
from bot.cards.common import message_topics as topic_cards
from bot.cards.common import permissions as permission_cards
from bot.cards.datasets import data_policy as waiver_cards
from bot.cards.datasets import dataset_columns as column_cards
from bot.cards.datasets import dataset_deletion as dataset_deletion_cards
from bot.cards.datasets import datasets as dataset_cards
from bot.cards.datasets import documents as document_cards
from bot.cards.datasets import row_labels as row_label_cards
from bot.cards.decisions import estimate_form
from bot.cards.decisions import plans as plan_cards
from bot.cards.decisions import run_again as run_again_cards
from bot.cards.evidence import distillations as distillation_cards
from bot.cards.evidence import evaluations as evaluation_cards
from bot.cards.models import promotion_requests as promotion_request_cards
from bot.cards.models import tried_answers as answer_cards
from bot.cards.monitoring import watches as watch_cards
from bot.cards.training import interventions as intervention_cards
from bot.command_options import ASKED_KINDS, read_count
from bot.command_parser import parse_form, strip_quotes
from bot.context import AppContext
from bot.health import metrics
from bot.rules.units import Misread, Volume, parse_request_volume
from bot.services import dataset_deletion
from bot.services.common import authorization, message_topics
from bot.services.datasets import data_policy, dataset_columns, datasets, documents, row_labels
from bot.services.datasets.datasets import Upload
from bot.services.datasets.documents import DocumentUpload
from bot.services.datasets.row_labels import RowsToLabel
from bot.services.decisions import approvals, estimate_requests, plans, run_again
from bot.services.measurement import distillations, evaluations
from bot.services.measurement.distillations import RowsToTeach
from bot.services.models import promotion_requests
from bot.services.monitoring import watches
from bot.services.monitoring.watches import WatchRequest
from bot.services.serving import questions, tried_answers
from bot.services.training import interventions
from bot.slack import commands
from bot.slack.homes import Homes
from bot.values.requests import Baseline, Delete, Estimate, Start
from bot.values.runs import Refusal
from bot.values.upload_fields import normalize_name

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
    def channel(self) -> str:
        """The channel that the form was opened in, for FORMS_OF_A_CHANNEL."""
        return self.words[0]

    @property
    def dataset(self) -> str:
        """The dataset that the form is about, which its metadata name after the channel."""
        return self.words[1]

    @property
    def file_id(self) -> str:
        return str(self._file.get("id", ""))

    def filename(self, otherwise: str) -> str:
        """Returns the file's name, or `otherwise` if Slack gives none."""
        return str(self._file.get("name") or otherwise)

    @property
    def _file(self) -> Mapping[str, Any]:
        chosen = self.blocks.get("file", {}).get("value", {})
        files = chosen.get("files") or [{}]
        file: Mapping[str, Any] = files[0]
        return file

    def text(self, block: str) -> str:
        return self.values.get(block) or ""

    def several(self, block: str) -> tuple[str, ...]:
        """Returns the chosen options, or the typed text, split at commas."""
        element = next(iter(self.blocks.get(block, {}).values()), {})
        chosen = [str(option["value"]) for option in element.get("selected_options") or []]
        if chosen:
            return tuple(chosen)
        typed = str(element.get("value") or "")
        words = [word.strip() for word in typed.split(",")]
        return tuple(word for word in words if word)


def read_answers(context: AppContext, body: Mapping[str, Any]) -> Answers:
    blocks: Mapping[str, Mapping[str, Mapping[str, Any]]] = body["view"]["state"]["values"]
    values: dict[str, str | None] = {}
    for name, block in blocks.items():
        element = next(iter(block.values()))
        option = element.get("selected_option") or {}
        value = element.get("value") or option.get("value") or element.get("selected_conversation")
        values[name] = str(value) if value else None
    return Answers(
        context=context,
        person=str(body["user"]["id"]),
        metadata=str(body["view"]["private_metadata"]),
        values=values,
        blocks=blocks,
    )


def register(app: App, context: AppContext, homes: Homes, wake: Callable[[], None]) -> None:
    def listen_to(form: str, record: Callable[[Answers], Errors]) -> None:
        @app.view(form)
        def listen(ack: Ack, body: dict[str, Any]) -> None:
            answers = read_answers(context, body)
            with metrics.counting_failures(metrics.FORMS, form):
                errors = _channel_errors(form, answers) or record(answers)
            outcome = metrics.REFUSED if errors else metrics.ANSWERED
            metrics.FORMS.labels(form, outcome).inc()
            if errors:
                ack(response_action="errors", errors=errors)
                return
            ack()
            if form in AFTER_ACK:
                # It takes longer than Slack waits for an ack, so it is done after the form has closed.
                AFTER_ACK[form](answers)
            wake()
            if home.FORM in answers.words:
                homes.draw(answers.person)

    for form, record in FORMS.items():
        listen_to(form, record)


def _receive(answers: Answers) -> Errors:
    # The metadata are the channel and, if the form was opened on a message, its file's id and name.
    channel, _, file_of_message = answers.metadata.partition(" ")
    known_file, _, known_name = file_of_message.partition(" ")
    owner = channel
    # A file from a channel's message belongs to that channel, as rules about data depend on the channel.
    if not known_file or channel.startswith("D"):
        owner = answers.values.get("channel") or channel
    upload = Upload(
        name=answers.text("name"),
        channel=owner,
        here=channel,
        person=answers.person,
        file_id=known_file or answers.file_id,
        filename=known_name or answers.filename("upload"),
        text_column=answers.values.get("text"),
        label_column=answers.values.get("label"),
        sheet=answers.values.get("sheet"),
        sealed=answers.values.get("sealed"),
    )
    return _errors_by_field(datasets.receive(answers.context, upload), "name")


def _choose_columns(answers: Answers) -> Errors:
    chosen = column_cards.chosen_columns(answers.values)
    result = dataset_columns.choose_columns(answers.context, answers.number, chosen, answers.person)
    filled_in = [name for name in ("label", "text", "sheet") if answers.values.get(name)]
    field = filled_in[0] if filled_in else "text"
    return _errors(result, field)


def _estimate(answers: Answers) -> Errors:
    request = _estimate_request(answers)
    if isinstance(request, Refusal):
        return {estimate_form.refused_field(request): request.text}
    refusal = estimate_requests.may_ask(answers.context, request, answers.person, answers.channel)
    if refusal:
        return {estimate_form.refused_field(refusal): refusal.text}
    return {}


def _estimate_request(answers: Answers) -> Estimate | Refusal:
    """Builds the request. Options without a field in the form keep their values from the estimate that it changes."""
    fields: dict[str, str | None] = {}
    number = next((word for word in answers.words[1:] if word.isdigit()), None)
    if number is not None:
        before = estimate_requests.load_asked_estimate(answers.context, int(number), answers.person)
        if isinstance(before, Refusal):
            return before
        fields |= {name: value for name, value in before.typed.items() if name not in estimate_form.FIELDS}
    fields |= answers.values
    volume = parse_request_volume(answers.text("volume"))
    if isinstance(volume, Volume):
        fields["volume"] = volume.word
    values = parse_form(commands.estimate, fields)
    if isinstance(values, Refusal):
        return values
    return commands.estimate_request(values)


def _answer_estimate(answers: Answers) -> None:
    request = _estimate_request(answers)
    if isinstance(request, Estimate):
        estimate_requests.answer(answers.context, request, answers.person, answers.channel)


def _run_again(answers: Answers) -> Errors:
    request = _run_again_request(answers)
    if isinstance(request, Refusal):
        return {run_again_cards.refused_field(request.about): request.text}
    allowed = plans.may_start(answers.context, request, answers.person, answers.channel)
    if isinstance(allowed, Refusal):
        return {run_again_cards.refused_field(allowed.about): allowed.text}
    return {}


def _run_again_request(answers: Answers) -> Start | Refusal:
    number = int(answers.words[1])
    return run_again.read_form(answers.context, commands.start, number, answers.values)


def _start_again(answers: Answers) -> None:
    request = _run_again_request(answers)
    if isinstance(request, Start):
        run_again.start(answers.context, request, answers.person, answers.channel)


def _measure(answers: Answers) -> Errors:
    several = {field: ",".join(answers.several(field)) for field in ("candidates", "models")}
    if several["candidates"] == ",".join(ASKED_KINDS):
        several["candidates"] = ""  # all candidates that fit, including an optimised prompt
    values = parse_form(commands.measure_baseline, {**answers.values, **several})
    if isinstance(values, Refusal):
        return {values.about or "dataset": values.text}
    result = evaluations.ask(answers.context, Baseline(**values), answers.person, answers.channel)
    field = "dataset"
    if isinstance(result, Refusal) and result.about in evaluation_cards.ANSWERED_BELOW:
        field = result.about
    return _errors(result, field)


def _add_knowledge(answers: Answers) -> Errors:
    upload = DocumentUpload(
        dataset=answers.dataset,
        channel=answers.channel,
        person=answers.person,
        file_id=answers.file_id,
        filename=answers.filename("document"),
    )
    return _errors(documents.receive(answers.context, upload), "file")


def _label(answers: Answers) -> Errors:
    count = read_count(answers.text("count").strip())
    if isinstance(count, Misread):
        return {"count": count.sentence}
    wanted = RowsToLabel(answers.dataset, answers.channel, answers.person, count)
    if answers.file_id:
        wanted = replace(wanted, file_id=answers.file_id, filename=answers.filename("rows"))
    return _errors_by_field(row_labels.begin(answers.context, wanted), "count")


def _approve(answers: Answers) -> Errors:
    plan = answers.words[0]
    result = approvals.approve(answers.context, plan, answers.person, answers.text("reason"))
    return _errors(result, "reason")


def _reject(answers: Answers) -> Errors:
    plan = answers.words[0]
    result = approvals.reject(answers.context, plan, answers.person, answers.text("reason"))
    return _errors(result, "reason")


def _decline(answers: Answers) -> Errors:
    reason = answers.text("reason")
    result = promotion_requests.decline(answers.context, answers.number, answers.person, reason)
    return _errors(result, "reason")


def _waive(answers: Answers) -> Errors:
    reason = answers.text("reason")
    result = data_policy.record_waiver(answers.context, answers.number, answers.person, reason)
    return _errors(result, "reason")


def _try(answers: Answers) -> Errors:
    model = answers.words[1]
    text = answers.text("text")
    return _errors(questions.ask(answers.context, model, text, answers.person, answers.channel), "text")


def _distil(answers: Answers) -> Errors:
    wanted = RowsToTeach(
        dataset=answers.dataset,
        teacher=answers.words[2],
        channel=answers.channel,
        person=answers.person,
        file_id=answers.file_id,
        filename=answers.filename("rows"),
        accepts=bool(answers.several("terms")),
    )
    return _errors_by_field(distillations.receive(answers.context, wanted), "file")


def _better(answers: Answers) -> Errors:
    text = answers.text("text")
    return _errors(tried_answers.correct(answers.context, answers.number, answers.person, text), "text")


def _delete(answers: Answers) -> Errors:
    channel, dataset, *before = answers.words
    if normalize_name(strip_quotes(answers.text("name").strip())) != dataset:
        return {"name": f"Type {dataset} to delete it, or close this form."}
    day = date.fromisoformat(before[0]) if before else None
    result = dataset_deletion.ask(answers.context, Delete(dataset, day), answers.person, channel)
    return _errors(result, "name")


def _choose_messages(answers: Answers) -> Errors:
    channel = ""
    of_channel = None
    if "channel" in answers.blocks:  # the App Home has no channel to choose for
        channel = answers.channel
        of_channel = answers.several("channel")
    of_person = answers.several("person")
    result = message_topics.save_form(answers.context, answers.person, channel, of_person, of_channel)
    return _errors(result, "channel")


def _decide(answers: Answers) -> Errors:
    choice, number = intervention_cards.parse_metadata(answers.metadata)
    reason = answers.text("reason")
    job = answers.values.get("job")
    result = interventions.decide(answers.context, number, choice, answers.person, reason, job)
    return _errors_by_field(result, "reason")


def _watch(answers: Answers) -> Errors:
    is_monthly = answers.text("every") == "month"
    every: Literal["month", "never"] = "month" if is_monthly else "never"
    wanted = WatchRequest(answers.dataset, float(answers.text("share")), every)
    return _errors(watches.receive(answers.context, wanted, answers.person, answers.channel), "share")


# Each function records what a form asks for, or returns errors, which Slack shows below their fields.
FORMS: Mapping[str, Callable[[Answers], Errors]] = {
    dataset_cards.UPLOAD: _receive,
    estimate_form.ESTIMATE: _estimate,
    run_again_cards.FORM: _run_again,
    evaluation_cards.FORM: _measure,
    column_cards.CHOOSE_COLUMNS: _choose_columns,
    document_cards.DOCUMENT_FORM: _add_knowledge,
    plan_cards.APPROVE_FORM: _approve,
    plan_cards.REJECT_FORM: _reject,
    promotion_request_cards.DECLINE_FORM: _decline,
    waiver_cards.WAIVER_FORM: _waive,
    dataset_deletion_cards.DELETION_FORM: _delete,
    intervention_cards.FORM: _decide,
    answer_cards.TRY_FORM: _try,
    row_label_cards.FORM: _label,
    distillation_cards.FORM: _distil,
    answer_cards.BETTER_FORM: _better,
    watch_cards.FORM: _watch,
    topic_cards.FORM: _choose_messages,
}


AFTER_ACK: Mapping[str, Callable[[Answers], None]] = {
    estimate_form.ESTIMATE: _answer_estimate,
    run_again_cards.FORM: _start_again,
}
FORMS_OF_A_CHANNEL = frozenset(
    {
        dataset_cards.UPLOAD,
        estimate_form.ESTIMATE,
        run_again_cards.FORM,
        evaluation_cards.FORM,
        document_cards.DOCUMENT_FORM,
        dataset_deletion_cards.DELETION_FORM,
        answer_cards.TRY_FORM,
        row_label_cards.FORM,
        distillation_cards.FORM,
        watch_cards.FORM,
        topic_cards.FORM,
    }
)
"""Forms whose metadata begin with the channel that they were opened in."""


def _channel_errors(form: str, answers: Answers) -> Errors:
    """Refuses a form of a private channel that its person has left since it was opened. A form stays open for as long
    as somebody likes, so that the channel in it is no proof that they are still a member."""
    if form not in FORMS_OF_A_CHANNEL or not answers.words:  # the App Home and the shortcut have no channel
        return {}
    channel = answers.channel
    if answers.values.get("channel") not in (None, channel):
        return {}  # it is for another channel, whose members are looked up when it is received
    if authorization.may_act_in(answers.context, channel, answers.person):
        return {}
    first_field = next(iter(answers.blocks))
    return {first_field: permission_cards.NOT_IN_CHANNEL}


def _errors(result: object, field: str) -> Errors:
    if isinstance(result, Refusal):
        return {field: result.text}
    return {}


def _errors_by_field(result: object, otherwise: str) -> Errors:
    """Returns the refusal below the field that it is about, or below `otherwise`."""
    if isinstance(result, Refusal):
        return {result.about or otherwise: result.text}
    return {}
