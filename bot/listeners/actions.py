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
# The same where the channel's own message says it: only a refusal is whispered.
SHOWN: Mapping[str, Callable[[Desk, int, str], object]] = {
    measuring.MEASURE: baselines.agree,
    tuned_curve_views.TRAIN: tuned_curves.agree,
    promoting.PROMOTE: promoting_work.promote_run,
    promoting.ROLLBACK: promoting_work.roll_back_from,
}


def register(app: App, desk: Desk, wake: Callable[[], None]) -> None:
    @app.action(_one_of(ANSWERED))
    def answer(ack: Ack, body: dict[str, Any], respond: Respond) -> None:
        result = ANSWERED[_action(body)](desk, int(_value(body)), _person(body))
        ack()
        wake()
        respond(**general.answer(result).body(), response_type="ephemeral", replace_original=False)

    @app.action(_one_of(SHOWN))
    def show(ack: Ack, body: dict[str, Any], respond: Respond) -> None:
        result = SHOWN[_action(body)](desk, int(_value(body)), _person(body))
        ack()
        wake()
        if isinstance(result, Refusal):
            _whisper(respond, result)

    @app.action(plans.APPROVE)
    def approve(ack: Ack, body: dict[str, Any], respond: Respond) -> None:
        result = approving.approve(desk, _value(body), _person(body))
        ack()
        wake()
        if isinstance(result, Refusal):
            _whisper(respond, result)

    @app.action(plans.REJECT)
    def reject(ack: Ack, body: dict[str, Any], respond: Respond, client: WebClient) -> None:
        refusal = approving.may_reject(desk, _value(body), _person(body))
        if refusal is None:
            client.views_open(trigger_id=str(body["trigger_id"]), view=plans.reject_modal(_value(body)))
        ack()
        if refusal:
            _whisper(respond, refusal)

    @app.action(waivers.WAIVE)
    def waive(ack: Ack, body: dict[str, Any], respond: Respond, client: WebClient) -> None:
        result = waiver_work.may_record(desk, int(_value(body)), _person(body))
        if isinstance(result, Refusal):
            ack()
            _whisper(respond, result)
            return
        client.views_open(trigger_id=str(body["trigger_id"]), view=waivers.form(result))
        ack()

    @app.action(_one_of(preferences.CHOICES))
    def choose(ack: Ack, body: dict[str, Any], respond: Respond) -> None:
        choice = preferences.CHOICES[_action(body)]
        refusal = preferring.choose(desk, _value(body), choice, _person(body))
        ack()
        wake()
        if refusal:
            _whisper(respond, refusal)

    @app.action(ladder_views.ESTIMATE)
    def estimate_next(ack: Ack, body: dict[str, Any], client: WebClient) -> None:
        form = estimate_form.form(str(body["channel"]["id"]), estimate_work.choices(desk), _value(body))
        client.views_open(trigger_id=str(body["trigger_id"]), view=form)
        ack()

    @app.action(runs.DETAILS)
    def details(ack: Ack, body: dict[str, Any], respond: Respond) -> None:
        channel = str((body.get("channel") or {}).get("id") or "") or None
        refused = overview.may_read(desk, _person(body), channel)
        result = refused or run_work.look(desk, int(_value(body)))
        ack()
        message = general.refusal(result) if isinstance(result, Refusal) else runs.look(result)
        respond(**message.body(), response_type="ephemeral", replace_original=False)


def _whisper(respond: Respond, refusal: Refusal) -> None:
    respond(**general.refusal(refusal).body(), response_type="ephemeral", replace_original=False)


def _one_of(names: Iterable[str]) -> re.Pattern[str]:
    """Bolt searches for a pattern anywhere in a button's name: "measure" is in "cancel_measurement"."""
    return re.compile(f"^({'|'.join(names)})$")


def _action(body: dict[str, Any]) -> str:
    return str(body["actions"][0]["action_id"])


def _value(body: dict[str, Any]) -> str:
    return str(body["actions"][0]["value"])


def _person(body: dict[str, Any]) -> str:
    return str(body["user"]["id"])
