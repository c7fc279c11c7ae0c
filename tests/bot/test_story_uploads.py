"""Files at a provider, by its own record: named by their sha256, sent once, expiring, deleted after their job."""

from __future__ import annotations

from bot.decisions.planning import plan_from_json
from bot.demo.cast import BEN
from bot.workflows import uploads
from tests.bot.world import JOBS, START, World
from tests.peers.hosted import COMMIT_THEN_CUT, NOTHING_BUT_500, Fault
from trainers.client import UPLOAD_LIFE_S


def test_a_file_is_named_by_its_content_expires_and_is_gone_after_the_job(world: World) -> None:
    world.abilities += ', "expires_after"'
    world.restart()
    world.start_approved()
    world.until_state("training")
    (file,) = world.company.service.files.values()
    assert file.name == f"{plan_from_json(world.run().plan).train_sha256}.jsonl"
    assert file.expires is not None and abs(file.expires - file.created - UPLOAD_LIFE_S) < 60
    world.until_state("evaluating")
    assert world.left_at_company() == [] and world.company.count("POST /files") == 1
    world.until_state("done")


def test_an_upload_whose_answer_got_lost_is_found_and_not_sent_again(world: World) -> None:
    world.company.fail("POST /files", COMMIT_THEN_CUT)
    world.start_approved()
    world.until_state("training")
    assert world.company.count("POST /files") == 1 and len(world.left_at_company()) == 1


def test_a_file_is_gone_after_a_job_that_failed_or_was_cancelled_too(world: World) -> None:
    world.company.service.stages = ("running", "failed")
    world.company.service.failure = {"code": "bad_data", "message": "row 7"}
    world.start_approved()
    world.until_state("failed")
    assert world.left_at_company() == []


def test_a_file_that_another_run_trains_on_stays_until_that_one_is_through(world: World) -> None:
    world.company.service.stages = ("running",) * 3 + ("succeeded",)
    world.start_approved()
    world.until_state("training")
    world.start(f"{START} epochs=2")
    world.click(BEN, "approve_plan")
    world.until_state("training", 2)
    world.until_state("evaluating", 1)
    if world.run(2).state == "training":
        assert len(world.left_at_company()) == 1
    world.until_state("evaluating", 2)
    assert world.left_at_company() == []


def test_what_could_not_be_deleted_is_tidied_up_later_and_what_is_needed_is_left(world: World) -> None:
    world.company.fail("DELETE /files/file-1", Fault(commit=False), times=9)
    world.start_approved()
    world.until_state("evaluating")
    assert len(world.left_at_company()) == 1
    world.company.forgive("DELETE /files/file-1")
    world.start(f"{START} epochs=2")
    world.company.fail(f"POST {JOBS}", NOTHING_BUT_500)
    world.click(BEN, "approve_plan")
    world.tick(2)
    uploads.tidy(world.service.desk)
    assert len(world.left_at_company()) == 1, "run 2 is about to train on it"
    world.type("/finetune cancel 2", user=BEN)
    world.pass_time(3600)
    world.until_state("cancelled", 2)
    uploads.tidy(world.service.desk)
    assert world.left_at_company() == []
