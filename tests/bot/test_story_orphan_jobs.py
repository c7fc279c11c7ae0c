"""All jobs at a provider that carry one of our keys: a second one is cancelled, one that no run knows is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.reconciler import maintain
from bot.services import orphan_jobs, provider_jobs
from storage.backup import back_up, restore
from tests.bot.test_story_interventions import hidden_job, in_doubt
from tests.bot.test_story_slow_provider import BETA
from tests.bot.world import JOBS, MODEL, PRIVATE, PUBLIC, START, Rules, World
from tests.peers.hosted import NOTHING_BUT_500


def sweep(world: World) -> None:
    orphan_jobs.sweep(world.service.context)
    world.send()


def copy_of_job(world: World, first: str = "ftjob-1", **metadata: str) -> str:
    """A second job at the company, as a create that was believed lost would make it."""
    service = world.provider.service
    job = replace(service.jobs[first], id=f"ftjob-{service.next_number()}")
    job.request = {**job.request, "metadata": {**job.request["metadata"], **metadata}}
    service.jobs[job.id] = job
    return job.id


@pytest.fixture
def trains(world: World) -> World:
    world.provider.service.stages = ("running",) * 99 + ("succeeded",)
    world.start_approved()
    world.tick_until_state("training")
    return world


def live(world: World) -> list[str]:
    return [job.id for job in world.provider.service.jobs.values() if not job.is_cancelled]


def test_a_second_job_of_a_run_that_shows_up_late_is_cancelled_and_said(trains: World) -> None:
    copy_of_job(trains)
    sweep(trains)
    assert live(trains) == ["ftjob-1"] and trains.run().job_id == "ftjob-1"
    assert trains.find_message("Run 1 had a second job", "ftjob-2", "was cancelled")
    said = trains.texts()
    sweep(trains)
    assert trains.texts() == said, "it is said once"
    assert [one.action for one in trains.store.audit.entries("job ftjob-2")] == ["stray job"]


def test_ours_is_kept_also_where_the_other_one_is_older(trains: World) -> None:
    second = copy_of_job(trains)
    trains.provider.service.jobs[second].created -= 60
    sweep(trains)
    assert live(trains) == ["ftjob-1"]


def test_a_job_that_no_run_knows_goes_on_and_is_said_once_with_what_a_person_can_do(
    make_world: object,
) -> None:
    world: World = make_world(Rules(fallback=PUBLIC.id))  # type: ignore[operator]
    world.provider.service.stages = ("running",) * 99
    world.start_approved()
    world.tick_until_state("training")
    copy_of_job(world, finetune_key="ft-of-another", run="8")
    sweep(world)
    sweep(world)
    assert live(world) == ["ftjob-1", "ftjob-2"]
    said = [text for text in world.texts(PUBLIC) if "belongs to no run here" in text]
    assert len(said) == 1 and "ftjob-2" in said[0] and "run 8" in said[0] and "Cancel it there" in said[0]


def test_a_job_that_two_rows_of_one_trainer_list_is_said_once(make_world: Callable[[Rules], World]) -> None:
    world = make_world(Rules(fallback=PUBLIC.id))
    world.rules.more = BETA.format(url=world.provider.url, model=MODEL)
    world.restart()
    world.provider.service.stages = ("running",) * 99
    world.start_approved()
    world.tick_until_state("training")
    copy_of_job(world, finetune_key="ft-of-another", run="8")
    sweep(world)
    assert len([text for text in world.texts(PUBLIC) if "belongs to no run here" in text]) == 1


def test_a_run_that_a_restored_backup_believes_unapproved_takes_its_job_over(world: World) -> None:
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
    sweep(world)
    assert (world.run().state, world.run().job_id) == ("training", "ftjob-1")
    assert world.ledger()["reserve"] == world.run().reserved_micros > 0
    world.tick(2)
    assert any("It was started before a backup was restored" in text for text in world.dms())
    world.tick_until_state("done")
    assert world.jobs() == 1 and set(world.ledger()) == {"reserve", "settle"}


def test_a_run_in_doubt_whose_job_shows_up_goes_on_without_anybody(world: World) -> None:
    in_doubt(world)
    job = hidden_job(world)
    sweep(world)
    assert world.run().state == "needs_human"
    world.provider.service.list_lag_s = 0
    sweep(world)
    assert (world.run().state, world.run().job_id) == ("training", job)
    assert world.find_message("was found there and is taken over")
    world.tick_until_state("done")


def test_a_job_of_a_cancelled_run_is_cancelled_there_that_of_a_failed_one_is_said(trains: World) -> None:
    store = trains.store
    store.runs.move(trains.run(), "failed", now=trains.clock)
    sweep(trains)
    assert live(trains) == ["ftjob-1"] and trains.find_message("Run 1 is over, but its job is still running")
    store.runs.move(trains.run(), "cancelled", now=trains.clock)
    copy_of_job(trains)
    sweep(trains)
    assert live(trains) == [] and trains.find_message(
        "Run 1 was cancelled, but its job was still running", "ftjob-2"
    )


def test_a_company_that_is_away_stops_no_look(trains: World) -> None:
    trains.provider.fail(f"GET {JOBS}", NOTHING_BUT_500, times=3)
    sweep(trains)
    copy_of_job(trains)
    sweep(trains)
    assert live(trains) == ["ftjob-1"]


def test_a_size_of_a_curve_has_one_job_too(make_world: object) -> None:
    from tests.bot.test_story_curve_tuned import agreed, until_size, with_short_trainings
    from tests.bot.test_story_ladder import PRICES

    world = with_short_trainings(make_world(Rules(more=PRICES)))  # type: ignore[operator]
    world.seed_dataset()
    agreed(world)
    until_size(world, 0, "training")
    copy_of_job(world)
    sweep(world)
    assert live(world) == ["ftjob-1"] and world.find_message(
        "Measurement m1 had a second job", channel=PRIVATE
    )


def test_two_providers_of_one_account_leave_each_other_s_jobs_and_files_alone(
    make_world: Callable[[Rules], World],
) -> None:
    world = make_world(Rules(budget="1000"))
    world.rules.more = BETA.format(url=world.provider.url, model=MODEL)
    world.restart()
    first = world.start_approved()
    world.tick_until_state("done", first.id)
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
