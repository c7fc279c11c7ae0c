"""Bad weather on its own, without kills: every create meets it, and Slack closes what it can close."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.services.provider_jobs import SETTLE_S
from demo.people import ANA
from demo.slack_emulator import refused, too_many
from tests.bot.world import JOBS, PRIVATE, PUBLIC, Rules, World, words_of
from tests.chaos.peers import DONE_AND_NOT_SAID, NOT_DONE
from tests.peers.hosted import COMMIT_THEN_HANG, HANG, Fault

MakeWorld = Callable[[Rules], World]
CREATE = f"POST {JOBS}"


@pytest.mark.parametrize("lag_s", [0.0, 0.4], ids=["a list at once", "a list that lags"])
@pytest.mark.parametrize("second", NOT_DONE, ids=lambda fault: f"{fault.then} {fault.status}")
def test_two_faults_in_a_row_make_one_job(make_world: MakeWorld, second: Fault, lag_s: float) -> None:
    """The first create never arrived, the next one meets `second` and then one that is done and not said."""
    world = make_world(Rules(trainer_timeout_s=0.2))
    world.provider.service.list_lag_s = lag_s
    for fault in (second, DONE_AND_NOT_SAID[0]):
        world.provider.fail(CREATE, fault)
    world.start_approved()
    world.tick(2)
    world.pass_time(SETTLE_S)
    world.tick_until(lambda: world.run().job_id, "the job")
    world.pass_time(SETTLE_S)
    world.tick(3)
    assert world.jobs() == 1 and world.provider.count(CREATE) == 2


@pytest.mark.parametrize("fault", [HANG, COMMIT_THEN_HANG], ids=["nothing done", "done"])
def test_an_upload_that_hangs_is_looked_for_before_it_is_sent_again(
    make_world: MakeWorld,
    fault: Fault,
) -> None:
    world = make_world(Rules(trainer_timeout_s=0.2))
    world.provider.fail("POST /files", fault)
    world.start_approved()
    world.tick_until_state("training")
    assert world.jobs() == 1 and len(world.files_at_provider()) == 1


def _result(world: World, place: str) -> int:
    return sum("Result of run" in words_of(one) for one in world.slack.messages(place))


def test_a_channel_archived_while_a_run_trains_has_its_result_in_the_fallback(make_world: MakeWorld) -> None:
    world = make_world(Rules(fallback=PUBLIC.id))
    world.start_approved()
    world.tick_until_state("training")
    world.slack.archive(PRIVATE.id)
    world.tick_until_state("done")
    world.send()
    assert _result(world, PUBLIC.id) == 1


def test_a_token_revoked_over_the_end_of_a_run_delays_its_result(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.slack.fail("chat.postMessage", refused("token_revoked"), times=None)
    world.slack.fail("chat.update", refused("token_revoked"), times=None)
    world.tick_until(lambda: world.run().state == "done", "the run to be done")
    assert _result(world, PRIVATE.id) == 0 and world.service.notices.locked_out == "token_revoked"
    world.slack.clear_faults()
    world.pass_time(61)
    world.tick_until(lambda: _result(world, PRIVATE.id), "the result")
    assert _result(world, PRIVATE.id) == 1 and world.jobs() == 1


def test_a_slack_that_limits_every_message_once_posts_each_once(world: World) -> None:
    world.start()
    world.slack.fail("chat.postMessage", too_many(1), times=6)
    world.approve()
    world.tick_until_state("done")
    for _ in range(10):
        world.pass_time(2)
        world.send()
    assert _result(world, PRIVATE.id) == 1 and world.store.outbox.waiting() == 0
    assert any("done" in text or "held-out" in text for text in world.texts())
    assert world.dms(ANA)
