"""The machine's clock is set forward or back: no second job is created, and nothing stops."""

from __future__ import annotations

from bot.services.common.provider_jobs import MAX_CREATES, SETTLE_S
from demo.people import BEN
from tests.bot.training.test_story_interventions import decide, make_uncertain
from tests.bot.world import CLEO, JOBS, World
from tests.peers.hosted import BUSY, COMMIT_THEN_500, NOTHING_BUT_500

HOUR = 3600.0
CREATE, CHAT = f"POST {JOBS}", "POST /chat/completions"


def test_a_clock_set_forward_during_an_uncertain_create_makes_no_second_job(world: World) -> None:
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


def test_a_clock_set_forward_after_two_approvals_to_try_again_creates_nothing_early(world: World) -> None:
    make_uncertain(world)
    creates = world.provider.count(CREATE)
    decide(world, BEN, "doubt_retry")
    decide(world, CLEO, "doubt_retry")
    world.clock_error_s = SETTLE_S + 60
    world.tick(5)
    assert world.provider.count(CREATE) == creates == MAX_CREATES


def test_a_clock_set_back_during_an_uncertain_create_delays_nothing(world: World) -> None:
    world.provider.fail(CREATE, NOTHING_BUT_500)
    world.start_approved()
    world.tick()
    assert world.run().state == "creating"
    world.clock_error_s = -6 * HOUR
    world.pass_time(SETTLE_S)
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_a_clock_set_back_delays_neither_a_question_to_a_busy_provider_nor_messages(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    world.provider.fail(CHAT, BUSY)
    chats = world.provider.count(CHAT)
    world.type("/finetune try tickets-1 where is my refund?")
    world.tick_until(lambda: world.provider.count(CHAT) > chats, "the first try")
    world.clock_error_s = -6 * HOUR
    assert "It answers" in world.tick_until_answered()
    world.type("/finetune freeze the clock looks odd", user=BEN)
    world.send()
    assert world.find_message("Spending frozen by")
