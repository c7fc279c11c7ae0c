"""Connects Slack to the services: short Bolt listeners, look-ups of people, downloads, the error handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slack_bolt import App

    from bot.context import AppContext
    from bot.slack.homes import Homes


def register(app: App, context: AppContext, homes: Homes, wake: Callable[[], None]) -> None:
    """Attaches every listener. `wake` makes the next tick run now."""
    # Imported here, as the terminal looks up names with this package, and may have no Bolt.
    from bot.slack import actions, commands, errors, events, inbox, modals

    errors.register(app, context)
    inbox.register(app, context)
    commands.register(app, context, wake)
    actions.register(app, context, homes, wake)
    modals.register(app, context, homes, wake)
    events.register(app, context, homes, wake)
    events.forget_changes(app, context)


PUBLIC_MODULES = (
    "ack_gate",
    "api",
    "commands",
    "files",
    "homes",
    "http",
    "inbox",
    "limits",
    "question_answers",
    "recent_answers",
    "users",
)
