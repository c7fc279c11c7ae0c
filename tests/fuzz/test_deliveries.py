"""Whatever comes in from Slack's side is answered, without a traceback, and changes nothing that it may not."""

from __future__ import annotations

from tests.bot.world import World
from tests.fuzz.complaints import count_complaints
from tests.fuzz.deliveries import complaint, deliveries, remembered

EXAMPLES = 120


def test_no_payload_breaks_the_bot_or_changes_anything(world: World) -> None:
    world.start()
    assert not count_complaints(deliveries(), lambda sent: complaint(world, sent), EXAMPLES)


def test_the_search_for_changes_sees_one(world: World) -> None:
    before = remembered(world)
    world.start()
    assert remembered(world) != before
