"""The one error handler of the Slack layer. It also stores what Slack delivers, and drops what is delivered twice."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any

from slack_bolt import Ack, App, BoltRequest, BoltResponse, Respond
from slack_sdk.errors import SlackApiError

from bot import logs
from bot.cards import general
from bot.context import AppContext
from bot.slack.inbox import DELIVERY, REFERENCE, tell, typed_command

TOO_LATE = frozenset({"expired_trigger_id", "trigger_expired"})

log = logging.getLogger(__name__)


def register(app: App, context: AppContext) -> None:
    @app.middleware
    def once(req: BoltRequest, next: Callable[[], BoltResponse]) -> BoltResponse:
        """Stores a delivery before it is acked. Slack delivers again what it believes lost; the second one is acked and
        does nothing."""
        delivery = delivery_id(req.body)
        req.context[REFERENCE] = logs.begin()
        if delivery is None:
            return next()
        if not context.store.inbox.receive(delivery, req.body, now=context.clock()):
            return BoltResponse(status=200, body="")
        req.context[DELIVERY] = delivery
        return next()

    @app.error
    def say_sorry(error: Exception, ack: Ack, body: dict[str, Any], respond: Respond) -> BoltResponse:
        """Gives the person a sentence and a reference, and the log the traceback."""
        if isinstance(error, SlackApiError) and error.response.get("error") in TOO_LATE:
            log.warning("a form was opened later than Slack takes it: %s", delivery_id(body))
            tell(context, f"late {delivery_id(body)}", body, general.too_late_notice(typed_command(body)))
            return ack()
        log.error("a listener failed", exc_info=error)
        sentence = (
            "Something in the bot went wrong, and nothing was changed. The bot's operator finds the cause with "
            f"`finetune log`. {logs.sorry()}"
        )
        if body.get("type") == "view_submission" and ack.response is None:
            return ack(response_action="errors", errors={_first_input(body): sentence})
        if body.get("type") == "block_actions":  # of which Slack shows no text in an ack
            if body.get("response_url"):
                respond(text=sentence, response_type="ephemeral", replace_original=False)
            return ack()
        if ack.response is not None:  # it was acked before it failed, and a second ack says nothing
            tell(context, f"failed {delivery_id(body)}", body, general.text_message(sentence))
            return ack.response
        return ack(text=sentence, response_type="ephemeral")


def delivery_id(body: dict[str, Any]) -> str | None:
    """Returns an id that only a delivery and its repetition share, None if there is none."""
    if event_id := body.get("event_id"):
        return f"event {event_id}"
    if trigger := body.get("trigger_id"):
        return "trigger " + hashlib.sha256(str(trigger).encode()).hexdigest()
    return None


def _first_input(body: dict[str, Any]) -> str:
    """Returns the block below which a form shows an error. The form itself may be the fault, so nothing about it is
    assumed."""
    view = body.get("view")
    blocks = view.get("blocks") if isinstance(view, dict) else None
    inputs = [block for block in blocks or [] if isinstance(block, dict) and block.get("type") == "input"]
    return str(inputs[0].get("block_id", "note")) if inputs else "note"
