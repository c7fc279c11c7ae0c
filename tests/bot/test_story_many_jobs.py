"""Hundreds of jobs at a provider: what its own record says of how often it was asked, and of how soon the
bot acts."""

from __future__ import annotations

from collections import Counter

import pytest

from bot.values.runs import Progress
from demo.people import ANA
from tests.bot.seeded_runs import training_runs
from tests.bot.world import JOBS, World
from tests.peers.hosted import NOTHING_BUT_500

LIST = f"GET {JOBS}"
AN_HOUR_S = 3700.0


@pytest.fixture
def world(world: World) -> World:
    """One run trains, and so it stays."""
    world.provider.service.stages = ("running",)
    world.start_approved()
    world.tick_until_state("training")
    world.tick()
    return world


def asked(world: World, ticks: int = 1) -> Counter[str]:
    """What the company is asked meanwhile: 'list', 'job', 'events', or another route."""
    before = len(world.provider.requests)
    world.tick(ticks)
    routes = [seen.route for seen in world.provider.requests[before:]]
    return Counter(map(kind, routes))


def kind(route: str) -> str:
    if route == LIST:
        return "list"
    if route.endswith("/events"):
        return "events"
    return "job" if route.startswith(f"{LIST}/") else route


def test_a_few_pages_answer_for_hundreds_of_jobs(world: World) -> None:
    training_runs(world, 250)
    world.tick()
    seen = [asked(world) for _ in range(10)]
    assert all(one["list"] <= 3 for one in seen)
    assert all(one["job"] <= 3 and one["events"] <= 3 for one in seen), seen


def test_an_old_job_is_looked_at_every_twenty_seconds(world: World) -> None:
    world.pass_time(AN_HOUR_S)
    began = world.clock
    looks = asked(world, ticks=20)["job"]
    assert 2 <= looks <= (world.clock - began) / 20 + 2


def test_a_job_that_ends_among_hundreds_is_seen_within_twenty_seconds(world: World) -> None:
    training_runs(world, 120, since=world.clock - AN_HOUR_S)
    world.tick(10)
    world.provider.service.jobs["ftjob-60"].is_cancelled = True
    world.tick(8)
    assert world.run(60).state == "cancelled"


def test_a_job_that_the_list_does_not_show_is_asked_for_by_itself(world: World) -> None:
    training_runs(world, 10, since=world.clock - AN_HOUR_S)
    world.provider.service.list_lag_s = 3600.0
    world.provider.service.jobs["ftjob-5"].is_cancelled = True
    world.provider.service.jobs["ftjob-5"].created = world.clock
    world.tick_until_state("cancelled", 5)


def test_a_cancel_of_an_old_job_among_hundreds_is_carried_out_at_the_next_tick(world: World) -> None:
    training_runs(world, 120, since=world.clock - AN_HOUR_S)
    world.tick(10)
    assert "Cancelling run 60" in world.type("/finetune cancel 60", user=ANA)
    world.tick()
    assert world.provider.service.jobs["ftjob-60"].is_cancelled
    assert world.run(60).state == "cancelled"


def test_while_the_list_fails_few_jobs_are_asked_for_by_themselves_and_the_other_cards_say_so(
    world: World,
) -> None:
    training_runs(world, 20)
    world.provider.fail(LIST, NOTHING_BUT_500, times=3)
    seen = asked(world)
    assert seen["job"] <= 3 and seen["events"] <= 3
    assert "The job itself goes on" in str(Progress.from_json(world.run(7).progress).note)
    world.tick_until(lambda: Progress.from_json(world.run(7).progress).note is None, "the trouble to be over")


def test_where_the_list_never_answers_each_job_is_still_followed(world: World) -> None:
    training_runs(world, 8, since=world.clock - AN_HOUR_S)
    world.provider.fail(LIST, NOTHING_BUT_500, times=10_000)
    for job in world.provider.service.jobs.values():
        job.is_cancelled = True
    world.tick(40)
    assert {world.run(number).state for number in range(1, 10)} == {"cancelled"}


def test_a_status_says_when_its_numbers_were_read_where_that_is_a_while_ago(world: World) -> None:
    assert "as of" not in world.type("/finetune status 1")
    read_at = Progress.from_json(world.run().progress).shown_at
    world.pass_time(1_800)  # among many jobs its turn comes so late
    assert f"Numbers as of <!date^{read_at:.0f}^" in world.type("/finetune status 1")
