"""The bot stops at each state and another one goes on with the same data: every story ends, and ends once."""

from __future__ import annotations

import pytest

from bot.app import Service
from bot.reconciler import reconcile
from bot.rules.plans import plan_from_json
from bot.services.provider_jobs import SETTLE_S
from demo.people import ANA
from demo.workspace import wait_until
from storage.database import DatabaseInUse
from storage.records import RunState
from tests.bot.props import tickets_csv
from tests.bot.world import JOBS, START, World
from tests.peers.hosted import COMMIT_THEN_500, NOTHING_BUT_500


def _only_one_end(world: World) -> None:
    world.tick_until_file("loss.png")
    world.tick(5)
    everything = world.texts()
    assert world.jobs() == 1 and world.provider.count(f"POST {JOBS}") == 1
    assert len([text for text in everything if "Result of run" in text]) == 1
    assert len([text for text in everything if "loss.png" in text]) == 1
    assert len([text for text in everything if "rows got better" in text]) == 1
    assert len(world.store.models()) == 1
    assert set(world.ledger()) == {"reserve", "settle"}


@pytest.mark.parametrize(
    ("state", "sent"),
    [
        ("awaiting_approval", True),
        ("approved", False),
        ("training", True),
        ("evaluating", False),
        ("done", False),
    ],
)
def test_a_stop_in_any_state_ends_the_story_once(world: World, state: RunState, sent: bool) -> None:
    """`sent`: whether the outbox was emptied before the stop."""
    world.start()
    if state != "awaiting_approval":
        world.approve()
        _without_sending(world, state)
    if sent:
        world.send()
    world.restart()
    world.send()
    if state == "awaiting_approval":
        world.approve()
    world.tick_until_state("done")
    _only_one_end(world)


def _without_sending(world: World, state: RunState) -> None:
    """Ticks without the outbox."""

    def step() -> bool:
        if world.run().state != state:
            reconcile(world.service.context)
            world.pass_time(3)
        return world.run().state == state

    wait_until(step, state, seconds=20)


def test_a_stop_at_every_tick_ends_the_story_once(world: World) -> None:
    world.start_approved()
    for _ in range(8):
        world.restart()
        world.tick()
    world.tick_until_state("done")
    _only_one_end(world)


@pytest.mark.parametrize("commits", [True, False])
def test_a_stop_while_a_create_is_in_doubt_makes_no_second_job(world: World, commits: bool) -> None:
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500 if commits else NOTHING_BUT_500)
    world.start_approved()
    world.tick()
    assert world.run().state == "creating"
    world.restart()
    world.tick(5)
    if not commits:
        assert world.run().state == "creating" and world.jobs() == 0
        world.pass_time(SETTLE_S)
    world.tick_until(lambda: world.run().job_id, "the job")
    world.tick(3)
    assert world.jobs() == 1


def test_a_stop_between_the_upload_and_the_create_sends_the_file_once(world: World) -> None:
    run = world.start_approved()
    sha256 = plan_from_json(run.plan).train_sha256
    file = world.service.settings.files / f"{sha256}.jsonl"
    world.service.context.trainers["acme"].upload(file, sha256)  # and stopped before it was written down
    world.restart()
    world.tick_until_state("training")
    assert len(world.files_at_provider()) == 1 and world.provider.count("POST /files") == 1


@pytest.mark.parametrize("ticks", [0, 1, 2])
def test_a_stop_while_a_file_is_checked_ends_in_one_card(world: World, ticks: int) -> None:
    world.upload("tickets.csv", tickets_csv())
    world.tick(ticks)
    world.restart()
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    assert len(world.cards()) == 1 and "is ready" in world.cards()[0]
    assert len(world.files()) == len(set(world.files()))


def test_a_question_to_a_model_survives_a_stop(world: World) -> None:
    world.start_approved()
    world.tick_until_state("evaluating")
    world.type("/finetune try tickets-1 where is my refund?")
    world.restart()
    world.tick_until_answered()
    answers = [one for one in world.slack.ephemerals(ANA.id) if "It answers" in str(one.blocks)]
    assert len(answers) == 1


def test_a_second_bot_on_the_same_data_is_refused(world: World) -> None:
    with pytest.raises(DatabaseInUse, match="Stop that one first"):
        Service(world.service.settings)
    assert "no dataset" in world.type(START)  # the first one goes on
