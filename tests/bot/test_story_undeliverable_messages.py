"""What can't be delivered holds up nothing else, and somebody hears of it."""

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


def whole_run_and_the_next_card(world: World) -> None:
    """A run from its request to its result, and another one that asks for approval."""
    world.start_approved()
    world.tick_until_state("done")
    minutes(world, 1)
    assert world.find_message("Result of run 1")
    world.start(START + " epochs=2")
    assert world.find_button("approve_plan")


def test_without_im_write_results_and_approval_cards_appear_and_the_scope_is_named(world: World) -> None:
    world.slack.revoke("im:write")
    world.restart()
    assert world.service.notices.missing_scopes == {"im:write"}, "known from the start"
    whole_run_and_the_next_card(world)
    assert len([text for text in world.texts() if "`im:write`" in text]) == 1
    assert world.jobs() == 1


def test_without_files_write_results_and_approval_cards_appear_and_plots_follow_once_it_is_given(
    world: World,
) -> None:
    world.slack.revoke("files:write")
    whole_run_and_the_next_card(world)
    world.tick_until(lambda: any("`files:write`" in text for text in world.texts()), "the scope's name")
    minutes(world, 1)
    assert len([text for text in world.texts() if "`files:write`" in text]) == 1
    assert world.files() == []
    world.slack.grant("files:write")
    minutes(world, 6)
    assert world.files() != []


@pytest.mark.parametrize("code", ["internal_error", "msg_too_long"])
def test_a_progress_card_that_slack_always_refuses_mutes_nothing(world: World, code: str) -> None:
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
