"""Buttons on cards. A click is stored and acked, then its effect is recorded in one transaction. Only the person who
clicked sees the answer."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from slack_bolt import App, Respond
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.cards import home
from bot.cards import plain_questions as question_cards
from bot.cards.common import advice, general, judge_agreement
from bot.cards.common import help as help_cards
from bot.cards.common import message_topics as topic_cards
from bot.cards.common.blocks import Block, Message
from bot.cards.datasets import check_reports, data_policy, datasets, findings, row_labels
from bot.cards.datasets import dataset_columns as column_cards
from bot.cards.datasets import documents as document_cards
from bot.cards.decisions import estimates, plan_details, plans
from bot.cards.decisions import run_again as run_again_cards
from bot.cards.evidence import distillations, evaluations
from bot.cards.evidence import evaluation_results as result_cards
from bot.cards.evidence import judge_checks as judge_check_cards
from bot.cards.evidence import wrong_rows as wrong_row_cards
from bot.cards.models import deployments, sunsets, token_serving
from bot.cards.models import promotion_requests as promotion_request_cards
from bot.cards.models import promotions as promotion_cards
from bot.cards.models import tried_answers as answer_cards
from bot.cards.monitoring import compared_calls as compared_call_cards
from bot.cards.monitoring import live_labels as live_label_cards
from bot.cards.monitoring import live_tests as live_test_cards
from bot.cards.monitoring import watches as watch_cards
from bot.cards.monitoring import weeks as week_cards
from bot.cards.training import interventions as intervention_cards
from bot.cards.training import results, runs
from bot.context import AppContext
from bot.health import metrics
from bot.services import document_removal, plain_questions
from bot.services.common import authorization, budgets
from bot.services.datasets import check_reports as check_report_services
from bot.services.datasets import clean_copies, dataset_columns
from bot.services.datasets import data_policy as data_policy_services
from bot.services.datasets import datasets as dataset_services
from bot.services.datasets import row_labels as row_label_services
from bot.services.decisions import approvals, estimate_requests
from bot.services.decisions import plans as plan_services
from bot.services.measurement import distillations as distillation_services
from bot.services.measurement import evaluations as evaluation_services
from bot.services.measurement import human_preferences, judge_checks, measurements, wrong_rows
from bot.services.models import deployment_requests, orphan_deployments, promotion_requests, promotions
from bot.services.models import models as model_services
from bot.services.models import sunsets as sunset_services
from bot.services.monitoring import (
    compared_calls,
    live_labels,
    live_tests,
    monthly_measurements,
    proposal_measurements,
    repetitions,
    unusual_calls,
    watches,
)
from bot.services.serving import better_answers, tried_answers
from bot.services.training import interventions
from bot.services.training import runs as run_services
from bot.slack.commands import help_list, reply_to
from bot.slack.forms import baseline_form, estimate_form, notify_form, run_again_form, upload_form
from bot.slack.homes import Homes
from bot.slack.replies import Call, Form, counted_reply, give_reply
from bot.values.runs import Refusal

_Value = TypeVar("_Value")
_ByNumber = Callable[[AppContext, int, str], _Value]
_ByValue = Callable[[AppContext, str, str], _Value]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Click:
    """A press of a button, or a choice from a list. `channel` is '' on the App Home, and `metadata` outside of forms
    that were opened with some."""

    context: AppContext
    action: str
    value: str
    person: str
    channel: str
    is_on_home: bool
    metadata: str = ""

    @property
    def number(self) -> int:
        return int(self.value)

    @property
    def call(self) -> Call:
        return Call(self.context, self.person, self.channel)


def read_click(context: AppContext, body: Mapping[str, Any]) -> Click:
    action = body["actions"][0]
    chosen = action.get("selected_option") or action  # a list's choice, or a button
    channel = body.get("channel") or {}
    view = body.get("view") or {}
    return Click(
        context=context,
        action=str(action["action_id"]),
        value=str(chosen["value"]),
        person=str(body["user"]["id"]),
        channel=str(channel.get("id") or ""),
        is_on_home=view.get("type") == "home",
        metadata=str(view.get("private_metadata") or ""),
    )


def _with_number(work: _ByNumber[_Value]) -> _ByValue[_Value]:
    """Adapts `work` to a button whose value is a number."""
    return lambda context, value, person: work(context, int(value), person)


def _judge_by(button: str) -> _ByValue[object]:
    return lambda context, value, person: judge_checks.choose(context, button, value, person)


def _choose_by(button: str) -> _ByValue[object]:
    choice = judge_agreement.CHOICES[button]
    return lambda context, value, person: human_preferences.choose(context, value, choice, person)


# The person who clicked gets the answer.
ANSWERED: Mapping[str, _ByValue[str | Refusal]] = {
    evaluations.CANCEL: _with_number(measurements.ask_cancel),
    judge_agreement.JUDGE_SOME: _with_number(judge_checks.ask),
    estimates.CHECK_LABELS: _with_number(estimate_requests.check_labels),
    estimates.ADOPT: _with_number(estimate_requests.adopt),
    estimates.SHARE: _with_number(estimate_requests.share),
    findings.CLEAN: _with_number(clean_copies.request),
    answer_cards.GOOD: _with_number(tried_answers.mark_good),
    question_cards.RIGHT: _with_number(partial(plain_questions.judge, is_right=True)),
    question_cards.WRONG: _with_number(partial(plain_questions.judge, is_right=False)),
    check_reports.ADD_BETTER: _with_number(better_answers.add_to_dataset),
    week_cards.LABEL_UNUSUAL: unusual_calls.begin,
    row_labels.LABEL_DOUBTED: _with_number(row_label_services.begin_doubted),
    row_labels.LABEL_UNLABELLED: _with_number(row_label_services.begin_unlabelled),
    runs.CANCEL: _with_number(run_services.ask_cancel),
    runs.PAUSE: _with_number(run_services.ask_pause),
    runs.RESUME: _with_number(run_services.ask_resume),
    wrong_row_cards.SHOW_HELD_OUT: wrong_rows.show_held_out,
    wrong_row_cards.SHOW_DIFFERENT: wrong_rows.show_different,
    wrong_row_cards.SHOW_TRAINING: wrong_rows.ask_training,
}
# Buttons whose effect is visible in the channel. The person who clicked gets only a refusal.
SHOWN: Mapping[str, _ByValue[object]] = {
    plans.APPROVE: approvals.approve,
    promotion_request_cards.DECLINE: _with_number(promotion_requests.withdraw),
    estimates.START: _with_number(plan_services.start_estimated),
    estimates.MEASURE: _with_number(estimate_requests.measure_next),
    **dict.fromkeys((advice.USE_ENCODER, sunsets.RETUNE), sunset_services.start),
    evaluations.MEASURE: _with_number(measurements.agree),
    promotion_cards.PROMOTE: _with_number(promotions.promote_run),
    advice.USE: promotions.promote_candidate,
    promotion_request_cards.APPROVE: _with_number(promotion_requests.approve),
    token_serving.SERVE: deployment_requests.serve_by_token,
    deployments.KEEP: _with_number(deployment_requests.keep),
    deployments.STOP: _with_number(deployment_requests.stop),
    deployments.START: _with_number(deployment_requests.start_again),
    deployments.STOP_STRAY: orphan_deployments.stop_stray,
    results.MEASURE: _with_number(evaluation_services.ask_after_run),
    promotion_cards.ROLLBACK: _with_number(promotions.roll_back_from),
    check_reports.START_FROM_PAIRS: better_answers.train_further,
    watch_cards.CONSENT: _with_number(watches.consent),
    watch_cards.REFUSE: _with_number(watches.refuse),
    live_test_cards.USE: _with_number(live_tests.use),
    live_test_cards.END: _with_number(live_tests.end_by_click),
    week_cards.PLAN_AGAIN: repetitions.plan,
    week_cards.MEASURE_AGAIN: monthly_measurements.measure,
    week_cards.MEASURE_NEW: _with_number(proposal_measurements.ask),
    row_labels.MAKE_VERSION: _with_number(row_label_services.close),
    row_labels.DISCARD: _with_number(row_label_services.discard),
    **{button: _choose_by(button) for button in judge_agreement.CHOICES},
    **{button: _judge_by(button) for button in judge_check_cards.VERDICTS},
}


def register(app: App, context: AppContext, homes: Homes, wake: Callable[[], None]) -> None:
    listeners = _Listeners(context, homes, wake)
    app.action(_one_of(ANSWERED))(listeners.answer)
    app.action(_one_of(SHOWN.keys() - FORMS.keys()))(listeners.show)
    app.action(_one_of(FORMS))(listeners.open_form)
    app.action(_one_of(TYPED))(listeners.run_line)
    app.action(_one_of(row_labels.ANSWERS))(listeners.label_row)
    app.action(_one_of(live_label_cards.ANSWERS))(listeners.label_call)
    app.action(_one_of(compared_call_cards.ANSWERS))(listeners.compare_call)
    app.action(document_cards.REMOVE)(listeners.remove_document)


@dataclass(frozen=True)
class _Listeners:
    """One listener for each kind of button."""

    context: AppContext
    homes: Homes
    wake: Callable[[], None]

    def answer(self, body: dict[str, Any], respond: Respond) -> None:
        click = read_click(self.context, body)
        act = ANSWERED[click.action]
        result = self._counted(click, lambda: act(self.context, click.value, click.person))
        self.wake()
        _respond_privately(respond, general.answer(result))

    def show(self, body: dict[str, Any], respond: Respond, client: WebClient) -> None:
        click = read_click(self.context, body)
        act = SHOWN[click.action]
        result = self._counted(click, lambda: act(self.context, click.value, click.person))
        self.wake()
        if isinstance(result, Refusal):
            _show_refusal(click, str(body["trigger_id"]), respond, client, result)
        if click.is_on_home:
            self.homes.draw(click.person)

    def open_form(self, body: dict[str, Any], respond: Respond, client: WebClient) -> None:
        click = read_click(self.context, body)
        trigger = str(body["trigger_id"])
        with metrics.counting_failures(metrics.CLICKS, click.action):
            form = self._form(click)
        if form is None:
            self.show(body, respond, client)  # it counts the click
            return
        metrics.count(metrics.CLICKS, click.action, form)
        if isinstance(form, Refusal):
            _show_refusal(click, trigger, respond, client, form)
            return
        # So that the Home is drawn again once the form is submitted (modals.py).
        if click.is_on_home and form.get("private_metadata"):
            form = {**form, "private_metadata": f"{form['private_metadata']} {home.FORM}"}
        client.views_open(trigger_id=trigger, view=form)

    def run_line(self, body: dict[str, Any], respond: Respond, client: WebClient) -> None:
        """Runs the command that is the button's value, as if the person had typed it."""
        click = read_click(self.context, body)
        container = body.get("container") or {}
        thread = container.get("thread_ts")
        call = click.call
        if thread:
            call = replace(call, thread=str(thread))
        reply = counted_reply(metrics.CLICKS, click.action, lambda: reply_to(call, click.value))
        give_reply(reply, str(body["trigger_id"]), client, partial(_respond_privately, respond))
        self.wake()

    def label_row(self, body: dict[str, Any], client: WebClient) -> None:
        click = read_click(self.context, body)
        result = self._counted(
            click,
            lambda: row_label_services.answer(self.context, click.action, click.value, click.person),
        )
        self.wake()
        _update_form(body, client, result)

    def label_call(self, body: dict[str, Any], client: WebClient) -> None:
        click = read_click(self.context, body)
        result = self._counted(
            click,
            lambda: live_labels.answer(self.context, click.metadata, click.action, click.value, click.person),
        )
        self.wake()
        _update_form(body, client, result)

    def compare_call(self, body: dict[str, Any], client: WebClient) -> None:
        click = read_click(self.context, body)
        result = self._counted(
            click,
            lambda: compared_calls.answer(
                self.context, click.metadata, click.action, click.value, click.person
            ),
        )
        self.wake()
        _update_form(body, client, result)

    def remove_document(self, body: dict[str, Any], client: WebClient) -> None:
        click = read_click(self.context, body)
        result = self._counted(
            click, lambda: document_removal.remove(self.context, click.value, click.person)
        )
        self.wake()
        _update_form(body, client, result)

    def _form(self, click: Click) -> Form | Refusal | None:
        if click.action in READ:
            refusal = authorization.refusal(self.context, click.person, "read", click.channel)
            if refusal:
                return refusal
        return FORMS[click.action](click)

    def _counted(self, click: Click, act: Callable[[], _Value]) -> _Value:
        return metrics.counted(metrics.CLICKS, click.action, act)


def _update_form(body: dict[str, Any], client: WebClient, result: Block | Refusal) -> None:
    """Shows the next form, or why there is none, in place of the one with the button."""
    form = result
    if isinstance(form, Refusal):
        form = general.notice_modal("Not done", form.text)
    try:
        client.views_update(view_id=str(body["view"]["id"]), view=form)
    except SlackApiError as error:
        if error.response.get("error") != "not_found":
            raise
        log.info("a form was closed before the next one came")


def _approve(click: Click) -> Form | Refusal | None:
    """Returns the form for a reason, or None if the click alone is enough."""
    waiting = approvals.needs_reason(click.context, click.value, click.person)
    if isinstance(waiting, tuple):
        return plans.approve_modal(*waiting)
    return waiting


def _reject(click: Click) -> Form | Refusal:
    refusal = approvals.may_reject(click.context, click.value, click.person)
    if refusal:
        return refusal
    return plans.reject_modal(click.value)


def _decline(click: Click) -> Form | Refusal | None:
    """Returns the form for a reason. The person who asked withdraws the request by the click alone."""
    request = promotion_requests.may_decline(click.context, click.number, click.person)
    if isinstance(request, Refusal):
        return request
    if request.person == click.person:
        return None
    return promotion_request_cards.decline_modal(request)


def _waive(click: Click) -> Form | Refusal:
    dataset = data_policy_services.may_record_waiver(click.context, click.number, click.person)
    if isinstance(dataset, Refusal):
        return dataset
    return data_policy.form(dataset)


def _choose_columns(click: Click) -> Form | Refusal:
    allowed = dataset_columns.may_choose_columns(click.context, click.number, click.person)
    if isinstance(allowed, Refusal):
        return allowed
    return column_cards.columns_form(*allowed)


def _upload_again(click: Click) -> Form | Refusal:
    sealed = dataset_services.sealed_of_refused_version(click.context, click.value)
    return upload_form(click.call, name=click.value, sealed=sealed)


def _plan_details(click: Click) -> Form | Refusal:
    result = run_services.summarize(click.context, click.number, click.person, click.channel)
    if isinstance(result, Refusal):
        return result
    budget = budgets.tightest(click.context, result.run.channel, result.run.requester)
    return plan_details.details_form(result.run, result.plan, budget)


def _estimate_details(click: Click) -> Form | Refusal:
    result = estimate_requests.recompute(click.context, click.number, click.person)
    if isinstance(result, Refusal):
        return result
    return estimates.details_form(result, result.target.title)


def _answer_estimate(click: Click) -> Form | Refusal:
    """Returns the estimate's form, filled in with the earlier question, so that the person can add what is missing."""
    before = estimate_requests.load_asked_estimate(click.context, click.number, click.person)
    if isinstance(before, Refusal):
        return before
    return estimate_form(click.call, before.dataset, before)


def _run_details(click: Click) -> Form | Refusal:
    channel = click.channel or None
    result = run_services.details(click.context, click.number, click.person, channel)
    if isinstance(result, Refusal):
        return result
    return runs.details_form(result)


def _measurement_details(click: Click) -> Form | Refusal:
    parts = measurements.details(click.context, click.number, click.person, click.channel)
    if isinstance(parts, Refusal):
        return parts
    return general.details_modal(f"Measurement m{click.value}", parts)


def _promotion_details(click: Click) -> Form | Refusal:
    parts = model_services.promotion_details(click.context, click.number, click.person, click.channel)
    if isinstance(parts, Refusal):
        return parts
    return general.details_modal("In use", parts)


def _dataset_details(click: Click) -> Form | Refusal:
    parts = check_report_services.details(click.context, click.number, click.person, click.channel)
    if isinstance(parts, Refusal):
        return parts
    return general.details_modal("What the check found", parts)


def _try(click: Click) -> Form | Refusal:
    model = model_services.find_of_run(click.context, click.number, click.person, click.channel)
    if isinstance(model, Refusal):
        return model
    return answer_cards.try_form(model.name, click.channel)


def _better_answer(click: Click) -> Form | Refusal:
    tried = tried_answers.may_judge(click.context, click.number, click.person)
    if isinstance(tried, Refusal):
        return tried
    return answer_cards.better_form(tried.id)


def _decide(click: Click) -> Form | Refusal:
    """Checks the right at the click; it is checked again when the form is submitted."""
    run = interventions.may_decide(click.context, click.number, click.person)
    if isinstance(run, Refusal):
        return run
    choice = intervention_cards.BUTTONS[click.action]
    return intervention_cards.form(choice, run)


def _label_rows(click: Click) -> Form | Refusal:
    return row_label_services.next_row(click.context, click.number, click.person)


def _contradictions(click: Click) -> Form | Refusal:
    return distillation_services.contradictions(click.context, click.number, click.person)


# Buttons whose value is a command, which is run as if the person had typed it.
TYPED = (*general.READINGS, *general.RUN_LINES, wrong_row_cards.WRONG_ROWS)
# These forms show figures, so they need the right to read.
READ = (
    plans.DETAILS,
    result_cards.DETAILS,
    results.DETAILS,
    promotion_cards.DETAILS,
    check_reports.DETAILS,
)
# Buttons that open a form. If the function returns None, no form is needed, and SHOWN has the action.
FORMS: Mapping[str, Callable[[Click], Form | Refusal | None]] = {
    plans.APPROVE: _approve,
    plans.REJECT: _reject,
    run_again_cards.RUN_AGAIN: lambda click: run_again_form(click.call, click.number),
    promotion_request_cards.DECLINE: _decline,
    data_policy.WAIVE: _waive,
    column_cards.CHOOSE_COLUMNS: _choose_columns,
    check_reports.DETAILS: _dataset_details,
    datasets.MEASURE: lambda click: baseline_form(click.call, click.value),
    datasets.UPLOAD_AGAIN: _upload_again,
    # The value is a dataset's name, or the name of no dataset if none is meant.
    **dict.fromkeys(
        (result_cards.ESTIMATE, datasets.ESTIMATE, help_cards.ESTIMATE),
        lambda click: estimate_form(click.call, click.value),
    ),
    help_cards.UPLOAD: lambda click: upload_form(click.call),
    topic_cards.OPEN_FORM: lambda click: notify_form(click.call),
    help_cards.ALL_COMMANDS: lambda _: help_cards.all_commands_form(help_list()),
    estimates.DETAILS: _estimate_details,
    plans.DETAILS: _plan_details,
    estimates.ANSWER: _answer_estimate,
    result_cards.DETAILS: _measurement_details,
    results.DETAILS: _run_details,
    promotion_cards.DETAILS: _promotion_details,
    promotion_cards.TRY: _try,
    answer_cards.NOT_GOOD: _better_answer,
    row_labels.LABEL_ROWS: _label_rows,
    week_cards.LABEL: lambda click: live_labels.next_call(click.context, click.value, click.person),
    live_test_cards.COMPARE: lambda click: compared_calls.next_form(
        click.context, int(click.value), click.person
    ),
    distillations.CONTRADICTIONS: _contradictions,
    **dict.fromkeys(intervention_cards.BUTTONS, _decide),
}


def _show_refusal(click: Click, trigger: str, respond: Respond, client: WebClient, refusal: Refusal) -> None:
    """Shows a refusal to the person who clicked, in an ephemeral message, or on the App Home in a modal."""
    if click.is_on_home:
        client.views_open(trigger_id=trigger, view=general.notice_modal("Not done", refusal.text))
        return
    _respond_privately(respond, general.text_message(refusal.text))


def _respond_privately(respond: Respond, message: Message) -> None:
    respond(**message.body(), response_type="ephemeral", replace_original=False)


def _one_of(names: Iterable[str]) -> re.Pattern[str]:
    """Anchors the pattern, as Bolt searches for it anywhere in a button's name: "measure" is in
    "cancel_measurement"."""
    return re.compile(f"^({'|'.join(names)})$")
