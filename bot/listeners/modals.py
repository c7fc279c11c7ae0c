"""Forms: what was put in is checked at once, and recorded before the form closes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from slack_bolt import Ack, App

from bot import parsing
from bot.results import Refusal
from bot.views import datasets as dataset_views
from bot.views import estimates as estimate_views
from bot.views import plans as plan_views
from bot.workflows import datasets, plans
from bot.workflows.datasets import Upload
from bot.workflows.desk import Desk


def register(app: App, desk: Desk, wake: Callable[[], None]) -> None:
    @app.view(dataset_views.UPLOAD)
    def upload(ack: Ack, body: dict[str, Any]) -> None:
        result = datasets.receive(desk, _upload(body))
        if isinstance(result, Refusal):
            ack(response_action="errors", errors={"name": result.text})
            return
        ack()
        wake()

    @app.view(estimate_views.ESTIMATE)
    def estimate(ack: Ack, body: dict[str, Any]) -> None:
        typed = estimate_views.typed(_values(body))
        command = parsing.parse(typed)
        if not isinstance(command, parsing.Estimate):
            ack(response_action="errors", errors={"volume": _why(command)})
            return
        result = plans.estimate(desk, command)
        if isinstance(result, Refusal):
            ack(response_action="errors", errors={"target": result.text})
            return
        plans.post_estimate(desk, result, _metadata(body)[0], _person(body))
        ack()
        wake()

    @app.view(plan_views.REJECT_FORM)
    def reject(ack: Ack, body: dict[str, Any]) -> None:
        result = plans.reject(desk, _metadata(body)[0], _person(body), _values(body).get("reason") or "")
        if isinstance(result, Refusal):
            ack(response_action="errors", errors={"reason": result.text})
            return
        ack()
        wake()


def _upload(body: dict[str, Any]) -> Upload:
    values = _values(body)
    channel, known_file, known_name = (*str(body["view"]["private_metadata"]).split(" ", 2), "", "")[:3]
    files = body["view"]["state"]["values"].get("file", {}).get("value", {}).get("files") or [{}]
    return Upload(
        name=values.get("name") or "",
        channel=values.get("channel") or channel,
        person=_person(body),
        file_id=known_file or str(files[0].get("id", "")),
        filename=known_name or str(files[0].get("name") or "upload"),
        text_column=values.get("text"),
        label_column=values.get("label"),
    )


def _values(body: dict[str, Any]) -> Mapping[str, str | None]:
    """What was put in, by block: text, the value of an option, or the id of a conversation."""
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


def _why(command: parsing.Command | parsing.Answer) -> str:
    return (
        command.text if isinstance(command, parsing.Answer) else "Say which dataset, and the volume like 10M."
    )
