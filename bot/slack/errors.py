"""The error handler of the Slack layer, and the middleware that stores each delivery and drops repeated ones."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any

from slack_bolt import Ack, App, BoltRequest, BoltResponse, Respond
from slack_sdk.errors import SlackApiError

from bot import logs
from bot.cards.common import general
from bot.context import AppContext, Stopped
from bot.slack.inbox import DELIVERY, REFERENCE, tell, typed_command
from bot.slack.users import is_unavailable

TOO_LATE = frozenset({"expired_trigger_id", "trigger_expired"})

log = logging.getLogger(__name__)


def register(app: App, context: AppContext) -> None:
    @app.middleware
    def once(req: BoltRequest, ack: Ack, next: Callable[[], BoltResponse]) -> BoltResponse:
        """Stores a delivery, then acks it, unless its ack says whether a form was accepted. What follows may have to
        ask Slack, or to compute, or to wait for a free thread, and nobody waits for that. Slack repeats deliveries that
        it believes lost; a repetition is acked and does nothing."""
        delivery = delivery_id(req.body)
        req.context[REFERENCE] = logs.begin()
        if delivery is None:
            return next()
        if not context.store.inbox.receive(delivery, req.body, now=context.clock()):
            return BoltResponse(status=200, body="")
        req.context[DELIVERY] = delivery
        if req.body.get("type") != "view_submission":
            ack()
        return next()

    @app.error
    def say_sorry(error: Exception, ack: Ack, body: dict[str, Any], respond: Respond) -> BoltResponse:
        """Gives the person a sentence and a reference, and the log the traceback."""
        if isinstance(error, Stopped):
            # The next process handles a delivery that was stored; one that was not, Slack repeats.
            return ack.response or BoltResponse(status=503, body="")
        if isinstance(error, SlackApiError) and error.response.get("error") in TOO_LATE:
            log.warning("a form was opened too late for Slack: %s", delivery_id(body))
            notice = general.too_late_notice(typed_command(body))
            tell(context, f"late {delivery_id(body)}", body, notice)
            return ack()
        sentence = _sorry(context, error)
        if body.get("type") == "view_submission" and ack.response is None:
            return ack(response_action="errors", errors={_first_input(body): sentence})
        if body.get("type") == "block_actions" or "command" in body:  # both were acked before they failed
            if body.get("response_url"):
                _respond(respond, sentence)
            return ack()
        if ack.response is not None:  # it failed after its ack, and a second ack has no effect
            tell(context, f"failed {delivery_id(body)}", body, general.text_message(sentence))
            return ack.response
        return ack(text=sentence, response_type="ephemeral")


def _sorry(context: AppContext, error: Exception) -> str:
    """Writes a failure to the log, and returns the sentence for the person."""
    unchanged = ", and nothing was changed"
    if context.store.inbox.has_effect_here:
        unchanged = ""
    if isinstance(error, SlackApiError) and is_unavailable(error):
        log.warning("Slack could not do what a listener asked for: %s", error)
        return f"Slack is having trouble{unchanged}. Try again in a minute."
    log.error("a listener failed", exc_info=error)
    return (
        f"Something in the bot went wrong{unchanged}. The bot's operator finds the cause with "
        f"`finetune log`. {logs.sorry()}"
    )


def _respond(respond: Respond, sentence: str) -> None:
    try:
        respond(text=sentence, response_type="ephemeral", replace_original=False)
    except (OSError, ValueError):  # an unreachable or malformed address must not prevent the ack
        log.warning("the answer to a failed request could not be sent", exc_info=True)


def delivery_id(body: dict[str, Any]) -> str | None:
    """Returns an id that a delivery shares only with its repetitions, None if it has none."""
    if event_id := body.get("event_id"):
        return f"event {event_id}"
    if trigger := body.get("trigger_id"):
        return "trigger " + hashlib.sha256(str(trigger).encode()).hexdigest()
    return None


def _first_input(body: dict[str, Any]) -> str:
    """Returns the block below which a form shows an error. Assumes nothing about the form, which may be the cause."""
    view = body.get("view")
    blocks = view.get("blocks") if isinstance(view, dict) else None
    for block in blocks or []:
        if isinstance(block, dict) and block.get("type") == "input":
            return str(block.get("block_id", "note"))
    return "note"
