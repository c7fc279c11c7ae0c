"""Files at a provider, by its own record: named by their sha256, sent once, expiring, deleted after their job."""

from __future__ import annotations

import pytest

from bot.rules.plans import plan_from_json
from bot.services.common import provider_jobs
from demo.people import BEN
from storage.jobs import UPLOAD_SETTLE_S
from tests.bot.world import JOBS, START, World
from tests.peers.hosted import COMMIT_THEN_CUT, NOTHING_BUT_500, Fault
from trainers.client.client import UPLOAD_LIFE_S


def test_a_file_is_named_by_its_content_expires_and_is_deleted_after_its_job(world: World) -> None:
    world.abilities += ', "expires_after"'
    world.restart()
    world.start_approved()
    world.tick_until_state("training")
    (file,) = world.provider.service.files.values()
    assert file.name == f"{plan_from_json(world.run().plan).train_sha256}.jsonl"
    assert file.expires is not None and abs(file.expires - file.created - UPLOAD_LIFE_S) < 60
    world.tick_until_state("evaluating")
    assert world.files_at_provider() == [] and world.provider.count("POST /files") == 1


def test_an_upload_whose_answer_got_lost_is_found_and_not_repeated(world: World) -> None:
    world.provider.fail("POST /files", COMMIT_THEN_CUT)
    world.start_approved()
    world.tick_until_state("training")
    assert world.provider.count("POST /files") == 1 and len(world.files_at_provider()) == 1


def test_a_file_is_deleted_after_a_failed_job(world: World) -> None:
    world.provider.service.stages = ("running", "failed")
    world.provider.service.failure = {"code": "bad_data", "message": "row 7"}
    world.start_approved()
    world.tick_until_state("failed")
    assert world.files_at_provider() == []


@pytest.mark.deep
def test_a_file_that_another_run_trains_on_stays_until_that_run_is_trained(world: World) -> None:
    world.provider.service.stages = ("running",) * 3 + ("succeeded",)
    world.start_approved()
    world.tick_until_state("training")
    world.start(f"{START} epochs=2")
    world.approve()
    world.tick_until_state("training", 2)
    world.tick_until_state("evaluating", 1)
    if world.run(2).state == "training":
        assert len(world.files_at_provider()) == 1
    world.tick_until_state("evaluating", 2)
    assert world.files_at_provider() == []


def test_a_file_that_could_not_be_deleted_is_deleted_later_unless_it_is_needed(world: World) -> None:
    world.provider.fail("DELETE /files/file-1", Fault(commit=False), times=9)
    world.start_approved()
    world.tick_until_state("evaluating")
    assert len(world.files_at_provider()) == 1
    world.provider.forgive("DELETE /files/file-1")
    world.start(f"{START} epochs=2")
    world.provider.fail(f"POST {JOBS}", NOTHING_BUT_500)
    world.approve()
    world.tick(2)
    provider_jobs.delete_unneeded_uploads(world.service.context)
    assert len(world.files_at_provider()) == 1, "run 2 is about to train on it"
    world.type("/finetune cancel 2", user=BEN)
    world.pass_time(3600)
    world.tick_until_state("cancelled", 2)
    provider_jobs.delete_unneeded_uploads(world.service.context)
    assert world.files_at_provider() == []


def test_a_cancel_after_a_kill_between_upload_and_create_leaves_no_file(world: World) -> None:
    _kill_after_upload(world)
    world.type("/finetune cancel 1")
    world.tick_until_state("cancelled")
    assert world.files_at_provider() == []
    assert "The uploaded file was deleted" in world.find_message("nothing was started")


def test_a_plan_replaced_after_its_upload_leaves_no_file(world: World) -> None:
    _kill_after_upload(world)
    world.store.database.change("UPDATE runs SET next_at = ?", (world.clock + 9e9,))  # so that no tick looks
    world.seed_dataset()
    world.start(START.replace("volume=100M", "volume=200M"))
    assert world.run(1).state == "cancelled"
    provider_jobs.delete_unneeded_uploads(world.service.context)
    assert world.files_at_provider() == []


def test_a_file_that_appears_after_the_first_look_is_deleted_at_a_later_one(world: World) -> None:
    run = world.start_approved()
    provider_jobs.record_uploads(world.service.context, "acme", provider_jobs.uploads_of_run(run))
    world.type("/finetune cancel 1")
    world.tick_until_state("cancelled")
    path = world.service.settings.files / f"{plan_from_json(run.plan).train_sha256}.jsonl"
    world.service.context.trainers["acme"].upload(path, path.stem)  # the upload that the kill cut off
    provider_jobs.delete_unneeded_uploads(world.service.context)
    assert world.files_at_provider() == []
    world.pass_time(UPLOAD_SETTLE_S + 1)
    provider_jobs.delete_unneeded_uploads(world.service.context)
    before = world.provider.count("GET /files")
    provider_jobs.delete_unneeded_uploads(world.service.context)
    assert world.provider.count("GET /files") == before, (
        "a file that is certainly gone is no longer looked for"
    )


def test_the_validation_rows_of_a_cancelled_job_are_deleted_too(world: World) -> None:
    world.abilities += ', "early_stopping"'
    world.restart()
    world.seed_dataset(rows=240)
    world.start(f"{START} patience=2")
    world.approve()
    world.provider.fail(f"POST {JOBS}", NOTHING_BUT_500)
    world.tick_until_state("creating")
    assert len(world.files_at_provider()) == 2
    world.type("/finetune cancel 1")
    world.pass_time(3600)
    world.tick_until_state("cancelled")
    assert world.files_at_provider() == []


def _kill_after_upload(world: World) -> None:
    """Leave a file at the provider that the bot doesn't know of."""
    world.provider.fail("POST /files", COMMIT_THEN_CUT)
    world.start_approved()
    world.tick()
    assert len(world.files_at_provider()) == 1 and world.run().file_id is None
    world.restart()
