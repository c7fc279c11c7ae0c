"""The App Home of each person: drawn when they open it and when they press something there, and drawn again while they
may be looking at it and something has changed. It is overwritten as a whole, so a redraw that is lost does no harm."""

from __future__ import annotations

import logging

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError

from bot.cards import home
from bot.context import AppContext
from bot.services import overview
from bot.values.runs import Refusal

# Slack doesn't tell who still has it on the screen, and opening it again draws it anyway.
LOOKED_AT_S = 12 * 3600.0
# After a change, so that what follows at once comes along, and the card that is linked to is posted.
SETTLE_S = 3.0
# Between two redraws: each asks Slack about the channels of all datasets, of which it answers fifty a minute.
PAUSE_S, AFTER_TROUBLE_S = 5.0, 60.0

log = logging.getLogger(__name__)


class Homes:
    def __init__(self, context: AppContext, slack: WebClient) -> None:
        self._context, self._slack = context, slack
        self._drawn: dict[str, int] = {}  # by person, the newest audit entry that it shows
        self._is_settling, self._next_at = False, 0.0

    def open(self, person: str) -> None:
        self._context.store.outbox.opened_home(person, now=self._context.clock())
        self.draw(person)

    def draw(self, person: str) -> None:
        """Draws it as it is now, for a person who waits for that. What they did there is done, whatever Slack answers
        now: then it is drawn again by itself."""
        self._drawn[person] = self._context.store.audit.newest()
        if not self._publish(person, overview.home(self._context, person)):
            self._drawn.pop(person, None)

    def next_outdated(self) -> str | None:
        """Returns whose Home is to be drawn again now, the one that is longest out of date. All that a Home shows is in
        the audit log when it changes."""
        now, newest = self._context.clock(), self._context.store.audit.newest()
        viewers = self._context.store.outbox.homes(now - LOOKED_AT_S)
        next_outdated = [person for person in viewers if self._drawn.get(person, -1) < newest]
        if next_outdated and not self._is_settling:
            self._next_at = max(self._next_at, now + SETTLE_S)
        self._is_settling = bool(next_outdated)
        if not next_outdated or now < self._next_at:
            return None
        return min(next_outdated, key=lambda person: self._drawn.get(person, -1))

    def redraw(self, person: str) -> None:
        self._next_at = self._context.clock() + PAUSE_S
        self._drawn[person] = self._context.store.audit.newest()
        view = overview.home(self._context, person)
        if isinstance(view, Refusal):  # also where Slack gave no answer about them: what they see stays
            return
        self._publish(person, view)

    def _publish(self, person: str, view: home.HomeOverview | Refusal) -> bool:
        """Returns whether Slack took it."""
        try:
            self._slack.views_publish(user_id=person, view=home.page(view))
        except (SlackApiError, SlackClientError, OSError) as trouble:
            log.info("drawing an App Home: %s", trouble)
            self._next_at = self._context.clock() + AFTER_TROUBLE_S
            return False
        return True
