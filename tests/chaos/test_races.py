"""Races for one run: over HTTP, as Slack delivers them, judged by what the provider has and the ledger holds.

Sixty-four threads for one budget are in tests/bot/test_story_race.py.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal

import pytest

from demo.people import BEN
from demo.workspace import Person, WorkspaceError
from tests.bot.world import CLEO, PRIVATE, START, WHY, Rules, World

MakeWorld = Callable[[Rules], World]


def approved_at_once(world: World, people: tuple[Person, ...]) -> None:
    """Each click opens a form; then all forms are sent. One that another has closed meanwhile can't be."""
    for one in people:
        world.click(one, "approve_plan")

    def send(one: Person) -> None:
        with suppress(WorkspaceError):
            world.slack.submit_modal(one.id, {"reason": WHY})

    with ThreadPoolExecutor(len(people)) as threads:
        for sent in [threads.submit(send, one) for one in people]:
            sent.result()


def test_twenty_forms_of_one_person_reserve_once_and_start_one_job(world: World) -> None:
    run = world.start()
    approved_at_once(world, (BEN,) * 20)
    world.tick_until_state("training")
    assert world.jobs() == 1
    assert set(world.ledger()) == {"reserve"} and world.run().reserved_micros > 0
    assert [one.person for one in world.store.runs.decisions(run.id)] == [BEN.id]
    assert len([text for text in world.texts() if text.startswith("Run 1 is training")]) == 1


def test_two_approvers_at_once_are_a_quorum_of_two(make_world: MakeWorld) -> None:
    world = make_world(Rules(quorum=2))
    world.start()
    approved_at_once(world, (BEN, CLEO))
    world.tick_until_state("training")
    assert world.jobs() == 1 and set(world.ledger()) == {"reserve"}
    assert {one.person for one in world.store.runs.decisions(1)} == {BEN.id, CLEO.id}


def test_two_approvers_at_once_where_one_is_enough_start_one_job(world: World) -> None:
    world.start()
    approved_at_once(world, (BEN, CLEO))
    world.tick_until_state("training")
    world.tick(3)
    assert world.jobs() == 1 and set(world.ledger()) == {"reserve"}
    assert len(world.store.runs.decisions(1)) == 1, "the second came too late, and is told so"


def test_an_approval_and_a_new_plan_at_once_start_one_of_the_two(world: World) -> None:
    world.start()
    world.click(BEN, "approve_plan")
    with ThreadPoolExecutor(2) as threads:
        sent = threads.submit(world.slack.submit_modal, BEN.id, {"reason": WHY})
        asked = threads.submit(world.slack.command, "U0ANA", PRIVATE.id, f"{START} epochs=2")
        sent.result()
        asked.result()
    world.tick_until(lambda: world.store.runs.get(2), "the new plan, which is made after the ack")
    world.tick(5)
    assert world.jobs() <= 1
    states = [world.run(number).state for number in (1, 2)]
    assert states[0] in ("training", "evaluating", "cancelled") and states[1] == "awaiting_approval", states


@pytest.mark.parametrize("change", ["price", "budget"])
def test_a_config_changed_between_approval_and_create_changes_no_approved_plan(
    world: World,
    change: str,
) -> None:
    """What was approved is the stored plan, its price list in it; the new figures hold for the next plan."""
    run = world.start_approved()
    if change == "price":
        world.rules.training = "800.00"
    else:
        world.rules.budget = "0.01"
    world.restart()
    world.tick_until_state("done")
    assert world.jobs() == 1
    assert world.run().plan == run.plan and world.run().plan_hash == run.plan_hash
    settled = Decimal(world.ledger()["settle"])
    assert 0 < settled <= run.reserved_micros
