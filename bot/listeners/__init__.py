"""Where Slack meets the workflows: ten-line Bolt adapters, look-ups of people, downloads, the error boundary."""

from __future__ import annotations

from collections.abc import Callable

from slack_bolt import App

from bot.listeners import actions, boundary, commands, doubts, events, modals, replay
from bot.workflows.desk import Desk


def register(app: App, desk: Desk, wake: Callable[[], None]) -> None:
    """Attach every listener. `wake` makes the next tick come now."""
    boundary.register(app, desk)
    replay.register(app, desk)
    commands.register(app, desk, wake)
    actions.register(app, desk, wake)
    modals.register(app, desk, wake)
    doubts.register(app, desk, wake)
    events.register(app, desk, wake)
