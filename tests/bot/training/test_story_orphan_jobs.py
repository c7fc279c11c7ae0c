"""Jobs at a provider that carry one of our keys: a duplicate is cancelled, one that no run knows is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.reconciler import maintain
from bot.services.common import provider_jobs
from bot.services.training import orphan_jobs
from storage.backup import back_up, restore
from tests.bot.training.test_story_interventions import hidden_job, make_uncertain
from tests.bot.training.test_story_slow_provider import BETA
from tests.bot.world import JOBS, MODEL, PUBLIC, START, Rules, World
from tests.peers.hosted import NOTHING_BUT_500

MakeWorld = Callable[[Rules], World]


def sweep(world: World) -> None:
    orphan_jobs.sweep(world.service.context)
    world.send()


def copy_of_job(world: World, first: str = "ftjob-1", **metadata: str) -> str:
    """Add a second job at the provider, as a create that was believed lost would; returns its id."""
    service = world.provider.service
    job = replace(service.jobs[first], id=f"ftjob-{service.next_number()}")
    job.request = {**job.request, "metadata": {**job.request["metadata"], **metadata}}
    service.jobs[job.id] = job
    return job.id


@pytest.fixture
def training(world: World) -> World:
    world.provider.service.stages = ("running",) * 99 + ("succeeded",)
    world.start_approved()
    world.tick_until_state("training")
    return world


def live_jobs(world: World) -> list[str]:
    return [job.id for job in world.provider.service.jobs.values() if not job.is_cancelled]


@pytest.mark.deep
def test_a_runs_second_job_that_shows_up_late_is_cancelled_and_reported(training: World) -> None:
    copy_of_job(training)
    sweep(training)
    assert live_jobs(training) == ["ftjob-1"] and training.run().job_id == "ftjob-1"
    assert training.find_message("Run 1 had a second job", "ftjob-2", "was cancelled")
    texts = training.texts()
    sweep(training)
    assert training.texts() == texts, "it is reported once"
    assert [entry.action for entry in training.store.audit.entries("job ftjob-2")] == ["stray job"]


def test_a_private_runs_second_job_is_not_reported_in_the_fallback_channel(make_world: MakeWorld) -> None:
    world = make_world(Rules(fallback=PUBLIC.id))
    world.provider.service.stages = ("running",) * 99
    world.start_approved()
    world.tick_until_state("training")
    copy_of_job(world)
    sweep(world)
    assert world.find_message("Run 1 had a second job", "ftjob-2", "was cancelled"), (
        "in the run's own channel"
    )
    assert world.texts(PUBLIC) == []


def test_the_runs_own_job_is_kept_although_the_other_is_older(training: World) -> None:
    second = copy_of_job(training)
    training.provider.service.jobs[second].created -= 60
    sweep(training)
    assert live_jobs(training) == ["ftjob-1"]


@pytest.mark.deep
def test_a_job_that_no_run_knows_is_reported_once_with_what_to_do(make_world: MakeWorld) -> None:
    """Two providers' rows name the same trainer, so both list the job."""
    world = make_world(Rules(fallback=PUBLIC.id))
    world.rules.more = BETA.format(url=world.provider.url, model=MODEL)
    world.restart()
    world.provider.service.stages = ("running",) * 99
    world.start_approved()
    world.tick_until_state("training")
    copy_of_job(world, finetune_key="ft-of-another", run="8")
    sweep(world)
    sweep(world)
    assert live_jobs(world) == ["ftjob-1", "ftjob-2"]
    (notice,) = [text for text in world.texts(PUBLIC) if "belongs to no run here" in text]
    assert "ftjob-2" in notice and "run 8" in notice and "Cancel it there" in notice


@pytest.mark.deep
@pytest.mark.parametrize("ended", ["", "succeeded", "rejected"])
def test_a_run_that_a_restored_backup_believes_unapproved_adopts_its_job(world: World, ended: str) -> None:
    world.provider.service.stages = ("running",) * 20 + ("succeeded",)
    world.start()
    settings = world.service.settings
    backup = back_up(settings.database, world.folder / "backup", now=world.clock, files=settings.files).path
    world.approve()
    world.tick_until_state("training")
    world.stop()
    restore(backup, settings.database, settings.files, now=world.clock)
    world.boot()
    assert world.run().state == "awaiting_approval"
    if ended:
        world.provider.service.stages = ("succeeded",)
    if ended == "rejected":
        world.store.runs.move(world.run(), "rejected", now=world.clock)
    sweep(world)
    assert (world.run().state, world.run().job_id) == ("training", "ftjob-1")
    assert world.ledger()["reserve"] == world.run().reserved_micros > 0
    world.tick(2)
    assert any("It was started before a backup was restored" in text for text in world.dms())
    assert world.jobs() == 1


@pytest.mark.deep
def test_a_run_that_needs_a_person_continues_once_its_job_shows_up(world: World) -> None:
    make_uncertain(world)
    job = hidden_job(world)
    sweep(world)
    assert world.run().state == "needs_human"
    world.provider.service.list_lag_s = 0
    sweep(world)
    assert (world.run().state, world.run().job_id) == ("training", job)
    assert world.find_message("was found there and is taken over")


@pytest.mark.deep
def test_a_cancelled_runs_job_is_cancelled_and_a_failed_runs_job_is_reported(training: World) -> None:
    store = training.store
    store.runs.move(training.run(), "failed", now=training.clock)
    sweep(training)
    assert live_jobs(training) == ["ftjob-1"] and training.find_message(
        "Run 1 is over, but its job is still running"
    )
    store.runs.move(training.run(), "cancelled", now=training.clock)
    copy_of_job(training)
    sweep(training)
    assert live_jobs(training) == [] and training.find_message(
        "Run 1 was cancelled, but its job was still running", "ftjob-2"
    )


@pytest.mark.deep
def test_orphan_jobs_are_found_once_a_provider_that_was_away_is_back(training: World) -> None:
    training.provider.fail(f"GET {JOBS}", NOTHING_BUT_500, times=3)
    sweep(training)
    copy_of_job(training)
    sweep(training)
    assert live_jobs(training) == ["ftjob-1"]


@pytest.mark.deep
def test_two_providers_of_one_account_leave_each_others_jobs_and_files_alone(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(budget="1000"))
    world.rules.more = BETA.format(url=world.provider.url, model=MODEL)
    world.restart()
    first = world.start_approved()
    world.tick_until_state("evaluating", first.id)
    second = world.start(START.replace("acme/", "beta/"))
    world.approve()
    world.tick_until_state("training", second.id)
    provider_jobs.record_uploads(
        world.service.context, "acme", provider_jobs.uploads_of_run(world.run(first.id))
    )  # its file was sent there, too
    before = world.texts()
    maintain(world.service.context)
    world.send()
    assert len(world.files_at_provider()) == 1, "the second run trains on it"
    assert world.texts() == before
