"""Forms: an answer is checked at once, and recorded before the form closes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from slack_bolt import Ack, App

from bot.cards import data_policy as waiver_cards
from bot.cards import datasets as dataset_cards
from bot.cards import distillations as distillation_cards
from bot.cards import documents as document_cards
from bot.cards import estimates, home
from bot.cards import evaluations as evaluation_cards
from bot.cards import interventions as intervention_cards
from bot.cards import models as model_cards
from bot.cards import plans as plan_cards
from bot.cards import row_labels as row_label_cards
from bot.command_options import ASKED_RUNGS, read_count
from bot.command_parser import parse_form
from bot.context import AppContext
from bot.rules.units import Misread
from bot.services import (
    approvals,
    data_policy,
    dataset_deletion,
    datasets,
    distillations,
    documents,
    estimate_requests,
    evaluations,
    interventions,
    models,
    row_labels,
    tried_answers,
)
from bot.services.datasets import Upload
from bot.services.distillations import RowsToTeach
from bot.services.documents import DocumentUpload
from bot.services.row_labels import RowsToLabel
from bot.slack import commands
from bot.slack.homes import Homes
from bot.values.requests import Baseline, Delete, Estimate
from bot.values.runs import Refusal

Errors = dict[str, str]


def register(app: App, context: AppContext, homes: Homes, wake: Callable[[], None]) -> None:
    for form, record in FORMS.items():
        app.view(form)(_listener(record, AFTER.get(form), context, homes, wake))


def _listener(
    record: Callable[[AppContext, dict[str, Any]], Errors],
    after: Callable[[AppContext, dict[str, Any]], None] | None,
    context: AppContext,
    homes: Homes,
    wake: Callable[[], None],
) -> Callable[..., None]:
    def listen(ack: Ack, body: dict[str, Any]) -> None:
        errors = record(context, body)
        if errors:
            ack(response_action="errors", errors=errors)
            return
        ack()
        if after:
            after(context, body)
        wake()
        if home.FORM in _metadata(body):
            homes.draw(_person(body))

    return listen


def _receive(context: AppContext, body: dict[str, Any]) -> Errors:
    result = datasets.receive(context, _upload(body))
    return _errors(result, (isinstance(result, Refusal) and result.about) or "name")


def _choose_columns(context: AppContext, body: dict[str, Any]) -> Errors:
    values = _values(body)
    text, label = values.get("text"), values.get("label")
    result = datasets.choose_columns(context, int(_metadata(body)[0]), text, label, _person(body))
    return _errors(result, "label" if label else "text")


def _estimate(context: AppContext, body: dict[str, Any]) -> Errors:
    request = _estimate_request(context, body)
    if isinstance(request, Refusal):
        return {estimates.refused_field(request): request.text}
    refusal = estimate_requests.may_ask(context, request, _person(body), _metadata(body)[0])
    return {estimates.refused_field(refusal): refusal.text} if refusal else {}


def _answer_estimate(context: AppContext, body: dict[str, Any]) -> None:
    request = _estimate_request(context, body)
    if isinstance(request, Estimate):
        estimate_requests.answer(context, request, _person(body), _metadata(body)[0])


def _estimate_request(context: AppContext, body: dict[str, Any]) -> Estimate | Refusal:
    """Options that the form has no field for stay as they were in the estimate that it changes."""
    others: dict[str, str] = {}
    number = next((word for word in _metadata(body)[1:] if word.isdigit()), None)
    if number is not None:
        before = estimate_requests.asked_before(context, int(number), _person(body))
        if isinstance(before, Refusal):
            return before
        others = {name: value for name, value in before.typed.items() if name not in estimates.FIELDS}
    values = parse_form(commands.estimate, {**others, **_values(body)})
    return values if isinstance(values, Refusal) else commands.estimate_request(values)


def _measure(context: AppContext, body: dict[str, Any]) -> Errors:
    several = {field: ",".join(_several(body, field)) for field in ("rungs", "models")}
    if several["rungs"] == ",".join(ASKED_RUNGS):
        several["rungs"] = ""  # all that fit, an optimised prompt too
    values = parse_form(commands.measure_baseline, {**_values(body), **several})
    if isinstance(values, Refusal):
        return {values.about or "dataset": values.text}
    result = evaluations.ask(context, Baseline(**values), _person(body), _metadata(body)[0])
    about = result.about if isinstance(result, Refusal) else None
    return _errors(result, about if about in evaluation_cards.ANSWERED_BELOW else "dataset")


def _add_knowledge(context: AppContext, body: dict[str, Any]) -> Errors:
    channel, dataset = _metadata(body)[:2]
    file = _files(body)[0]
    name = str(file.get("name") or "document")
    upload = DocumentUpload(dataset, channel, _person(body), str(file.get("id", "")), name)
    return _errors(documents.receive(context, upload), "file")


def _label(context: AppContext, body: dict[str, Any]) -> Errors:
    channel, dataset = _metadata(body)[:2]
    count = read_count((_values(body).get("count") or "").strip())
    if isinstance(count, Misread):
        return {"count": count.sentence}
    file = _files(body)[0]
    wanted = RowsToLabel(dataset, channel, _person(body), count, file.get("id"), file.get("name"))
    result = row_labels.begin(context, wanted)
    return _errors(result, (isinstance(result, Refusal) and result.about) or "count")


def _approve(context: AppContext, body: dict[str, Any]) -> Errors:
    reason = _values(body).get("reason") or ""
    return _errors(approvals.approve(context, _metadata(body)[0], _person(body), reason), "reason")


def _reject(context: AppContext, body: dict[str, Any]) -> Errors:
    reason = _values(body).get("reason") or ""
    return _errors(approvals.reject(context, _metadata(body)[0], _person(body), reason), "reason")


def _waive(context: AppContext, body: dict[str, Any]) -> Errors:
    reason = _values(body).get("reason") or ""
    return _errors(
        data_policy.record_waiver(context, int(_metadata(body)[0]), _person(body), reason), "reason"
    )


def _try(context: AppContext, body: dict[str, Any]) -> Errors:
    channel, model = _metadata(body)[:2]
    return _errors(
        models.ask(context, model, _values(body).get("text") or "", _person(body), channel), "text"
    )


def _distil(context: AppContext, body: dict[str, Any]) -> Errors:
    channel, dataset, teacher = _metadata(body)[:3]
    file, accepts = _files(body)[0], bool(_several(body, "terms"))
    name = str(file.get("name") or "rows")
    wanted = RowsToTeach(dataset, teacher, channel, _person(body), str(file.get("id", "")), name, accepts)
    result = distillations.receive(context, wanted)
    return _errors(result, (isinstance(result, Refusal) and result.about) or "file")


def _better(context: AppContext, body: dict[str, Any]) -> Errors:
    text = _values(body).get("text") or ""
    return _errors(tried_answers.correct(context, int(_metadata(body)[0]), _person(body), text), "text")


def _delete(context: AppContext, body: dict[str, Any]) -> Errors:
    channel, dataset, *before = _metadata(body)
    if (_values(body).get("name") or "").strip().lower() != dataset:
        return {"name": f"Type {dataset} to delete it, or close this form."}
    command = Delete(dataset, date.fromisoformat(before[0]) if before else None)
    return _errors(dataset_deletion.ask(context, command, _person(body), channel), "name")


def _decide(context: AppContext, body: dict[str, Any]) -> Errors:
    choice, number = intervention_cards.parse_metadata(str(body["view"]["private_metadata"]))
    values = _values(body)
    result = interventions.decide(
        context, number, choice, _person(body), values.get("reason") or "", values.get("job")
    )
    return _errors(result, (isinstance(result, Refusal) and result.about) or "reason")


# What a form's answer asks for is recorded before the form closes; what is wrong stands under its field.
FORMS: Mapping[str, Callable[[AppContext, dict[str, Any]], Errors]] = {
    dataset_cards.UPLOAD: _receive,
    estimates.ESTIMATE: _estimate,
    evaluation_cards.FORM: _measure,
    dataset_cards.CHOOSE_COLUMNS: _choose_columns,
    document_cards.DOCUMENT_FORM: _add_knowledge,
    plan_cards.APPROVE_FORM: _approve,
    plan_cards.REJECT_FORM: _reject,
    waiver_cards.WAIVER_FORM: _waive,
    dataset_cards.DELETION_FORM: _delete,
    intervention_cards.FORM: _decide,
    model_cards.TRY_FORM: _try,
    row_label_cards.FORM: _label,
    distillation_cards.FORM: _distil,
    model_cards.BETTER_FORM: _better,
}

# What takes longer than Slack waits comes once the form is closed.
AFTER: Mapping[str, Callable[[AppContext, dict[str, Any]], None]] = {estimates.ESTIMATE: _answer_estimate}


def _errors(result: object, field: str) -> Errors:
    return {field: result.text} if isinstance(result, Refusal) else {}


def _upload(body: dict[str, Any]) -> Upload:
    values = _values(body)
    channel, known_file, known_name = (*str(body["view"]["private_metadata"]).split(" ", 2), "", "")[:3]
    files = _files(body)
    # a file from a channel's message stays that channel's: rules about data go by where it came from
    is_asked = not known_file or channel.startswith("D")
    return Upload(
        name=values.get("name") or "",
        channel=(is_asked and values.get("channel")) or channel,
        here=channel,
        person=_person(body),
        file_id=known_file or str(files[0].get("id", "")),
        filename=known_name or str(files[0].get("name") or "upload"),
        text_column=values.get("text"),
        label_column=values.get("label"),
        sealed=values.get("sealed"),
    )


def _several(body: dict[str, Any], block: str) -> tuple[str, ...]:
    """Returns the chosen options, or what was typed instead, split at its commas."""
    element: Mapping[str, Any] = next(iter(body["view"]["state"]["values"].get(block, {}).values()), {})
    chosen = [str(option["value"]) for option in element.get("selected_options") or []]
    typed = [word.strip() for word in str(element.get("value") or "").split(",")]
    return tuple(chosen or [word for word in typed if word])


def _files(body: dict[str, Any]) -> list[Mapping[str, Any]]:
    files: list[Mapping[str, Any]] = body["view"]["state"]["values"].get("file", {}).get("value", {}).get(
        "files"
    ) or [{}]
    return files


def _values(body: dict[str, Any]) -> Mapping[str, str | None]:
    """Returns what was entered, by block: text, the value of an option, or the id of a conversation."""
    blocks: Mapping[str, Mapping[str, Mapping[str, Any]]] = body["view"]["state"]["values"]
    return {name: _value(next(iter(block.values()))) for name, block in blocks.items()}


def _value(element: Mapping[str, Any]) -> str | None:
    option = element.get("selected_option") or {}
    value = element.get("value") or option.get("value") or element.get("selected_conversation")
    return str(value) if value else None


def _metadata(body: dict[str, Any]) -> list[str]:
    return str(body["view"]["private_metadata"]).split()


def _person(body: dict[str, Any]) -> str:
    return str(body["user"]["id"])
