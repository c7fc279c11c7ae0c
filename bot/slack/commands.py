"""`/finetune …`: parse, hand over, answer. Only the person who typed sees the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, assert_never

from slack_bolt import Ack, App
from slack_sdk import WebClient

from bot import command_options, command_parser, commands
from bot.cards import audits, estimates, evaluations, general, prices, runs, status
from bot.cards import budgets as budget_views
from bot.cards import datasets as dataset_views
from bot.cards import models as promoting_views
from bot.cards.blocks import Message
from bot.context import AppContext
from bot.services import (
    budgets,
    candidates,
    dataset_deletion,
    documents,
    estimate_requests,
    freeze,
    learning_curves,
    measurements,
    overview,
    plans,
    promotions,
)
from bot.services import evaluations as evaluations_services
from bot.services import models as model_work
from bot.services import runs as run_work
from bot.values.runs import Refusal

COMMAND = "/finetune"
# The answer tells nothing of the team's; all others are for those who may see it, and most ask for more than that.
UNASKED = (command_options.Answer, commands.Help, *commands.ACTS)
_Value = TypeVar("_Value")


def register(app: App, context: AppContext, wake: Callable[[], None]) -> None:
    @app.command(COMMAND)
    def finetune(ack: Ack, body: dict[str, Any], client: WebClient) -> None:
        person, channel = str(body["user_id"]), str(body["channel_id"])
        typed = command_parser.parse(command_parser.unescaped(str(body.get("text") or "")))
        refused = None if isinstance(typed, UNASKED) else overview.may_read(context, person, channel)
        if refused:
            ack(response_type="ephemeral", **general.refusal(refused).body())
            return
        form = _form(context, typed, person, channel)
        if isinstance(form, dict):
            client.views_open(trigger_id=str(body["trigger_id"]), view=form)
            ack()
            return
        answer = general.text_message(form.text) if form else answer_to(context, typed, person, channel)
        ack(response_type="ephemeral", **answer.body()) if answer else ack()
        if isinstance(typed, commands.Estimate) and not answer:
            estimate_requests.answer(context, typed, person, channel)
        wake()


def answer_to(
    context: AppContext, command: commands.Command | command_options.Answer, person: str, channel: str
) -> Message | None:
    """What the person reads; None where the channel's own message says it."""
    match command:
        case command_options.Answer(text):
            return general.text_message(text)
        case commands.Help():
            return general.help_text()
        case commands.Datasets():
            return dataset_views.listing(overview.listing(context, person, channel))
        case commands.Estimate():
            refusal = estimate_requests.may_ask(context, command, person, channel)
            return general.refusal(refusal) if refusal else None  # its answer comes after the ack
        case commands.Baseline():
            return _said(
                evaluations_services.ask(context, command, person, channel), lambda _measurement: None
            )
        case commands.Curve():
            return _said(learning_curves.ask(context, command, person, channel), lambda _measurement: None)
        case commands.Prices(names):
            return prices.listing(candidates.look_up_prices(context, names), context.today())
        case commands.CancelMeasurement(number):
            return _said(measurements.ask_cancel(context, number, person, channel), general.text_message)
        case commands.ShowMeasurement(number):
            return _said(measurements.look(context, number, person, channel), lambda message: message)
        case commands.Start():
            return _said(plans.start(context, command, person, channel), lambda _run: None)
        case commands.Status(None):
            return status.card(overview.status(context, person, channel))
        case commands.Status(number) | commands.Results(number):
            return _said(run_work.look(context, number or 0, person, channel), runs.details_card)
        case commands.Audit(number):
            return _said(run_work.audit_history(context, number, person, channel), audits.card)
        case commands.Runs():
            return runs.listing(run_work.listing(context, person, channel))
        case commands.Cancel(number):
            return _said(run_work.ask_cancel(context, number, person, channel), general.text_message)
        case commands.Pause(number):
            return _said(run_work.ask_pause(context, number, person, channel), general.text_message)
        case commands.Resume(number):
            return _said(run_work.ask_resume(context, number, person, channel), general.text_message)
        case commands.Budget():
            return budget_views.card(budgets.month_for(context, person, channel))
        case commands.Freeze(reason):
            return _said(freeze.freeze(context, reason, person, channel), lambda _freeze: None)
        case commands.Unfreeze():
            return _said(freeze.unfreeze(context, person, channel), lambda _freeze: None)
        case commands.Models():
            return promoting_views.listing(model_work.shelf(context, person, channel))
        case commands.Promote():
            result = promotions.promote(context, command, person, channel)
            return _said(result, lambda seen: _where(seen, channel))
        case commands.Rollback():
            result = promotions.roll_back(context, command, person, channel)
            return _said(result, lambda seen: _where(seen, channel))
        case commands.Try():
            return _said(model_work.ask(context, command, person, channel), promoting_views.pending_card)
        case commands.Upload() | commands.AskEstimate() | commands.AskBaseline() | commands.Knowledge():
            return None
        case commands.Delete():  # its form was opened, or refused
            return None
        case _:
            assert_never(command)


def _form(
    context: AppContext, command: commands.Command | command_options.Answer, person: str, channel: str
) -> dict[str, Any] | Refusal | None:
    """A form with nothing to choose from would be a dead end, so it is a sentence instead."""
    match command:
        case commands.Upload():
            return dataset_views.upload_modal(channel)
        case commands.AskEstimate():
            to_estimate = estimate_requests.choices(context, person, channel)
            if not to_estimate.datasets:
                return Refusal("There is no dataset to estimate yet: `/finetune upload` makes the first one.")
            return estimates.form(channel, to_estimate)
        case commands.AskBaseline():
            to_measure = evaluations_services.choices(context, person, channel)
            if not to_measure.datasets:
                return Refusal(
                    "There is no dataset to measure on yet: `/finetune upload` makes the first one."
                )
            return evaluations.form(channel, to_measure)
        case commands.Knowledge(dataset):
            return documents.may_upload(context, dataset, person, channel) or dataset_views.document_form(
                channel, dataset
            )
        case commands.Delete():
            doomed = dataset_deletion.may_ask(context, command, person, channel)
            if isinstance(doomed, Refusal):
                return doomed
            return dataset_views.deletion_form(doomed, dataset_views.deletion_metadata(command, channel))
        case _:
            return None


def _where(seen: promoting_views.PromotionSummary, channel: str) -> Message | None:
    """The card says it in its own channel."""
    is_here = seen.promotion.channel == channel
    return None if is_here else general.text_message(promoting_views.card_location(seen))


def _said(result: _Value | Refusal, view: Callable[[_Value], Message | None]) -> Message | None:
    return general.refusal(result) if isinstance(result, Refusal) else view(result)
