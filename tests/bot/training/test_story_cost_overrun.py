"""A training that is billed by the hour is cancelled beyond its approved maximum, and its card says so."""

from __future__ import annotations

import pytest

from bot.rules.plans import plan_from_json
from bot.values.runs import Progress
from demo.people import ANA
from tests.bot.own_trainer import NOWHERE, own
from tests.bot.own_trainer import sleeping_trainer as sleeping_trainer
from tests.bot.world import MakeWorld, Rules, World
from tests.local.trainer_server import KEY, TrainerServer
from trainers.money import usd_micros

LOCAL = "/finetune start tickets target=local/tiny epochs=1"


@pytest.fixture
def training(make_world: MakeWorld, sleeping_trainer: TrainerServer) -> World:
    """A sleeping job on a machine that costs $2 an hour."""
    world = make_world(Rules(more=own(sleeping_trainer.url, "2")))
    world.seed_dataset()
    world.start(LOCAL)
    world.approve()
    world.tick_until_state("training")
    world.tick_until(lambda: Progress.from_json(world.run().progress).running_since, "its first step")
    return world


def test_a_job_beyond_its_maximum_is_cancelled_reported_and_settled(training: World) -> None:
    world, plan = training, plan_from_json(training.run().plan)
    world.pass_time(plan.maximum_micros / 2e6 * 3600 + 180)
    run = world.tick_until_state("cancelled")
    maximum, cost = usd_micros(plan.maximum_micros), usd_micros(run.actual_micros or 0)
    card = world.find_message("Stopped because of its cost")
    assert f"the plan allows at most {maximum}, and the training had cost" in card and cost in card
    assert world.ledger()["settle"] == run.actual_micros
    assert plan.maximum_micros < (run.actual_micros or 0) < plan.maximum_micros + 110_000
    assert any("Stopped because of its cost" in text for text in world.dms())
    actions = [(entry.who, entry.action) for entry in world.store.audit.entries("run 1")]
    assert actions[-2:] == [("finetune", "over maximum"), ("finetune", "cancelled")]


def test_a_job_within_its_maximum_of_at_least_ten_cents_continues(training: World) -> None:
    plan = plan_from_json(training.run().plan)
    assert plan.maximum_micros == 100_000
    training.send()
    assert training.find_message("Run 1 is training", "up to $0.10")
    training.pass_time(plan.maximum_micros / 2e6 * 3600 * 0.5)
    training.tick(3)
    assert training.run().state == "training"


def test_the_stop_survives_a_restart(training: World) -> None:
    plan = plan_from_json(training.run().plan)
    training.pass_time(plan.maximum_micros / 2e6 * 3600 + 60)
    training.tick()
    assert training.run().state == "training"
    training.restart()
    training.tick_until_state("cancelled")
    assert training.find_message("Stopped because of its cost")


def test_a_persons_cancel_is_attributed_to_them_even_beyond_the_maximum(training: World) -> None:
    plan = plan_from_json(training.run().plan)
    training.type("/finetune cancel 1")
    training.pass_time(plan.maximum_micros / 2e6 * 3600 + 60)
    training.tick_until_state("cancelled")
    assert training.find_message(f"Cancelled by <@{ANA.id}>")


def test_an_evaluation_stops_once_its_answers_cost_more_than_the_plan_allows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider bills a hundred times the expected tokens."""
    world.provider.slow_s = 0.02
    monkeypatch.setattr(world.provider.service, "_spoken", lambda model, body: ("refund", 50_000, "stop"))
    world.start_approved()
    run = world.tick_until_state("failed")
    card = world.find_message("Measuring was stopped because of its cost", "at most", "It has cost")
    assert "is free again" not in card
    chats = world.provider.count("POST /chat/completions")
    assert chats < 2 * 18 and run.actual_micros is not None and run.reserved_micros is not None
    assert world.ledger()["settle"] == run.actual_micros > run.reserved_micros
    world.tick(3)
    assert world.provider.count("POST /chat/completions") == chats


def test_without_a_measured_speed_a_paid_run_cannot_be_approved(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    unmeasured = own(NOWHERE, "2").replace("tokens_per_second = 450\n", "")
    world = make_world(Rules(more=unmeasured))
    world.seed_dataset()
    refusal = world.type(LOCAL)
    assert "A run with an unknown cost can't be approved." in refusal
    assert "`finetune calibrate` measures this machine" in refusal
    assert "Training takes" in world.type("/finetune estimate tickets target=local/tiny")
