"""Cancelling a run: before its approval, before its job exists, during its training and during its evaluation."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from bot.rules.plans import plan_from_json
from bot.services.common.provider_jobs import SETTLE_S
from bot.services.evidence.notifications import cancelled_cost
from bot.values.runs import Progress
from demo.people import ANA, BEN
from tests.bot.world import CLEO, JOBS, World
from tests.cards import builders
from tests.peers.hosted import COMMIT_THEN_500, NOTHING_BUT_500, Fault
from trainers.money import usd_micros
from trainers.providers.pricing import PriceList, PriceRow
from trainers.types import Price


def test_cancelling_before_an_approval_withdraws_the_plan(world: World) -> None:
    world.start()
    assert "Cancelling" in world.type("/finetune cancel 1")
    world.tick()
    assert world.run().state == "cancelled" and not world.has_button("approve_plan")
    assert f"Withdrawn by <@{ANA.id}>" in world.find_message("Withdrawn")
    assert world.jobs() == 0 and world.ledger() == {}
    assert "over already" in world.type("/finetune cancel 1")


def test_only_the_requester_and_approvers_may_cancel(world: World) -> None:
    world.start(user=CLEO)
    assert "Only an approver" in world.type("/finetune cancel 1", user=ANA)
    assert "Cancelling" in world.type("/finetune cancel run-1", user=BEN)
    world.tick()
    assert world.run().state == "cancelled"


def test_the_first_person_to_cancel_is_named(world: World) -> None:
    world.start()
    assert "Cancelling" in world.type("/finetune cancel 1")
    assert f"<@{ANA.id}> has already asked for that" in world.type("/finetune cancel 1", user=BEN)
    world.tick()
    assert world.find_message(f"Withdrawn by <@{ANA.id}>")


def test_an_approved_run_that_is_cancelled_at_once_never_starts(world: World) -> None:
    world.start_approved()
    assert "Cancelling" in world.type("/finetune cancel 1")
    world.tick(3)
    assert world.run().state == "cancelled" and world.jobs() == 0
    assert world.ledger()["settle"] == 0
    assert world.find_message("nothing was started")


def test_cancelling_during_the_training_cancels_the_job(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.send()
    assert "Cancelling" in world.click_and_read(ANA, "cancel_run")
    world.tick_until_state("cancelled")
    assert world.ledger()["settle"] == 0, "it waited in the queue"
    assert next(iter(world.provider.service.jobs.values())).is_cancelled
    assert f"Cancelled by <@{ANA.id}>" in world.find_message("Cancelled by")
    assert any("cancelled" in text for text in world.dms())


def test_a_cancelled_training_without_a_reported_bill_is_booked_at_its_full_cost(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.tick_until(lambda: Progress.from_json(world.run().progress).running_since, "its first step")
    plan = plan_from_json(world.run().plan)
    world.type("/finetune cancel 1")
    world.tick_until_state("cancelled")
    full_cost = math.ceil(
        plan.training_tokens * Decimal(world.rules.training)
    )  # the stand-in reports no step
    assert world.ledger()["settle"] == world.run().actual_micros == full_cost
    card = world.find_message("Acme Tuning doesn't report what it bills")
    assert f"It has cost {usd_micros(full_cost)}. The rest" in card


def test_a_job_that_began_while_the_bot_was_away_is_not_free_once_cancelled(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.pass_time(3600)
    world.type("/finetune cancel 1")
    world.tick_until_state("cancelled")
    assert world.ledger()["settle"] > 0
    assert world.find_message("Acme Tuning doesn't report what it bills")


@pytest.mark.parametrize(
    ("progress", "share"),
    [
        (Progress(step=30, total_steps=120), "0.25"),
        (Progress(step=130, total_steps=120), "1"),
        (Progress(step=0, total_steps=120), "0"),
        (Progress(percent=40), "0.4"),
        (Progress(), "1"),
        (Progress(step=30, total_steps=120, billed_micros=7), None),
    ],
)
def test_a_cancelled_training_costs_the_share_that_was_done(progress: Progress, share: str | None) -> None:
    row = PriceRow("acme/small", "tuned", Price(Decimal(5), None, None, None), "Acme's page")
    prices = PriceList((row, row), date(2026, 11, 25)).to_json()
    plan = replace(builders.plan(), prices=prices, training_tokens=120_000)
    assert cancelled_cost(plan, progress) == (7 if share is None else 600_000 * Decimal(share))


def test_a_job_that_ends_while_it_is_cancelled_is_paid_for(world: World) -> None:
    world.provider.service.stages = ("running", "running", "succeeded")
    world.start_approved()
    world.tick_until_state("training")
    world.provider.fail(f"POST {JOBS}/ftjob-1/cancel", Fault(commit=False, status=400, code="invalid_state"))
    world.type("/finetune cancel 1")
    world.tick()
    assert world.run().state == "evaluating"
    world.tick()
    assert world.run().state == "cancelled" and world.ledger()["settle"] > 0


def test_cancelling_during_the_evaluation_keeps_the_model_and_its_cost(world: World) -> None:
    world.start_approved()
    world.tick_until_state("evaluating")
    world.type("/finetune cancel 1", user=BEN)
    world.tick_until_state("cancelled")
    assert "kept as `tickets-1`" in world.find_message("Measuring was cancelled")
    assert world.find_message("It has cost", "The rest of the reserved budget is free again")
    assert world.run().actual_micros == world.ledger()["settle"] > 0
    assert "Asking" in world.type("/finetune try tickets-1 where is my refund?")


def test_an_uncertain_create_is_cancelled_once_its_job_is_found(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    world.start_approved()
    world.tick()
    assert world.run().state == "creating"
    world.type("/finetune cancel 1")
    world.tick_until_state("cancelled")
    (job,) = world.provider.service.jobs.values()
    assert job.is_cancelled


def test_a_lost_create_is_not_repeated_for_a_cancelled_run(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", NOTHING_BUT_500)
    world.start_approved()
    world.tick()
    world.type("/finetune cancel 1")
    world.tick(10)
    assert world.run().state == "creating"  # the job may still show up
    world.pass_time(SETTLE_S)
    world.tick(3)
    assert world.run().state == "cancelled" and world.jobs() == 0
    assert world.provider.count(f"POST {JOBS}") == 1
