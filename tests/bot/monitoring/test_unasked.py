"""What the policy allows without asking: only within the month's money, only while nothing is frozen, and only rows
that may leave. What doesn't begin so waits for a click, as any measurement does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bot.cards.evidence import evaluations
from bot.services.common import budgets
from bot.services.measurement import measurements
from demo.people import BEN
from storage.monitoring.proposals import WatchMeasurement
from storage.records import Measurement
from tests.bot.measurements import PRICES, measurement, until_asked
from tests.bot.models.test_story_use_candidate import answer_right
from tests.bot.monitoring.test_story_watch import deploy_prompt
from tests.bot.world import DORA, MakeWorld, Rules, World

AGAIN = "/finetune baseline tickets candidates=kshot models=acme/acme-small shots=2"
BUDGET = "[policy.watch]\nusd_per_month = '{usd}'\n"


def begin(make_world: MakeWorld, usd: str = "1") -> tuple[World, Measurement]:
    """A measurement waits for somebody to agree to its cost."""
    world = make_world(Rules(more=f"{PRICES}{BUDGET.format(usd=usd)}"))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    assert world.type(AGAIN, user=DORA) == ""
    return world, until_asked(world, 2)


def leave_to_policy(world: World, waiting: Measurement) -> None:
    """Nobody asked for it but the policy."""
    began = WatchMeasurement(waiting.id, "tickets", None, None, world.clock)
    world.store.watch_measurements.add(began)


def begin_unasked(world: World) -> bool:
    with world.store.transaction():
        return measurements.begin_unasked(world.service.context, measurement(world, 2), "a test")


def test_within_the_month_it_begins_and_its_cost_is_no_longer_left(make_world: MakeWorld) -> None:
    world, waiting = begin(make_world)
    leave_to_policy(world, waiting)
    world.tick()
    assert measurement(world, 2).state == "running"
    left = budgets.left_for_watching(world.service.context)
    assert left == 1_000_000 - waiting.reserved_micros


def test_what_was_reserved_in_another_month_begins_only_after_a_click(make_world: MakeWorld) -> None:
    world, _ = begin(make_world)
    here = datetime.fromtimestamp(world.clock, UTC)
    next_month = (here.replace(day=1) + timedelta(days=32)).replace(day=1)
    world.pass_time(next_month.timestamp() - world.clock)
    assert not begin_unasked(world)
    assert measurement(world, 2).state == "asked"


def test_rows_that_may_not_leave_any_more_are_not_sent_unasked(make_world: MakeWorld) -> None:
    world, _ = begin(make_world)
    world.rules.more += '[[policy.data]]\nname = "tickets stay here"\nproviders = ["local"]\n'
    world.restart()
    assert not begin_unasked(world)
    assert measurement(world, 2).state == "asked"


@pytest.mark.deep
@pytest.mark.parametrize("is_spent", [False, True], ids=["too dear", "spent before"])
def test_a_cost_above_what_is_left_is_asked_for(make_world: MakeWorld, is_spent: bool) -> None:
    world, waiting = begin(make_world, usd="0.0001" if not is_spent else "0.01")
    if is_spent:
        spend(world, 10_000)
    leave_to_policy(world, waiting)
    world.tick(3)
    assert measurement(world, 2).state == "asked" and world.has_button(evaluations.MEASURE)


def spend(world: World, micros: int) -> None:
    """An earlier measurement of this month has cost this much without asking."""
    began = WatchMeasurement(1, "tickets", None, None, world.clock, begun_at=world.clock)
    world.store.watch_measurements.add(began)
    world.store.database.change("UPDATE measurements SET actual_micros = ? WHERE id = 1", (micros,))


def test_a_freeze_that_comes_after_the_request_holds_it(make_world: MakeWorld) -> None:
    world, waiting = begin(make_world)
    world.type("/finetune freeze because=the bill looks odd today", user=BEN)
    leave_to_policy(world, waiting)
    world.tick(3)
    assert measurement(world, 2).state == "asked"
