"""Each person's App Home: drawn when they open it or press something there, and redrawn while they may be looking at it
and something has changed. Each draw replaces the whole page, so a lost one does no harm."""

from __future__ import annotations

import logging

from slack_sdk import WebClient

from bot.cards import home
from bot.context import AppContext
from bot.services import overview
from bot.slack.users import NO_ANSWER
from bot.values.runs import Refusal

# How long after opening it a person may be looking: Slack doesn't tell when they leave. Opening it again redraws it.
LOOKED_AT_S = 12 * 3600.0
# How long a redraw waits after a change, so that it includes changes that follow, and the linked card is posted.
SETTLE_S = 3.0
# Between two redraws: each reads whatever a list reads, and many people may have their Homes open.
PAUSE_S = 5.0
AFTER_TROUBLE_S = 60.0

log = logging.getLogger(__name__)


class Homes:
    def __init__(self, context: AppContext, slack: WebClient) -> None:
        self._context = context
        self._slack = slack
        self._drawn: dict[str, int] = {}  # by person, the newest audit entry when their Home was drawn
        self._is_settling = False
        self._next_at = 0.0

    def open(self, person: str) -> None:
        now = self._context.clock()
        self._context.store.outbox.record_home(person, now=now)
        self.draw(person)

    def draw(self, person: str) -> None:
        """Draws the Home now, for a person who is waiting for it. If Slack refuses, it is redrawn later."""
        # Read before the Home is gathered: what happens meanwhile is then newer, and brings another draw.
        self._drawn[person] = self._context.store.audit.newest()
        view = overview.home(self._context, person)
        if not self._publish(person, view):
            self._drawn.pop(person, None)

    def next_outdated(self) -> str | None:
        """Returns the person whose Home should be redrawn now: the one whose Home is the longest out of date. Every
        change to a Home has an entry in the audit log."""
        now = self._context.clock()
        newest = self._context.store.audit.newest()
        viewers = self._context.store.outbox.homes(now - LOOKED_AT_S)
        outdated = [person for person in viewers if self._drawn.get(person, -1) < newest]
        if outdated and not self._is_settling:
            self._next_at = max(self._next_at, now + SETTLE_S)
        self._is_settling = bool(outdated)
        if not outdated or now < self._next_at:
            return None
        return min(outdated, key=lambda person: self._drawn.get(person, -1))

    def redraw(self, person: str) -> None:
        self._next_at = self._context.clock() + PAUSE_S
        self._drawn[person] = self._context.store.audit.newest()
        view = overview.home(self._context, person)
        if isinstance(view, Refusal):  # perhaps only because Slack's look-up failed, so the old Home stays
            return
        self._publish(person, view)

    def _publish(self, person: str, view: home.HomeOverview | Refusal) -> bool:
        """Publishes the Home. Returns False if Slack didn't accept it."""
        try:
            self._slack.views_publish(user_id=person, view=home.page(view))
        except NO_ANSWER as trouble:
            log.info("drawing an App Home: %s", trouble)
            self._next_at = self._context.clock() + AFTER_TROUBLE_S
            return False
        return True
