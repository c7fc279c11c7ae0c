"""Buttons on cards. A click is recorded in one transaction, then acked; the answer is for the clicker alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from slack_bolt import Ack, App, Respond
from slack_sdk import WebClient

from bot.results import Refusal
from bot.views import (
    cleaning,
    estimate_form,
    estimates,
    general,
    home,
    measuring,
    plans,
    preferences,
    promoting,
    runs,
    waivers,
)
from bot.views import ladder as ladder_views
from bot.views import tuned_curves as tuned_curve_views
from bot.workflows import approving, overview
from bot.workflows import cleaning as cleaning_work
from bot.workflows import estimates as estimate_work
from bot.workflows import promoting as promoting_work
from bot.workflows import runs as run_work
from bot.workflows import waivers as waiver_work
from bot.workflows.desk import Desk
from bot.workflows.measuring import baselines, measurements, preferring, tuned_curves

Click = Mapping[str, Any]
_ByNumber = Callable[[Desk, int, str], object]
_ByValue = Callable[[Desk, str, str], object]


def _numbered(work: _ByNumber) -> _ByValue:
    """The button's value is the number of what it is about."""
    return lambda desk, value, person: work(desk, int(value), person)


def _choosing(button: str) -> _ByValue:
    choice = preferences.CHOICES[button]
    return lambda desk, value, person: preferring.choose(desk, value, choice, person)


# Buttons with the number of what they are about: what a click asks for, and what is said to who clicked.
ANSWERED: Mapping[str, Callable[[Desk, int, str], str | Refusal]] = {
    measuring.CANCEL: measurements.ask_cancel,
    preferences.JUDGE_SOME: preferring.ask,
    estimates.SHARE: estimate_work.share,
    cleaning.CLEAN: cleaning_work.ask,
    runs.CANCEL: run_work.ask_cancel,
    runs.PAUSE: run_work.ask_pause,
    runs.RESUME: run_work.ask_resume,
}
# What a click does is seen in the channel: only a refusal is whispered.
SHOWN: Mapping[str, _ByValue] = {
    plans.APPROVE: approving.approve,
    measuring.MEASURE: _numbered(baselines.agree),
    tuned_curve_views.TRAIN: _numbered(tuned_curves.agree),
    promoting.PROMOTE: _numbered(promoting_work.promote_run),
    promoting.ROLLBACK: _numbered(promoting_work.roll_back_from),
    **{button: _choosing(button) for button in preferences.CHOICES},
}


def register(app: App, desk: Desk, wake: Callable[[], None]) -> None:
    @app.action(_one_of(ANSWERED))
    def answer(ack: Ack, body: Click, respond: Respond) -> None:
        result = ANSWERED[_action(body)](desk, int(_value(body)), _person(body))
        ack()
        wake()
        respond(**general.answer(result).body(), response_type="ephemeral", replace_original=False)

    def show(ack: Ack, body: Click, respond: Respond, client: WebClient) -> None:
        person = _person(body)
        result = SHOWN[_action(body)](desk, _value(body), person)
        ack()
        wake()
        if isinstance(result, Refusal):
            _whisper(body, respond, client, result)
        if _is_on_home(body):
            client.views_publish(user_id=person, view=home.page(overview.home(desk, person)))

    def open_form(ack: Ack, body: Click, respond: Respond, client: WebClient) -> None:
        form = FORMS[_action(body)](desk, body)
        if form is None:
            show(ack, body, respond, client)
            return
        if isinstance(form, Refusal):
            ack()
            _whisper(body, respond, client, form)
            return
        if _is_on_home(body):
            form = {**form, "private_metadata": f"{form['private_metadata']} {home.FORM}"}
        client.views_open(trigger_id=str(body["trigger_id"]), view=form)
        ack()

    app.action(_one_of(SHOWN.keys() - FORMS.keys()))(show)
    app.action(_one_of(FORMS))(open_form)

    @app.action(runs.DETAILS)
    def details(ack: Ack, body: Click, respond: Respond) -> None:
        channel = str((body.get("channel") or {}).get("id") or "") or None
        refused = overview.may_read(desk, _person(body), channel)
        result = refused or run_work.look(desk, int(_value(body)), _person(body), channel)
        ack()
        message = general.refusal(result) if isinstance(result, Refusal) else runs.look(result)
        respond(**message.body(), response_type="ephemeral", replace_original=False)


def _approve(desk: Desk, body: Click) -> dict[str, Any] | Refusal | None:
    waiting = approving.to_be_explained(desk, _value(body), _person(body))
    return plans.approve_modal(*waiting) if isinstance(waiting, tuple) else waiting


def _reject(desk: Desk, body: Click) -> dict[str, Any] | Refusal:
    return approving.may_reject(desk, _value(body), _person(body)) or plans.reject_modal(_value(body))


def _waive(desk: Desk, body: Click) -> dict[str, Any] | Refusal:
    result = waiver_work.may_record(desk, int(_value(body)), _person(body))
    return result if isinstance(result, Refusal) else waivers.form(result)


def _estimate(desk: Desk, body: Click) -> dict[str, Any] | Refusal:
    channel, person = str(body["channel"]["id"]), _person(body)
    refused = overview.may_read(desk, person, channel)
    if refused:
        return refused
    choices, dataset = estimate_work.choices(desk, person, channel), _value(body)
    return estimate_form.form(channel, choices, dataset if dataset in choices.datasets else None)


# None: it takes no form, and what the click does is shown.
FORMS: Mapping[str, Callable[[Desk, Click], dict[str, Any] | Refusal | None]] = {
    plans.APPROVE: _approve,
    plans.REJECT: _reject,
    waivers.WAIVE: _waive,
    ladder_views.ESTIMATE: _estimate,
}


def _whisper(body: Click, respond: Respond, client: WebClient, refusal: Refusal) -> None:
    """To who clicked alone. The App Home has no place for it, so there it is a form with nothing to fill in."""
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
    return str(body["actions"][0]["value"])


def _person(body: Click) -> str:
    return str(body["user"]["id"])
