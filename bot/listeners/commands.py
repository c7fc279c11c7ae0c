"""`/finetune …`: parse, hand over, answer. Only the person who typed sees the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, assert_never

from slack_bolt import Ack, App
from slack_sdk import WebClient

from bot import commands, options, parsing
from bot.results import Refusal
from bot.views import audits, estimate_form, general, measuring, models, prices, runs, status
from bot.views import budgets as budget_views
from bot.views import datasets as dataset_views
from bot.views import documents as document_views
from bot.views import forgetting as forgetting_views
from bot.views import promoting as promoting_views
from bot.views.blocks import Message
from bot.workflows import (
    auditing,
    budgets,
    estimates,
    forgetting,
    freezing,
    in_use,
    overview,
    plans,
    pricing,
    promoting,
)
from bot.workflows import models as model_work
from bot.workflows import runs as run_work
from bot.workflows.desk import Desk
from bot.workflows.measuring import baselines, curves, knowledge, measurements

COMMAND = "/finetune"
# The answer tells nothing of the team's; all others are for those who may see it, and most ask for more than that.
UNASKED = (options.Answer, commands.Help, *commands.ACTS)
_Value = TypeVar("_Value")


def register(app: App, desk: Desk, wake: Callable[[], None]) -> None:
    @app.command(COMMAND)
    def finetune(ack: Ack, body: dict[str, Any], client: WebClient) -> None:
        person, channel = str(body["user_id"]), str(body["channel_id"])
        typed = parsing.parse(parsing.unescaped(str(body.get("text") or "")))
        refused = None if isinstance(typed, UNASKED) else overview.may_read(desk, person, channel)
        if refused:
            ack(response_type="ephemeral", **general.refusal(refused).body())
            return
        form = _form(desk, typed, person, channel)
        if isinstance(form, dict):
            client.views_open(trigger_id=str(body["trigger_id"]), view=form)
            ack()
            return
        answer = general.sentence(form.text) if form else answer_to(desk, typed, person, channel)
        ack(response_type="ephemeral", **answer.body()) if answer else ack()
        if isinstance(typed, commands.Estimate) and not answer:
            estimates.answer(desk, typed, person, channel)
        wake()


def answer_to(
    desk: Desk, command: commands.Command | options.Answer, person: str, channel: str
) -> Message | None:
    """What the person reads; None where the channel's own message says it."""
    match command:
        case options.Answer(text):
            return general.sentence(text)
        case commands.Help():
            return general.help_text()
        case commands.Datasets():
            return dataset_views.listing(overview.listing(desk, person, channel))
        case commands.Estimate():
            refusal = estimates.may_ask(desk, command, person, channel)
            return general.refusal(refusal) if refusal else None  # its answer comes after the ack
        case commands.Baseline():
            return _said(baselines.ask(desk, command, person, channel), lambda _measurement: None)
        case commands.Curve():
            return _said(curves.ask(desk, command, person, channel), lambda _measurement: None)
        case commands.Prices(names):
            return prices.listing(pricing.look(desk, names), plans.today(desk))
        case commands.CancelMeasurement(number):
            return _said(measurements.ask_cancel(desk, number, person, channel), general.sentence)
        case commands.ShowMeasurement(number):
            return _said(measurements.look(desk, number, person, channel), lambda message: message)
        case commands.Start():
            return _said(plans.start(desk, command, person, channel), lambda _run: None)
        case commands.Status(None):
            return status.card(overview.status(desk, person, channel))
        case commands.Status(number) | commands.Results(number):
            return _said(run_work.look(desk, number or 0, person, channel), runs.look)
        case commands.Audit(number):
            return _said(auditing.look(desk, number, person, channel), audits.card)
        case commands.Runs():
            return runs.listing(run_work.listing(desk, person, channel))
        case commands.Cancel(number):
            return _said(run_work.ask_cancel(desk, number, person, channel), general.sentence)
        case commands.Pause(number):
            return _said(run_work.ask_pause(desk, number, person, channel), general.sentence)
        case commands.Resume(number):
            return _said(run_work.ask_resume(desk, number, person, channel), general.sentence)
        case commands.Budget():
            return budget_views.card(budgets.look(desk, person, channel))
        case commands.Freeze(reason):
            return _said(freezing.freeze(desk, reason, person, channel), lambda _freeze: None)
        case commands.Unfreeze():
            return _said(freezing.unfreeze(desk, person, channel), lambda _freeze: None)
        case commands.Models():
            return models.listing(in_use.listing(desk, person, channel))
        case commands.Promote():
            result = promoting.promote(desk, command, person, channel)
            return _said(result, lambda seen: _where(seen, channel))
        case commands.Rollback():
            result = promoting.roll_back(desk, command, person, channel)
            return _said(result, lambda seen: _where(seen, channel))
        case commands.Try():
            return _said(model_work.ask(desk, command, person, channel), models.thinking)
        case commands.Upload() | commands.AskEstimate() | commands.AskBaseline() | commands.Knowledge():
            return None
        case commands.Delete():  # its form was opened, or refused
            return None
        case _:
            assert_never(command)


def _form(
    desk: Desk, command: commands.Command | options.Answer, person: str, channel: str
) -> dict[str, Any] | Refusal | None:
    """A form with nothing to choose from would be a dead end, so it is a sentence instead."""
    match command:
        case commands.Upload():
            return dataset_views.upload_modal(channel)
        case commands.AskEstimate():
            to_estimate = estimates.choices(desk, person, channel)
            if not to_estimate.datasets:
                return Refusal("There is no dataset to estimate yet: `/finetune upload` makes the first one.")
            return estimate_form.form(channel, to_estimate)
        case commands.AskBaseline():
            to_measure = baselines.choices(desk, person, channel)
            if not to_measure.datasets:
                return Refusal(
                    "There is no dataset to measure on yet: `/finetune upload` makes the first one."
                )
            return measuring.form(channel, to_measure)
        case commands.Knowledge(dataset):
            return knowledge.may_give(desk, dataset, person, channel) or document_views.form(channel, dataset)
        case commands.Delete():
            doomed = forgetting.may_ask(desk, command, person, channel)
            if isinstance(doomed, Refusal):
                return doomed
            return forgetting_views.form(doomed, forgetting_views.private(command, channel))
        case _:
            return None


def _where(seen: promoting_views.InUse, channel: str) -> Message | None:
    """The card says it in its own channel."""
    is_here = seen.promotion.channel == channel
    return None if is_here else general.sentence(promoting_views.whereabouts(seen))


def _said(result: _Value | Refusal, view: Callable[[_Value], Message | None]) -> Message | None:
    return general.refusal(result) if isinstance(result, Refusal) else view(result)
