"""What runs is what was approved: its data, destination and budget, and only while nobody has cancelled it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from bot.rules import plans
from bot.rules.plans import canonical_json
from bot.services.decisions import plans as plans_services
from bot.services.training import training
from demo.people import ANA, BEN
from tests.bot.decisions.test_story_freeze import freeze, unfreeze
from tests.bot.world import CLEO, JOBS, START, Rules, World
from tests.peers.hosted import COMMIT_THEN_500, NOTHING_BUT_500
from tests.peers.service import StoredFile
from trainers.money import from_micros

MakeWorld = Callable[[Rules], World]
DAYS = 24 * 3600.0


def test_a_cancel_during_the_upload_leaves_no_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run, trainer = world.start_approved(), world.service.context.trainers["acme"]
    upload = trainer.upload

    def upload_while_ana_cancels(*file: object) -> str:
        assert "Cancelling" in world.type("/finetune cancel 1")
        return upload(*file)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "upload", upload_while_ana_cancels)
    training.create(world.service.context, run)
    world.tick(2)
    assert world.run().state == "cancelled" and world.jobs() == 0
    assert world.files_at_provider() == []
    assert world.find_message("nothing was started")


def approve_in_november(make_world: MakeWorld) -> tuple[World, int]:
    """Approve run 1 on 30 November during a freeze, with money for fewer than two such runs; returns its maximum."""
    world = make_world(Rules())
    world.clock = datetime(2026, 11, 30, 22, tzinfo=UTC).timestamp()
    world.restart()
    run = world.start()
    maximum = plans.plan_from_json(run.plan).maximum_micros
    world.rules.budget = str(from_micros(maximum * 7 // 4))
    world.restart()
    freeze(world)
    world.approve()
    world.pass_time(3 * DAYS)
    return world, maximum


def reserved(world: World, month: str) -> int:
    return int(world.store.committed(month))


@pytest.mark.deep
def test_a_run_approved_in_november_waits_for_room_in_decembers_budget(make_world: MakeWorld) -> None:
    world, maximum = approve_in_november(make_world)
    world.seed_dataset(called="orders")
    world.start(START.replace("tickets", "orders"))
    world.approve()
    unfreeze(world, BEN, CLEO)
    world.tick_until(lambda: world.run(2).state == "training", "run 2's job")
    world.tick(3)
    assert world.jobs() == 1 and reserved(world, "2026-12") <= maximum * 7 // 4
    card = world.find_message("Run 1 is approved", "approved in a month that is over")
    assert "monthly_usd" in card and world.run(1).state == "approved"
    world.tick_until(lambda: world.run(2).state == "done", "the room that run 2 leaves")
    world.pass_time(60)
    world.tick_until(lambda: world.run(1).state == "training", "run 1's job")
    assert (reserved(world, "2026-11"), world.jobs()) == (0, 2)


def test_reserved_money_moves_to_the_month_of_the_create(make_world: MakeWorld) -> None:
    world, maximum = approve_in_november(make_world)
    assert (reserved(world, "2026-11"), reserved(world, "2026-12")) == (maximum, 0)
    unfreeze(world, BEN, CLEO)
    world.tick_until_state("training")
    assert (reserved(world, "2026-11"), reserved(world, "2026-12")) == (0, maximum)
    assert ANA.id in {commitment.person for commitment in world.store.ledger.commitments("2026-12")}


def stored_file(world: World, sha256: str) -> Path:
    path: Path = world.service.settings.files / f"{sha256}.jsonl"
    return path


def test_a_training_file_that_changed_after_the_approval_is_not_sent(world: World) -> None:
    plan = plans.plan_from_json(world.start_approved().plan)
    path = stored_file(world, plan.train_sha256)
    path.write_bytes(path.read_bytes().replace(b"refund", b"REFUND", 1))
    world.tick_until_state("failed")
    assert world.find_message(
        "has changed since it was approved", path.name, "upload the data again", "nothing is owed"
    )
    assert (world.jobs(), world.files_at_provider(), world.ledger()["settle"]) == (0, [], 0)
    assert world.provider.count("POST /files") == 0


def test_a_file_of_the_same_name_and_size_with_other_rows_is_not_trained_on(world: World) -> None:
    plan = plans.plan_from_json(world.start_approved().plan)
    path = stored_file(world, plan.train_sha256)
    evil = StoredFile("file-evil", path.name, b"x" * path.stat().st_size, "fine-tune", world.clock)
    world.provider.service.files["file-evil"] = evil
    world.tick_until_state("training")
    (job,) = world.provider.service.jobs.values()
    trained_on = world.provider.service.files[job.request["training_file"]]
    assert hashlib.sha256(trained_on.content).hexdigest() == plan.train_sha256


def test_held_out_rows_that_changed_after_the_approval_evaluate_nothing(world: World) -> None:
    plan = plans.plan_from_json(world.start_approved().plan)
    world.tick_until_state("training")
    path = stored_file(world, plan.holdout_sha256)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
    world.tick_until_state("failed")
    assert world.find_message("was not judged", path.name, "has changed since it was approved")
    assert not world.provider.count("POST /chat/completions") and world.ledger()["settle"] > 0


def test_an_address_that_changed_after_the_approval_gets_neither_file_nor_job(world: World) -> None:
    world.start_approved()
    world.rules.provider_is_remote = True  # the same provider at another address
    world.restart()
    world.tick(3)
    assert world.run().state == "cancelled" and (world.jobs(), world.files_at_provider()) == (0, [])
    assert world.find_message("The trainer of Acme Tuning was at", "its approval is void", "makes a new plan")
    assert world.ledger()["settle"] == 0


def test_a_plan_whose_key_changed_is_not_approved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start()
    world.provider.key = "sk-of-another-account"
    monkeypatch.setenv("ACME_KEY", world.provider.key)
    world.restart()
    assert "The key for Acme Tuning has changed" in world.click_and_read(BEN, "approve_plan")
    assert world.run().state == "awaiting_approval" and world.jobs() == 0


def test_a_price_that_rose_before_the_approval_is_not_approved(world: World) -> None:
    world.start()
    world.rules.training = "80.00"
    world.restart()
    text = world.click_and_read(BEN, "approve_plan")
    assert "costs $80.00 for 1M tokens of training now, and it was $8.00 when the plan was made" in text
    assert world.run().state == "awaiting_approval"


def test_a_price_that_rose_after_the_approval_starts_nothing(world: World) -> None:
    world.start_approved()
    world.rules.training = "8.01"
    world.restart()
    run = world.tick_until_state("cancelled")
    assert "costs $8.01 for 1M tokens of training now, and it was $8.00" in str(run.error)
    assert world.jobs() == 0 and world.ledger().get("settle", 0) == 0


def test_an_uncertain_create_is_not_looked_for_at_another_address(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    world.start_approved()
    world.tick()
    assert world.run().state == "creating"
    world.rules.provider_is_remote = True
    world.restart()
    world.tick_until_state("needs_human")
    assert world.find_message("A job may have been created before that") and world.jobs() == 1


def test_a_plan_of_an_older_release_is_compared_by_what_it_has(world: World) -> None:
    plan = replace(plans.plan_from_json(world.start().plan), destination=None)
    assert plans_services.destination_change(world.service.context, plan) is None
    assert "destination" not in canonical_json(plan)


def test_weights_that_changed_after_the_plan_are_noticed(make_world: MakeWorld, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(3_000_000))
    world = make_world(Rules(more=f'[trainer.models]\ntiny = "{folder}"'))
    context = world.service.context
    local = context.settings.provider("local")
    assert local is not None
    destination = plans_services.current_destination(context, local, "tiny")
    plan = replace(
        plans.plan_from_json(world.start().plan), provider="local", base_model="tiny", destination=destination
    )
    assert plans_services.destination_change(context, plan) is None and destination.base_url == ""
    (folder / "model.safetensors").write_bytes(bytes(1_500_000) + b"1" * 1_500_000)
    assert "The files of `tiny` have changed since" in str(plans_services.destination_change(context, plan))


def test_a_changed_engine_version_is_noticed(make_world: MakeWorld) -> None:
    world = make_world(Rules(more='[trainer.models]\ntiny = "nowhere"'))
    context = world.service.context
    local, plan = context.settings.provider("local"), plans.plan_from_json(world.start().plan)
    assert local is not None
    assert plan.destination is not None and plan.destination.engine is None, "a provider's engine is unknown"
    environment = context.settings.data / "trainer" / "engines" / "unsloth" / "env"
    packages = environment / "lib" / "python3.11" / "site-packages"
    (packages / "unsloth-2026.10.9.dist-info").mkdir(parents=True)
    destination = plans_services.current_destination(context, local, "tiny", "unsloth")
    plan = replace(plan, provider="local", base_model="tiny", destination=destination)
    assert (
        destination.engine == "unsloth 2026.10.9" and plans_services.destination_change(context, plan) is None
    )
    (packages / "unsloth-2026.10.9.dist-info").rename(packages / "unsloth-2026.11.1.dist-info")
    assert "was `unsloth 2026.10.9` when the plan was made, and is `unsloth 2026.11.1` now" in str(
        plans_services.destination_change(context, plan)
    )
    assert (
        plans_services.current_destination(context, local, "tiny").engine
        == f"builtin {version('finetune-bot')}"
    )


def test_an_account_that_never_trained_at_a_closed_provider_gets_no_plan(make_world: MakeWorld) -> None:
    world = make_world(Rules(provider_row="closed_to_new = 2026-05-07"))
    world.seed_dataset()
    reply = world.type(START)
    assert "Since 2026-05-07, Acme Tuning trains only for organisations that have trained there" in reply
    assert "`local/`" in reply and world.store.runs.newest(1) == []
    assert world.files_at_provider() == [] and world.cards() == []


@pytest.mark.deep
def test_an_account_that_trained_at_a_closed_provider_gets_its_plan(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules())
    world.start_approved()
    world.tick_until_state("evaluating")
    world.rules.provider_row = "closed_to_new = 2026-05-07"
    world.restart()
    assert world.start(START + " epochs=2").id == 2
    world.provider.service.jobs.clear()
    world.provider.fail(f"GET {JOBS}", NOTHING_BUT_500, times=3)
    world.start(START + " epochs=4")
    world.provider.forgive(f"GET {JOBS}")
    world.tick(2)
    assert world.run(3).state == "cancelled"
    assert world.find_message("Withdrawn before anybody spent time on it", "has no job there")
