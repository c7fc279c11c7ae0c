"""Somebody puts the machine's clock forward or back: no second job is made, and nothing stands still."""

from __future__ import annotations

import pytest

from bot.services.provider_jobs import MAX_CREATES, SETTLE_S
from demo.people import ANA, BEN
from tests.bot.test_story_interventions import decide, in_doubt
from tests.bot.world import CLEO, JOBS, World, words_of
from tests.peers.hosted import BUSY, COMMIT_THEN_500, NOTHING_BUT_500

HOUR = 3600.0
CREATE, CHAT = f"POST {JOBS}", "POST /chat/completions"


def test_a_clock_put_forward_while_a_create_is_in_doubt_makes_no_second_job(world: World) -> None:
    world.provider.service.list_lag_s = 3600.0
    world.provider.fail(CREATE, COMMIT_THEN_500)
    world.start_approved()
    world.tick()
    assert (world.run().state, world.jobs()) == ("creating", 1)
    world.clock_error_s = SETTLE_S + 60
    world.tick(5)
    assert (world.run().state, world.jobs()) == ("creating", 1)
    world.provider.service.list_lag_s = 0.0
    world.pass_time(60)
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_nor_does_one_put_forward_where_two_people_let_it_be_tried_again(world: World) -> None:
    in_doubt(world)
    creates = world.provider.count(CREATE)
    decide(world, BEN, "doubt_retry")
    decide(world, CLEO, "doubt_retry")
    world.clock_error_s = SETTLE_S + 60
    world.tick(5)
    assert world.provider.count(CREATE) == creates == MAX_CREATES


@pytest.mark.parametrize("back", [HOUR, 6 * HOUR])
def test_a_clock_put_back_while_a_create_is_in_doubt_holds_nothing_up(world: World, back: float) -> None:
    world.provider.fail(CREATE, NOTHING_BUT_500)
    world.start_approved()
    world.tick()
    assert world.run().state == "creating"
    world.clock_error_s = -back
    world.pass_time(SETTLE_S)
    world.tick_until_state("done")
    assert world.jobs() == 1 and world.find_message("Result of run 1")


def test_a_clock_put_back_while_a_provider_is_busy_holds_up_no_question(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    world.provider.fail(CHAT, BUSY)
    asked = world.provider.count(CHAT)
    world.type("/finetune try tickets-1 where is my refund?")
    world.tick_until(lambda: world.provider.count(CHAT) > asked, "the first try")
    world.clock_error_s = -6 * HOUR
    assert "It answers" in world.tick_until_answered()
    assert "It answers" in words_of(world.slack.ephemerals(ANA.id)[-1])


def test_a_clock_put_back_lets_messages_go_on(world: World) -> None:
    world.start_approved()
    world.tick(3)
    world.clock_error_s = -6 * HOUR
    world.type("/finetune freeze the clock looks odd", user=BEN)
    world.send()
    assert world.find_message("Spending frozen by")
