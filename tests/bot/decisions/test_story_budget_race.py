"""Sixty-four approvals at once with money for a few: what is reserved never exceeds the month's budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.context import AppContext, Directory
from bot.rules import units
from bot.rules.permissions import Person
from bot.rules.plans import Plan, canonical_json, plan_from_json, plan_hash, plan_key
from bot.services.decisions import approvals
from bot.services.measurement import evaluations, measurements
from bot.values.evaluations import ComparisonProgress
from bot.values.requests import Baseline
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from storage.evaluations import NewMeasurement
from storage.records import Measurement, Run
from storage.runs import NewRun
from tests.bot.measurements import ACME, PRICES, until_asked
from tests.bot.world import CLEO, PRIVATE, WHY, Rules, World
from tests.storage.threads import run_at_once
from trainers.money import from_micros

THREADS = 64


class StoredDirectory:
    """Answers from lookups made before the race, in which the emulator would be the bottleneck."""

    def __init__(self, directory: Directory) -> None:
        self._people = {person.id: directory.person(person.id) for person in (BEN, CLEO)}

    def person(self, user_id: str) -> Person | None:
        return self._people[user_id]

    def name(self, user_id: str) -> str:
        return user_id

    def members(self, group_id: str) -> frozenset[str] | None:
        return None

    def is_private(self, channel: str) -> bool:
        return False

    def is_shared(self, channel: str) -> bool | None:
        return False

    def is_member(self, user_id: str, channel: str) -> bool:
        return True

    def takes_posts(self, channel: str) -> bool:
        return True

    def permalink(self, channel: str, ts: str) -> str | None:
        return None


def with_stored_lookups(world: World) -> AppContext:
    context = world.service.context
    return replace(context, directory=StoredDirectory(context.directory))


MakeWorld = Callable[[Rules], World]


def add_run(world: World, plan: Plan, number: int) -> Run:
    """Add a run with this plan on a dataset of another name."""
    other = replace(plan, dataset=f"tickets-{number}")
    sha = plan_hash(other)
    new = NewRun(
        sha, canonical_json(other), plan_key(sha), plan.dataset_id, ANA.id, plan.channel, plan.provider
    )
    run: Run | None = world.store.runs.add(new, now=world.clock)
    assert run is not None
    return run


@pytest.mark.deep
@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        ("0.2", ""),
        ("20", f'[budget.channels]\n{PRIVATE.id} = "0.2"'),
        ("20", f'[budget.people]\n{ANA.id} = "0.2"'),
    ],
    ids=["team", "channel", "person"],
)
def test_64_approvals_at_once_never_exceed_the_budget_of_team_channel_or_person(
    make_world: MakeWorld, budget: str, limit: str
) -> None:
    world = make_world(Rules(budget=budget, more=limit))
    plan = plan_from_json(world.start().plan)
    hashes = [add_run(world, plan, number).plan_hash for number in range(THREADS)]
    answers = approve_at_once(world, hashes)
    fits = 200_000 // plan.maximum_micros
    assert 1 < fits < THREADS
    refusals = [answer for answer in answers if isinstance(answer, Refusal)]
    assert (len(answers), len(refusals)) == (THREADS, THREADS - fits)
    assert all("is left" in refusal.text for refusal in refusals)
    assert world.store.committed(units.month_of(world.clock)) == fits * plan.maximum_micros <= 200_000


def approve_at_once(world: World, hashes: list[str]) -> list[Run | Refusal]:
    """Approve these plans in a thread each, by two people in turn."""
    context, answers = with_stored_lookups(world), list[Run | Refusal]()

    def approve(number: int) -> None:
        person = (BEN, CLEO)[number % 2].id
        answers.append(approvals.approve(context, hashes[number], person, WHY))
        world.store.database.close_connection()

    run_at_once(len(hashes), approve)
    return answers


def test_64_clicks_on_one_plan_reserve_once(world: World) -> None:
    run = world.start()
    answers = approve_at_once(world, [run.plan_hash] * THREADS)
    assert sum(isinstance(answer, Run) for answer in answers) == 1
    maximum = plan_from_json(run.plan).maximum_micros
    assert world.store.committed(units.month_of(world.clock)) == maximum
    assert len(world.store.runs.decisions(run.id)) == 1


def test_64_measurements_priced_at_once_never_exceed_the_budget(make_world: MakeWorld) -> None:
    world = make_world(Rules(budget="20", more=PRICES))
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME} candidates=zero", user=BEN)
    first = until_asked(world)
    progress = ComparisonProgress.from_json(first.progress)
    fits = 5
    world.rules.budget = str(from_micros(progress.most_micros * (fits + 1)))  # with the first one's share
    world.restart()
    new = NewMeasurement("ladder", first.dataset_id, first.channel, BEN.id, first.plan)
    added = [world.store.measurements.add(new, now=world.clock) for _ in range(THREADS)]
    context = with_stored_lookups(world)

    def price(number: int) -> None:
        measurements.settle_cost(context, added[number], progress)
        world.store.database.close_connection()

    run_at_once(THREADS, price)
    states = [world.store.measurements.get(measurement.id).state for measurement in added]
    assert (states.count("asked"), states.count("failed")) == (fits, THREADS - fits)
    assert world.store.committed(units.month_of(world.clock)) == progress.most_micros * (fits + 1)


def test_a_measurement_requested_by_many_at_once_is_recorded_once(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    context, answers = with_stored_lookups(world), list[Measurement | Refusal]()
    command = Baseline("tickets", models=("acme/acme-small",), kinds=("zero",))

    def ask(number: int) -> None:
        answers.append(evaluations.ask(context, command, (BEN, CLEO)[number % 2].id, PRIVATE.id))
        world.store.database.close_connection()

    run_at_once(16, ask)
    assert [answer.id for answer in answers if isinstance(answer, Measurement)] == [1]
    assert all("under way already: m1" in answer.text for answer in answers if isinstance(answer, Refusal))
    assert len(world.store.measurements.open()) == 1
