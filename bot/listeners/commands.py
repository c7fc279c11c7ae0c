"""`/finetune …`: parse, hand over, answer. Only the person who typed sees the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, assert_never

from slack_bolt import Ack, App
from slack_sdk import WebClient

from bot import parsing
from bot.results import Refusal
from bot.views import datasets as dataset_views
from bot.views import estimates as estimate_views
from bot.views import general, models, runs
from bot.views.blocks import Message
from bot.workflows import datasets, plans
from bot.workflows import models as model_work
from bot.workflows import runs as run_work
from bot.workflows.desk import Desk

COMMAND = "/finetune"
_Value = TypeVar("_Value")


def register(app: App, desk: Desk, wake: Callable[[], None]) -> None:
    @app.command(COMMAND)
    def finetune(ack: Ack, body: dict[str, Any], client: WebClient) -> None:
        person, channel = str(body["user_id"]), str(body["channel_id"])
        command = _understood(desk, str(body.get("text") or ""))
        modal = _modal(desk, command, channel)
        if modal:
            client.views_open(trigger_id=str(body["trigger_id"]), view=modal)
            ack()
            return
        answer = answer_to(desk, command, person, channel)
        ack(response_type="ephemeral", **answer.body()) if answer else ack()
        wake()


def _understood(desk: Desk, text: str) -> parsing.Command | parsing.Answer:
    """A form with nothing to choose from would be a dead end, so it is a sentence instead."""
    command = parsing.parse(text)
    if isinstance(command, parsing.AskEstimate) and not plans.choices(desk).datasets:
        return parsing.Answer("There is no dataset to estimate yet: `/finetune upload` makes the first one.")
    return command


def answer_to(
    desk: Desk, command: parsing.Command | parsing.Answer, person: str, channel: str
) -> Message | None:
    """What the person reads; None where the channel's own message says it."""
    match command:
        case parsing.Answer(text):
            return general.sentence(text)
        case parsing.Help():
            return general.help_text()
        case parsing.Datasets():
            return dataset_views.listing(datasets.listing(desk))
        case parsing.Estimate():
            return _said(plans.estimate(desk, command), plans.estimate_card)
        case parsing.Start():
            return _said(plans.start(desk, command, person, channel), lambda _run: None)
        case parsing.Status(None):
            return runs.listing(run_work.open_runs(desk))
        case parsing.Status(number) | parsing.Results(number):
            return _said(run_work.look(desk, number or 0), runs.look)
        case parsing.Runs():
            return runs.listing(run_work.latest(desk))
        case parsing.Cancel(number):
            return _said(run_work.ask_cancel(desk, number, person), general.sentence)
        case parsing.Try():
            return _said(model_work.ask(desk, command, person, channel), models.thinking)
        case parsing.Upload() | parsing.AskEstimate():
            return None
        case _:
            assert_never(command)


def _modal(desk: Desk, command: parsing.Command | parsing.Answer, channel: str) -> dict[str, Any] | None:
    match command:
        case parsing.Upload():
            return dataset_views.upload_modal(channel)
        case parsing.AskEstimate():
            return estimate_views.form(channel, plans.choices(desk))
        case _:
            return None


def _said(result: _Value | Refusal, view: Callable[[_Value], Message | None]) -> Message | None:
    return general.refusal(result) if isinstance(result, Refusal) else view(result)
