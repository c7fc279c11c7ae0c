"""Repeats a run with changes: fills a form in with the earlier plan's question, and makes a new plan from what comes
back, which says what differs (bot/rules/plan_settings.py). Everything else is as for any plan (plans.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bot.cards.common.general import text_message
from bot.cards.common.words import pluralize, versioned
from bot.cards.decisions.run_again import EarlierPlan
from bot.cards.training.runs import no_such_run
from bot.command_options import build_question
from bot.command_parser import Command, format_question, parse_line
from bot.context import AppContext
from bot.rules.plans import plan_from_json
from bot.rules.units import Volume, parse_request_volume
from bot.services.common import authorization, messages
from bot.services.datasets import datasets
from bot.services.decisions import plans
from bot.services.decisions.estimate_requests import question_of
from bot.values.requests import Start
from bot.values.runs import Refusal


def load_earlier(context: AppContext, number: int, person: str) -> EarlierPlan | Refusal:
    """Returns what the form is filled in with, if this person may start a training where the run was planned."""
    hidden = Refusal(no_such_run(number))
    run = context.store.runs.get(number)
    if run is None:
        return hidden
    version = context.store.datasets.get(run.dataset_id)
    refusal = authorization.button_refusal(context, version.name, person, hidden)
    if refusal is None:
        refusal = authorization.refusal(context, person, "start", run.channel)
    if refusal:
        return refusal
    newest = context.store.datasets.newest(version.name)
    report = datasets.report_of(newest) if newest else None
    if newest is None or report is None:
        return Refusal(f"Its dataset was deleted, so run {number} can't be repeated.")
    plan = plan_from_json(run.plan)
    question = question_of(plan)
    others = replace(question, current=None, volume=None, target=None)
    rows = f"On {pluralize(report.n_train, 'row')} of {versioned(newest.name, newest.version)}"
    if newest.version != plan.dataset_version:
        rows += f"; run {number} had {plan.n_train:,} of version {plan.dataset_version}"
    volume = ""
    if question.volume:
        volume = question.volume.text
    return EarlierPlan(
        run=number,
        dataset=version.name,
        channel=run.channel,
        volume=volume,
        current=question.current or "",
        target=question.target or f"{plan.provider}/{plan.base_model}",
        settings=format_question(others),
        rows=f"{rows}.",
    )


def read_form(
    context: AppContext, command: Command, number: int, fields: Mapping[str, str | None]
) -> Start | Refusal:
    """Builds the request from the form's fields, by the options of `command`."""
    run = context.store.runs.get(number)
    if run is None:
        return Refusal(no_such_run(number))
    words = [context.store.datasets.get(run.dataset_id).name, fields.get("settings") or ""]
    for name in ("target", "current"):
        if fields.get(name):
            words.append(f"{name}={fields[name]}")
    volume = fields.get("volume") or ""
    read = parse_request_volume(volume)
    if isinstance(read, Volume):
        volume = read.word
    if volume:
        words.append(f"volume={volume}")
    values = parse_line(command, " ".join(words))
    if isinstance(values, Refusal):
        return values
    return _build_request(values, number, fields.get("because"))


def _build_request(values: Mapping[str, Any], number: int, because: str | None) -> Start:
    of_request = ("dataset", "because")
    question = {name: value for name, value in values.items() if name not in of_request}
    return Start(str(values["dataset"]), build_question(question), because or None, again=number)


def start(context: AppContext, request: Start, person: str, channel: str) -> None:
    """Makes the plan once the form has closed, and tells the person if it can't be made."""
    result = plans.start(context, request, person, channel)
    if isinstance(result, Refusal):
        message = text_message(result.text)
        messages.tell_person(context, None, person, channel, message, topic="answers")
