"""Buttons and form of a run that needs a person: rights are asked at the click, and again when the form comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slack_bolt import Ack, App, Respond
from slack_sdk import WebClient

from bot.results import Refusal
from bot.views import doubts as views
from bot.views import general
from bot.workflows import doubts
from bot.workflows.desk import Desk


def register(app: App, desk: Desk, wake: Callable[[], None]) -> None:
    for action in views.BUTTONS:
        app.action(action)(_opener(desk, action))

    @app.view(views.FORM)
    def decide(ack: Ack, body: dict[str, Any]) -> None:
        choice, number = views.about(str(body["view"]["private_metadata"]))
        values = body["view"]["state"]["values"]
        said = {name: next(iter(block.values())).get("value") for name, block in values.items()}
        result = doubts.decide(
            desk,
            number,
            choice,
            str(body["user"]["id"]),
            said.get("reason") or "",
            said.get("job"),
        )
        if isinstance(result, Refusal):
            ack(response_action="errors", errors={result.about or "reason": result.text})
            return
        ack()
        wake()


def _opener(desk: Desk, action: str) -> Callable[..., None]:
    def open_form(ack: Ack, body: dict[str, Any], respond: Respond, client: WebClient) -> None:
        result = doubts.may_decide(desk, int(body["actions"][0]["value"]), str(body["user"]["id"]))
        if isinstance(result, Refusal):
            ack()
            respond(**general.refusal(result).body(), response_type="ephemeral", replace_original=False)
            return
        client.views_open(trigger_id=str(body["trigger_id"]), view=views.form(views.BUTTONS[action], result))
        ack()

    return open_form
