"""A message that can't be delivered delays no other, and somebody is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from demo.people import ANA
from demo.slack_emulator import refused
from tests.bot.world import PRIVATE, START, Rules, World

MakeWorld = Callable[[Rules], World]


def minutes(world: World, count: int) -> None:
    for _ in range(count * 20):
        world.tick()


def run_and_ask_again(world: World) -> None:
    """Play a run from its request to its result, and request another one."""
    world.start_approved()
    world.tick_until_state("done")
    minutes(world, 1)
    assert world.find_message("Result of run 1")
    world.start(START + " epochs=2")
    assert world.find_button("approve_plan")


@pytest.mark.deep
def test_without_two_scopes_results_and_approval_cards_appear_and_each_scope_is_named_once(
    world: World,
) -> None:
    world.slack.revoke("im:write")
    world.restart()
    assert world.service.notices.missing_scopes == {"im:write"}, "known from the start"
    world.slack.revoke("files:write")
    run_and_ask_again(world)
    world.tick_until(lambda: any("`files:write`" in text for text in world.texts()), "the scope's name")
    minutes(world, 1)
    for scope in ("im:write", "files:write"):
        assert len([text for text in world.texts() if f"`{scope}`" in text]) == 1
    assert world.files() == [] and world.jobs() == 1
    world.slack.grant("files:write")
    minutes(world, 6)
    assert world.files() != [], "the plots follow"


@pytest.mark.deep
@pytest.mark.parametrize("code", ["internal_error", "msg_too_long"])
def test_a_run_card_that_slack_always_refuses_delays_no_other_message(world: World, code: str) -> None:
    world.start()
    world.slack.fail("chat.update", refused(code), times=None, text='"text": "Run 1 ')
    world.approve()
    world.tick_until_state("done")
    world.tick_until_file("report-run-1.html")
    minutes(world, 1)
    assert world.find_message("Result of run 1") and len(world.files()) == 3
    given_up = [text for text in world.dms(ANA) if code in text and f"<#{PRIVATE.id}>" in text]
    assert len(given_up) == (code == "msg_too_long")
    world.start(START + " epochs=2")
    assert world.find_button("approve_plan")
