"""The bot stops in each state and another one goes on with the same data: every story ends, and ends once."""

from __future__ import annotations

import pytest

from bot.app import Service
from bot.reconciler import reconcile
from bot.rules.plans import plan_from_json
from bot.services.common.provider_jobs import SETTLE_S
from demo.people import ANA
from storage.database import DatabaseInUse
from storage.records import RunState
from tests.bot.props import tickets_csv
from tests.bot.world import JOBS, START, World
from tests.patience import wait_until
from tests.peers.hosted import COMMIT_THEN_500, NOTHING_BUT_500

STATES: tuple[RunState, ...] = ("approved", "training", "evaluating", "done")


def assert_ended_once(world: World) -> None:
    world.tick_until_file("loss.png")
    world.tick(5)
    texts = world.texts()
    assert world.jobs() == 1 and world.provider.count(f"POST {JOBS}") == 1
    for words in ("Result of run", "loss.png", "rows got better"):
        assert len([text for text in texts if words in text]) == 1, words
    assert len(world.store.models()) == 1
    assert set(world.ledger()) == {"reserve", "settle"}


@pytest.mark.deep
@pytest.mark.parametrize("is_sent", [True, False], ids=["messages sent", "messages waiting"])
def test_a_run_ends_once_although_the_bot_restarts_in_every_state(world: World, is_sent: bool) -> None:
    world.start()
    _restart(world, is_sent)
    world.approve()
    for state in STATES:
        _reconcile_until(world, state)
        _restart(world, is_sent)
    assert_ended_once(world)


def _restart(world: World, is_sent: bool) -> None:
    if is_sent:
        world.send()
    world.restart()
    if not is_sent:
        world.send()


def _reconcile_until(world: World, state: RunState) -> None:
    """Tick without sending messages."""

    def step() -> bool:
        if world.run().state != state:
            reconcile(world.service.context)
            world.pass_time(3)
        return world.run().state == state

    wait_until(step, state)


@pytest.mark.deep
def test_a_run_ends_once_although_the_bot_restarts_at_every_tick(world: World) -> None:
    world.start_approved()
    for _ in range(8):
        world.restart()
        world.tick()
    world.tick_until_state("done")
    assert_ended_once(world)


@pytest.mark.parametrize("commits", [True, False])
def test_a_restart_during_an_uncertain_create_makes_no_second_job(world: World, commits: bool) -> None:
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


def test_a_restart_between_upload_and_create_sends_the_file_once(world: World) -> None:
    run = world.start_approved()
    sha256 = plan_from_json(run.plan).train_sha256
    file = world.service.settings.files / f"{sha256}.jsonl"
    world.service.context.trainers["acme"].upload(file, sha256)  # and stopped before it recorded that
    world.restart()
    world.tick_until_state("training")
    assert len(world.files_at_provider()) == 1 and world.provider.count("POST /files") == 1


def test_restarts_while_a_file_is_checked_end_in_one_card(world: World) -> None:
    world.upload("tickets.csv", tickets_csv())
    for _ in range(3):
        world.restart()
        world.tick()
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    assert len(world.cards()) == 1 and "is readable" in world.cards()[0]
    assert len(world.files()) == len(set(world.files()))


def test_a_question_to_a_model_survives_a_restart(world: World) -> None:
    world.start_approved()
    world.tick_until_state("evaluating")
    world.type("/finetune try tickets-1 where is my refund?")
    world.restart()
    world.tick_until_answered()
    answers = [reply for reply in world.slack.ephemerals(ANA.id) if "It answers" in str(reply.blocks)]
    assert len(answers) == 1


def test_a_second_bot_on_the_same_data_is_refused(world: World) -> None:
    with pytest.raises(DatabaseInUse, match="Stop that one first"):
        Service(world.service.settings)
    assert "no dataset" in world.type(START)  # the first one goes on
