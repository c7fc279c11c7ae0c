"""Faults without kills: lost creates and uploads, and a Slack that closes a channel, a token or the way in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.services.common.provider_jobs import SETTLE_S
from demo.people import ANA
from demo.slack_emulator import refused, too_many
from tests.bot.world import JOBS, PRIVATE, PUBLIC, Rules, World, words_of
from tests.chaos.stormy_peers import DONE_BUT_UNANSWERED, NOT_DONE
from tests.peers.hosted import COMMIT_THEN_HANG, HANG, Fault

MakeWorld = Callable[[Rules], World]
CREATE = f"POST {JOBS}"


@pytest.mark.deep
@pytest.mark.parametrize(
    ("fault", "lag_s"),
    list(zip(NOT_DONE, (0.0, 0.4, 0.0, 0.4, 0.4), strict=True)),
    ids=[f"{fault.then} {fault.status}" for fault in NOT_DONE],
)
def test_two_faults_in_a_row_make_one_job(make_world: MakeWorld, fault: Fault, lag_s: float) -> None:
    """The first create is not carried out; the second one is, but isn't answered."""
    world = make_world(Rules(trainer_timeout_s=0.2))
    world.provider.service.list_lag_s = lag_s
    for each in (fault, DONE_BUT_UNANSWERED[0]):
        world.provider.fail(CREATE, each)
    world.start_approved()
    world.tick(2)
    world.pass_time(SETTLE_S)
    world.tick_until(lambda: world.run().job_id, "the job")
    world.pass_time(SETTLE_S)
    world.tick(3)
    assert world.jobs() == 1 and world.provider.count(CREATE) == 2


@pytest.mark.parametrize("fault", [HANG, COMMIT_THEN_HANG], ids=["nothing done", "done"])
def test_an_upload_that_hangs_is_looked_for_before_it_is_sent_again(
    make_world: MakeWorld, fault: Fault
) -> None:
    world = make_world(Rules(trainer_timeout_s=0.2))
    world.provider.fail("POST /files", fault)
    world.start_approved()
    world.tick_until_state("training")
    assert world.jobs() == 1 and len(world.files_at_provider()) == 1


def count_results(world: World, channel: str) -> int:
    return sum("Result of run" in words_of(message) for message in world.slack.messages(channel))


@pytest.mark.deep
def test_the_result_for_a_private_channel_archived_during_training_waits_for_it(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(fallback=PUBLIC.id))
    world.start_approved()
    world.tick_until_state("training")
    world.slack.archive(PRIVATE.id)
    world.tick_until_state("done")
    world.send()
    assert not [text for text in world.texts(PUBLIC) if "tickets" in text] and world.files(PUBLIC) == []
    world.slack.unarchive(PRIVATE.id)
    world.pass_time(300)
    world.tick_until(lambda: count_results(world, PRIVATE.id), "the result")
    assert count_results(world, PRIVATE.id) == 1


def test_a_token_revoked_at_the_end_of_a_run_delays_its_result(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.slack.fail("chat.postMessage", refused("token_revoked"), times=None)
    world.slack.fail("chat.update", refused("token_revoked"), times=None)
    world.tick_until(lambda: world.run().state == "done", "the run to be done")
    assert count_results(world, PRIVATE.id) == 0
    world.slack.clear_faults()
    world.pass_time(61)
    world.tick_until(lambda: count_results(world, PRIVATE.id), "the result")
    assert count_results(world, PRIVATE.id) == 1 and world.jobs() == 1


def test_messages_that_meet_a_rate_limit_are_posted_once(world: World) -> None:
    world.start()
    world.slack.fail("chat.postMessage", too_many(1), times=6)
    world.approve()
    world.tick_until_state("done")
    for _ in range(10):
        world.pass_time(2)
        world.send()
    assert count_results(world, PRIVATE.id) == 1 and world.store.outbox.waiting() == 0
    assert any("done" in text or "held-out" in text for text in world.texts())
    assert world.dms(ANA)
