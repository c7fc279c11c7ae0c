"""Sixty-four approvals at once and money for a few: what is reserved never passes the month's budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.context import AppContext, Directory
from bot.rules import units
from bot.rules.permissions import Person
from bot.rules.plans import Plan, canonical_json, plan_from_json, plan_hash, plan_key
from bot.services import approvals, evaluations, measurements
from bot.values.evaluations import LadderProgress
from bot.values.requests import Baseline
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from storage.evaluations import NewMeasurement
from storage.records import Measurement, Run
from storage.runs import NewRun
from tests.bot.test_story_ladder import ACME, PRICES, until_asked
from tests.bot.world import CLEO, PRIVATE, WHY, Rules, World
from tests.storage.threads import run_at_once
from trainers.money import from_micros

THREADS = 64


class Remembered:
    """What Slack said before the race: the emulator would be the bottleneck, not the database."""

    def __init__(self, directory: Directory) -> None:
        self._people = {one.id: directory.person(one.id) for one in (BEN, CLEO)}

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


def racing(world: World) -> AppContext:
    context = world.service.context
    return replace(context, directory=Remembered(context.directory))


MakeWorld = Callable[[Rules], World]


def asked(world: World, plan: Plan, number: int) -> Run:
    """A plan like the first one, on a dataset of another name."""
    other = replace(plan, dataset=f"tickets-{number}")
    sha = plan_hash(other)
    new = NewRun(
        sha, canonical_json(other), plan_key(sha), plan.dataset_id, ANA.id, plan.channel, plan.provider
    )
    run: Run | None = world.store.runs.add(new, now=world.clock)
    assert run is not None
    return run


def test_64_approvals_at_once_never_pass_the_budget(make_world: MakeWorld) -> None:
    world = make_world(Rules(budget="0.2"))
    plan = plan_from_json(world.start().plan)
    runs = [asked(world, plan, number) for number in range(THREADS)]
    context, answers = racing(world), list[Run | Refusal]()

    def approve(number: int) -> None:
        answers.append(approvals.approve(context, runs[number].plan_hash, BEN.id, WHY))
        world.store.database.close_connection()

    run_at_once(THREADS, approve)
    fits = 200_000 // plan.maximum_micros
    assert 1 < fits < THREADS
    approved = [one for one in answers if isinstance(one, Run)]
    refused = [one for one in answers if isinstance(one, Refusal)]
    assert (len(approved), len(refused)) == (fits, THREADS - fits)
    assert all("is left" in one.text for one in refused)
    assert world.store.committed(units.month_of(world.clock)) == fits * plan.maximum_micros <= 200_000


@pytest.mark.parametrize(
    "limit",
    [f'[budget.channels]\n{PRIVATE.id} = "0.2"', f'[budget.people]\n{ANA.id} = "0.2"'],
    ids=["channel", "person"],
)
def test_64_approvals_at_once_never_pass_the_budget_of_a_channel_or_a_person(
    make_world: MakeWorld, limit: str
) -> None:
    world = make_world(Rules(budget="20", more=limit))
    plan = plan_from_json(world.start().plan)
    runs = [asked(world, plan, number) for number in range(THREADS)]
    context, answers = racing(world), list[Run | Refusal]()

    def approve(number: int) -> None:
        answers.append(approvals.approve(context, runs[number].plan_hash, BEN.id, WHY))
        world.store.database.close_connection()

    run_at_once(THREADS, approve)
    fits = 200_000 // plan.maximum_micros
    refused = [one for one in answers if isinstance(one, Refusal)]
    assert len(answers) - len(refused) == fits > 1
    assert all("of this month's $0.20 for <" in one.text for one in refused)
    assert world.store.committed(units.month_of(world.clock)) == fits * plan.maximum_micros <= 200_000


def test_64_clicks_on_one_plan_reserve_once(make_world: MakeWorld) -> None:
    world = make_world(Rules())
    run = world.start()
    maximum = plan_from_json(run.plan).maximum_micros
    context, answers = racing(world), list[Run | Refusal]()

    def approve(number: int) -> None:
        answers.append(approvals.approve(context, run.plan_hash, (BEN, CLEO)[number % 2].id, WHY))
        world.store.database.close_connection()

    run_at_once(THREADS, approve)
    assert sum(isinstance(one, Run) for one in answers) == 1
    assert world.store.committed(units.month_of(world.clock)) == maximum
    assert len(world.store.runs.decisions(run.id)) == 1


def test_64_measurements_priced_at_once_never_pass_the_budget(make_world: MakeWorld) -> None:
    world = make_world(Rules(budget="20", more=PRICES))
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME} rungs=zero", user=BEN)
    first = until_asked(world)
    progress = LadderProgress.from_json(first.progress)
    fits = 5
    world.rules.budget = str(from_micros(progress.most_micros * (fits + 1)))  # the first one holds its share
    world.restart()
    new = NewMeasurement("ladder", first.dataset_id, first.channel, BEN.id, first.plan)
    added = [world.store.measurements.add(new, now=world.clock) for _ in range(THREADS)]
    context = racing(world)

    def price(number: int) -> None:
        measurements.settle_cost(context, added[number], progress)
        world.store.database.close_connection()

    run_at_once(THREADS, price)
    states = [world.store.measurements.get(one.id).state for one in added]
    assert (states.count("asked"), states.count("failed")) == (fits, THREADS - fits)
    assert world.store.committed(units.month_of(world.clock)) == progress.most_micros * (fits + 1)


def test_one_measurement_asked_for_by_many_at_once_is_recorded_once(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    context, answers = racing(world), list[Measurement | Refusal]()
    command = Baseline("tickets", models=("acme/acme-small",), rungs=("zero",))

    def ask(number: int) -> None:
        answers.append(evaluations.ask(context, command, (BEN, CLEO)[number % 2].id, PRIVATE.id))
        world.store.database.close_connection()

    run_at_once(16, ask)
    assert [one.id for one in answers if isinstance(one, Measurement)] == [1]
    assert all("under way already: m1" in one.text for one in answers if isinstance(one, Refusal))
    assert len(world.store.measurements.open()) == 1
