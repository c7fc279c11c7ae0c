"""Hundreds of jobs at a provider: how often the bot asks for them and how soon it acts, by the provider's record."""

from __future__ import annotations

from collections import Counter

import pytest

from bot.values.runs import Progress
from demo.people import ANA
from tests.bot.runs import add_training_runs
from tests.bot.world import JOBS, World
from tests.peers.hosted import NOTHING_BUT_500

LIST = f"GET {JOBS}"
AN_HOUR_S = 3700.0


@pytest.fixture
def world(world: World) -> World:
    """One run trains and stays in training."""
    world.provider.service.stages = ("running",)
    world.start_approved()
    world.tick_until_state("training")
    world.tick()
    return world


def requests_during(world: World, ticks: int = 1) -> Counter[str]:
    """The requests to the provider during these ticks: 'list', 'job', 'events', or another route."""
    before = len(world.provider.requests)
    world.tick(ticks)
    return Counter(kind(request.route) for request in world.provider.requests[before:])


def kind(route: str) -> str:
    if route == LIST:
        return "list"
    if route.endswith("/events"):
        return "events"
    return "job" if route.startswith(f"{LIST}/") else route


@pytest.mark.deep
def test_a_few_pages_answer_for_hundreds_of_jobs(world: World) -> None:
    add_training_runs(world, 250)
    world.tick()
    for _ in range(10):
        requests = requests_during(world)
        assert max(requests["list"], requests["job"], requests["events"]) <= 3, requests


def test_an_old_job_is_looked_at_every_twenty_seconds(world: World) -> None:
    world.pass_time(AN_HOUR_S)
    started = world.clock
    looks = requests_during(world, ticks=20)["job"]
    assert 2 <= looks <= (world.clock - started) / 20 + 2


def test_a_job_that_ends_among_hundreds_is_seen_within_twenty_seconds(world: World) -> None:
    add_training_runs(world, 120, since=world.clock - AN_HOUR_S)
    world.tick(10)
    world.provider.service.jobs["ftjob-60"].is_cancelled = True
    world.tick(8)
    assert world.run(60).state == "cancelled"


def test_a_job_that_the_list_does_not_show_is_asked_for_alone(world: World) -> None:
    add_training_runs(world, 10, since=world.clock - AN_HOUR_S)
    world.provider.service.list_lag_s = 3600.0
    world.provider.service.jobs["ftjob-5"].is_cancelled = True
    world.provider.service.jobs["ftjob-5"].created = world.clock
    world.tick_until_state("cancelled", 5)


def test_a_cancel_of_an_old_job_among_hundreds_is_carried_out_at_the_next_tick(world: World) -> None:
    add_training_runs(world, 120, since=world.clock - AN_HOUR_S)
    world.tick(10)
    assert "Cancelling run 60" in world.type("/finetune cancel 60", user=ANA)
    world.tick()
    assert world.provider.service.jobs["ftjob-60"].is_cancelled
    assert world.run(60).state == "cancelled"


@pytest.mark.deep
def test_while_the_list_fails_few_jobs_are_asked_for_and_the_other_cards_say_so(
    world: World,
) -> None:
    add_training_runs(world, 20)
    world.provider.fail(LIST, NOTHING_BUT_500, times=3)
    requests = requests_during(world)
    assert requests["job"] <= 3 and requests["events"] <= 3
    assert "The job itself goes on" in str(Progress.from_json(world.run(7).progress).note)
    world.tick_until(lambda: Progress.from_json(world.run(7).progress).note is None, "the trouble to be over")


@pytest.mark.deep
def test_every_job_is_followed_although_the_list_never_answers(world: World) -> None:
    add_training_runs(world, 8, since=world.clock - AN_HOUR_S)
    world.provider.fail(LIST, NOTHING_BUT_500, times=10_000)
    for job in world.provider.service.jobs.values():
        job.is_cancelled = True
    world.tick(40)
    assert {world.run(number).state for number in range(1, 10)} == {"cancelled"}


def test_a_status_with_old_numbers_says_when_they_were_read(world: World) -> None:
    assert "as of" not in world.type("/finetune status 1")
    read_at = Progress.from_json(world.run().progress).shown_at
    world.pass_time(1_800)  # its turn may come this late among many jobs
    assert f"Numbers as of <!date^{read_at:.0f}^" in world.type("/finetune status 1")
