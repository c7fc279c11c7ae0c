"""Every delivery from Slack is answered without a traceback and changes nothing that it may not change."""

from __future__ import annotations

import pytest

from tests.bot.world import World
from tests.fuzz.complaints import count_complaints
from tests.fuzz.deliveries import complaint_about, deliveries, digest_of, failing_click

EXAMPLES = 100


@pytest.mark.deep
def test_no_delivery_breaks_the_bot_or_changes_anything(world: World) -> None:
    world.start()
    assert not count_complaints(deliveries(), lambda sent: complaint_about(world, sent), EXAMPLES)


def test_the_digest_changes_with_the_team_s_data(world: World) -> None:
    before = digest_of(world)
    world.start()
    assert digest_of(world) != before


def test_a_click_that_fails_is_acked_even_if_its_response_url_is_unusable(world: World) -> None:
    world.start()
    assert complaint_about(world, failing_click(response_url="nowhere")) is None
