"""Buttons on cards. A click is recorded in one transaction, then acked; the answer is for the clicker alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from slack_bolt import Ack, App, Respond
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.cards import (
    data_policy,
    datasets,
    deployments,
    distillations,
    estimates,
    evaluations,
    findings,
    general,
    home,
    judge_agreement,
    models,
    plans,
    results,
    row_labels,
    runs,
    sunsets,
)
from bot.cards import evaluation_results as result_cards
from bot.cards import help as help_cards
from bot.cards import interventions as intervention_cards
from bot.cards import tuned_learning_curves as tuned_curve_cards
from bot.context import AppContext
from bot.services import (
    approvals,
    budgets,
    clean_copies,
    estimate_requests,
    estimate_steps,
    human_preferences,
    interventions,
    measurements,
    overview,
    promotions,
    tried_answers,
)
from bot.services import data_policy as data_policy_services
from bot.services import datasets as dataset_services
from bot.services import deployments as deployment_services
from bot.services import distillations as distillation_services
from bot.services import evaluations as evaluation_services
from bot.services import models as model_services
from bot.services import row_labels as row_label_services
from bot.services import runs as run_services
from bot.services import sunsets as sunset_services
from bot.slack.commands import Call, baseline_form, estimate_form, help_list
from bot.slack.homes import Homes
from bot.values.runs import Refusal

Click = Mapping[str, Any]
log = logging.getLogger(__name__)
_ByNumber = Callable[[AppContext, int, str], object]
_ByValue = Callable[[AppContext, str, str], object]
_OpenForm = Callable[[AppContext, Click], dict[str, Any] | Refusal | None]


def _numbered(work: _ByNumber) -> _ByValue:
    """Adapts `work`, whose button has a number as its value."""
    return lambda context, value, person: work(context, int(value), person)


def _choosing(button: str) -> _ByValue:
    choice = judge_agreement.CHOICES[button]
    return lambda context, value, person: human_preferences.choose(context, value, choice, person)


# Buttons whose value is the number of what they are about; who clicked reads the answer.
ANSWERED: Mapping[str, Callable[[AppContext, int, str], str | Refusal]] = {
    evaluations.CANCEL: measurements.ask_cancel,
    judge_agreement.JUDGE_SOME: human_preferences.ask,
    estimates.SHARE: estimate_requests.share,
    findings.CLEAN: clean_copies.request,
    models.GOOD: tried_answers.mark_good,
    row_labels.LABEL_DOUBTED: row_label_services.begin_doubted,
    runs.CANCEL: run_services.ask_cancel,
    runs.PAUSE: run_services.ask_pause,
    runs.RESUME: run_services.ask_resume,
}
# What a click does is seen in the channel: only a refusal goes to who clicked alone.
SHOWN: Mapping[str, _ByValue] = {
    plans.APPROVE: approvals.approve,
    estimates.START: _numbered(estimate_steps.start),
    estimates.MEASURE: _numbered(estimate_steps.measure),
    **dict.fromkeys((estimates.USE_ENCODER, sunsets.RETUNE), sunset_services.start),
    evaluations.MEASURE: _numbered(measurements.agree),
    tuned_curve_cards.TRAIN: _numbered(measurements.agree),
    models.PROMOTE: _numbered(promotions.promote_run),
    deployments.KEEP: _numbered(deployment_services.keep),
    deployments.STOP: _numbered(deployment_services.stop),
    deployments.START: _numbered(deployment_services.start_again),
    deployments.STOP_STRAY: deployment_services.stop_stray,
    results.MEASURE: _numbered(evaluation_services.ask_after_run),
    models.ROLLBACK: _numbered(promotions.roll_back_from),
    row_labels.MAKE_VERSION: _numbered(row_label_services.close),
    row_labels.DISCARD: _numbered(row_label_services.discard),
    **{button: _choosing(button) for button in judge_agreement.CHOICES},
}


def register(app: App, context: AppContext, homes: Homes, wake: Callable[[], None]) -> None:
    @app.action(_one_of(ANSWERED))
    def answer(ack: Ack, body: Click, respond: Respond) -> None:
        result = ANSWERED[_action(body)](context, int(_value(body)), _person(body))
        ack()
        wake()
        respond(**general.answer(result).body(), response_type="ephemeral", replace_original=False)

    def show(ack: Ack, body: Click, respond: Respond, client: WebClient) -> None:
        person = _person(body)
        result = SHOWN[_action(body)](context, _value(body), person)
        ack()
        wake()
        if isinstance(result, Refusal):
            _whisper(body, respond, client, result)
        if _is_on_home(body):
            homes.draw(person)

    def open_form(ack: Ack, body: Click, respond: Respond, client: WebClient) -> None:
        form = FORMS[_action(body)](context, body)
        if form is None:
            show(ack, body, respond, client)
            return
        if isinstance(form, Refusal):
            ack()
            _whisper(body, respond, client, form)
            return
        if _is_on_home(body) and form.get("private_metadata"):
            form = {**form, "private_metadata": f"{form['private_metadata']} {home.FORM}"}
        client.views_open(trigger_id=str(body["trigger_id"]), view=form)
        ack()

    @app.action(_one_of(row_labels.ANSWERS))
    def label_row(ack: Ack, body: Click, client: WebClient) -> None:
        result = row_label_services.answer(context, _action(body), _value(body), _person(body))
        ack()
        wake()
        form = general.notice_modal("Not done", result.text) if isinstance(result, Refusal) else result
        try:
            client.views_update(view_id=str(body["view"]["id"]), view=form)
        except SlackApiError as error:
            if error.response.get("error") != "not_found":
                raise
            log.info("a form of rows to label was closed before the next row came")

    app.action(_one_of(SHOWN.keys() - FORMS.keys()))(show)
    app.action(_one_of(FORMS))(open_form)


def _approve(context: AppContext, body: Click) -> dict[str, Any] | Refusal | None:
    waiting = approvals.needs_reason(context, _value(body), _person(body))
    return plans.approve_modal(*waiting) if isinstance(waiting, tuple) else waiting


def _reject(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    return approvals.may_reject(context, _value(body), _person(body)) or plans.reject_modal(_value(body))


def _waive(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    result = data_policy_services.may_record_waiver(context, int(_value(body)), _person(body))
    return result if isinstance(result, Refusal) else data_policy.form(result)


def _choose_columns(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    allowed = dataset_services.may_choose_columns(context, int(_value(body)), _person(body))
    return allowed if isinstance(allowed, Refusal) else datasets.columns_form(*allowed)


def _estimate(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    """The button's value is the dataset's name, or no name where none is meant."""
    return estimate_form(Call(context, _person(body), _channel(body)), _value(body))


def _measure(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    return baseline_form(Call(context, _person(body), _channel(body)), _value(body))


def _upload(context: AppContext, body: Click) -> dict[str, Any]:
    return datasets.upload_modal(_channel(body))


def _upload_again(context: AppContext, body: Click) -> dict[str, Any]:
    name = _value(body)
    return datasets.upload_modal(
        _channel(body), name=name, sealed=dataset_services.sealed_in_vain(context, name)
    )


def _all_commands(context: AppContext, body: Click) -> dict[str, Any]:
    return help_cards.all_commands(help_list())


def _plan_details(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    person, channel = _person(body), _channel(body)
    refusal = overview.may_read(context, person, channel)
    result = refusal or run_services.summarize(context, int(_value(body)), person, channel)
    if isinstance(result, Refusal):
        return result
    budget = budgets.tightest(context, result.run.channel, result.run.requester)
    return plans.details_form(result.run, result.plan, budget)


def _estimate_details(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    result = estimate_requests.remake(context, int(_value(body)), _person(body))
    return result if isinstance(result, Refusal) else estimates.details_form(result, result.target.name)


def _answer_estimate(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    """Opens the form with what the estimate's card was asked, for what it lacks."""
    before = estimate_requests.asked_before(context, int(_value(body)), _person(body))
    if isinstance(before, Refusal):
        return before
    return estimate_form(Call(context, _person(body), _channel(body)), before.dataset, before)


def _run_details(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    channel = _channel(body) or None
    refusal = overview.may_read(context, _person(body), channel)
    result = refusal or run_services.details(context, int(_value(body)), _person(body), channel)
    return result if isinstance(result, Refusal) else runs.details_form(result)


def _measurement_details(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    channel = _channel(body)
    refusal = overview.may_read(context, _person(body), channel or None)
    parts = refusal or measurements.details(context, int(_value(body)), _person(body), channel)
    return (
        parts if isinstance(parts, Refusal) else general.details_modal(f"Measurement m{_value(body)}", parts)
    )


def _promotion_details(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    person, channel = _person(body), _channel(body)
    refusal = overview.may_read(context, person, channel or None)
    parts = refusal or model_services.promotion_details(context, int(_value(body)), person, channel)
    return parts if isinstance(parts, Refusal) else general.details_modal("Model in use", parts)


def _try(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    channel = _channel(body)
    model = model_services.of_run(context, int(_value(body)), _person(body), channel)
    return model if isinstance(model, Refusal) else models.try_form(model.name, channel)


def _better_answer(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    tried = tried_answers.may_judge(context, int(_value(body)), _person(body))
    return tried if isinstance(tried, Refusal) else models.better_form(tried.id)


def _label_rows(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    return row_label_services.next_row(context, int(_value(body)), _person(body))


def _contradictions(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
    return distillation_services.contradictions(context, int(_value(body)), _person(body))


def _decide(button: str) -> _OpenForm:
    def open_form(context: AppContext, body: Click) -> dict[str, Any] | Refusal:
        """Rights are asked at the click, and again when the form comes."""
        result = interventions.may_decide(context, int(_value(body)), _person(body))
        choice = intervention_cards.BUTTONS[button]
        return result if isinstance(result, Refusal) else intervention_cards.form(choice, result)

    return open_form


# None: it takes no form, and what the click does is shown.
FORMS: Mapping[str, _OpenForm] = {
    plans.APPROVE: _approve,
    plans.REJECT: _reject,
    data_policy.WAIVE: _waive,
    datasets.CHOOSE_COLUMNS: _choose_columns,
    datasets.MEASURE: _measure,
    datasets.UPLOAD_AGAIN: _upload_again,
    **dict.fromkeys((result_cards.ESTIMATE, datasets.ESTIMATE, help_cards.ESTIMATE), _estimate),
    help_cards.UPLOAD: _upload,
    help_cards.ALL_COMMANDS: _all_commands,
    estimates.DETAILS: _estimate_details,
    plans.DETAILS: _plan_details,
    estimates.ANSWER: _answer_estimate,
    result_cards.DETAILS: _measurement_details,
    results.DETAILS: _run_details,
    models.DETAILS: _promotion_details,
    models.TRY: _try,
    models.NOT_GOOD: _better_answer,
    row_labels.LABEL_ROWS: _label_rows,
    distillations.CONTRADICTIONS: _contradictions,
    **{button: _decide(button) for button in intervention_cards.BUTTONS},
}


def _whisper(body: Click, respond: Respond, client: WebClient, refusal: Refusal) -> None:
    """Shows a refusal to the person who clicked. The App Home has no place for it, so there it is a form without
    fields."""
    if _is_on_home(body):
        client.views_open(
            trigger_id=str(body["trigger_id"]), view=general.notice_modal("Not done", refusal.text)
        )
        return
    respond(**general.refusal(refusal).body(), response_type="ephemeral", replace_original=False)


def _one_of(names: Iterable[str]) -> re.Pattern[str]:
    """Bolt searches for a pattern anywhere in a button's name: "measure" is in "cancel_measurement"."""
    return re.compile(f"^({'|'.join(names)})$")


def _is_on_home(body: Click) -> bool:
    return (body.get("view") or {}).get("type") == "home"


def _action(body: Click) -> str:
    return str(body["actions"][0]["action_id"])


def _value(body: Click) -> str:
    """Of a button, or of what was chosen from a list."""
    action = body["actions"][0]
    return str((action.get("selected_option") or action)["value"])


def _channel(body: Click) -> str:
    """'' on the App Home."""
    return str((body.get("channel") or {}).get("id") or "")


def _person(body: Click) -> str:
    return str(body["user"]["id"])
