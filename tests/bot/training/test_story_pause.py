"""A training that people pause and resume: who may, what the card says, and what the pause costs."""

from __future__ import annotations

from bot.values.runs import Progress
from demo.people import ANA, BEN
from tests.bot.world import CLEO, JOBS, START, World
from tests.peers.hosted import NOTHING_BUT_500, Fault

PAUSING = '"metadata", "metadata_filter", "method", "suffix", "checkpoints", "chat", "pause"'


def start_training(world: World) -> None:
    world.abilities = PAUSING
    world.restart()
    world.provider.service.stages = ("running",) * 6 + ("succeeded",)
    world.start_approved()
    world.tick_until_state("training")
    world.send()


def progress(world: World) -> Progress:
    return Progress.from_json(world.run().progress)


def test_a_run_is_paused_and_resumed_by_its_cards_buttons_and_the_pause_costs_nothing(
    world: World,
) -> None:
    start_training(world)
    assert "Pausing run 1" in world.click_and_read(ANA, "pause_run")
    world.tick_until(lambda: progress(world).is_paused, "the pause")
    world.send()
    card = world.find_message("Run 1 is paused", f"Paused by <@{ANA.id}>")
    assert "It continues from there once somebody resumes it" in card
    before = progress(world).train_seconds
    world.pass_time(3600)
    world.tick(2)
    assert world.run().state == "training"
    assert progress(world).train_seconds < before + 60, "the pause is not training time"
    assert "goes on" in world.click_and_read(ANA, "resume_run")
    world.tick_until_state("evaluating")
    assert progress(world).train_seconds < before + 120
    assert world.run().wish is None and world.run().wished_by is None
    actions = [(entry.who, entry.action) for entry in world.store.audit.entries("run 1")]
    assert (ANA.id, "pause") in actions and (ANA.id, "resume") in actions


def test_a_pause_requested_before_the_job_exists_is_carried_out_once_it_does(world: World) -> None:
    world.abilities = PAUSING
    world.restart()
    world.start_approved()
    assert "Pausing run 1" in world.type("/finetune pause 1", user=BEN)
    world.tick_until(lambda: progress(world).is_paused, "the pause")
    assert world.jobs() == 1


def test_a_requested_pause_survives_a_restart_and_a_provider_that_is_away(world: World) -> None:
    start_training(world)
    world.provider.fail(f"POST {JOBS}/ftjob-1/pause", NOTHING_BUT_500, times=2)
    world.type("/finetune pause 1")
    world.tick()
    world.restart()
    assert not progress(world).is_paused and world.run().wish == "pause"
    world.tick_until(lambda: progress(world).is_paused, "the pause")


def test_a_job_that_ends_before_it_is_paused_is_evaluated(world: World) -> None:
    start_training(world)
    world.provider.service.stages = ("running", "running", "succeeded")
    world.provider.fail(f"POST {JOBS}/ftjob-1/pause", Fault(commit=False, status=400, code="invalid_state"))
    world.type("/finetune pause 1")
    world.tick_until_state("evaluating")


def test_a_run_that_cannot_be_paused_or_resumed_says_why(world: World) -> None:
    assert "There is no run 1" in world.type("/finetune pause 1")
    world.start(user=CLEO)
    assert "Only training can be paused, and run 1 is waiting for approval" in world.type("/finetune pause 1")
    assert "Run 1 is not paused: it is waiting for approval" in world.type("/finetune resume 1")
    world.approve()
    world.tick_until_state("training")
    assert "Acme Tuning can't pause a training. `/finetune cancel 1` would end it." in world.type(
        "/finetune pause 1", user=CLEO
    )
    world.send()
    assert not world.has_button("pause_run")


def test_only_the_requester_and_approvers_pause_and_nobody_twice(world: World) -> None:
    world.abilities = PAUSING
    world.restart()
    world.provider.service.stages = ("running",)
    world.start(START, user=CLEO)
    world.approve()
    world.tick_until_state("training")
    assert "Only an approver" in world.type("/finetune pause 1", user=ANA)
    assert "Pausing" in world.type("/finetune pause 1", user=CLEO)
    assert "is already paused" in world.type("/finetune pause 1", user=CLEO)
    assert "goes on" in world.type("/finetune resume 1", user=CLEO)  # before the first wish was carried out
    world.tick(3)
    assert not progress(world).is_paused and world.run().wish is None
    world.type("/finetune cancel 1", user=CLEO)
    world.tick_until_state("cancelled")
    assert "over already: it was cancelled" in world.type("/finetune pause 1", user=CLEO)


def test_a_pause_that_came_too_late_says_that_only_training_can_be_paused(world: World) -> None:
    start_training(world)
    world.tick_until_state("evaluating")
    run = world.run()
    world.store.runs.move(run, "evaluating", now=world.clock, wish="pause", wished_by=ANA.id)
    assert "Only training can be paused" in world.type("/finetune pause 1")
