"""From the card of a plan that was replaced to the card of the one that took its place."""

from __future__ import annotations

from bot.views.replacing import replaced
from bot.workflows import money, replacing
from bot.workflows.desk import Desk

LOOK_FOR_CARDS_S = 3600.0


def link(desk: Desk) -> None:
    """The new card has an address once it is posted; for an hour it is asked for."""
    now = desk.clock()
    for one in desk.store.replacements.unlinked(now - LOOK_FOR_CARDS_S):
        where, new = desk.directory.permalink(one.channel, one.ts), desk.store.runs.get(one.by_run_id)
        if where is None or new is None:
            continue
        with desk.store.transaction():
            if desk.store.replacements.linked(one.run_id, now=now):
                said = replaced(new.id, new.requester, where)
                replacing.show(desk, one.run_id, said, money.team(desk))
