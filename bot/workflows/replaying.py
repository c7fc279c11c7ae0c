"""Tells a person what became of a delivery that was cut off: to them alone, once."""

from __future__ import annotations

from bot.views.blocks import Message
from bot.workflows.desk import Desk
from storage.records import Draft


def tell(desk: Desk, delivery: str, person: str, channel: str, message: Message) -> None:
    """`channel` '': where it came from is not known, so it goes to them directly."""
    draft = Draft(
        kind="ephemeral" if channel else "direct",
        channel=channel,
        person=person,
        body=message.body(),
        dedupe=f"cut off: {delivery}",
    )
    desk.store.outbox.put(draft, now=desk.clock())
