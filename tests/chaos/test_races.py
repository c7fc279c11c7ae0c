"""Races for one run over HTTP, as Slack delivers them, checked by the provider's jobs and the ledger.

Sixty-four threads for one budget are in tests/bot/decisions/test_story_budget_race.py.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal

from demo.people import ANA, BEN
from demo.workspace import Person, WorkspaceError
from tests.bot.world import CLEO, PRIVATE, START, WHY, Rules, World


def approve_at_once(world: World, people: tuple[Person, ...]) -> None:
    """Opens a form for each click, then sends all forms. A form that was closed meanwhile can't be sent."""
    for person in people:
        world.click(person, "approve_plan")

    def send(person: Person) -> None:
        with suppress(WorkspaceError):
            world.slack.submit_modal(person.id, {"reason": WHY})

    with ThreadPoolExecutor(len(people)) as threads:
        list(threads.map(send, people))


def test_twenty_forms_of_one_person_reserve_once_and_start_one_job(world: World) -> None:
    run = world.start()
    approve_at_once(world, (BEN,) * 20)
    world.tick_until_state("training")
    assert world.jobs() == 1
    assert set(world.ledger()) == {"reserve"} and world.run().reserved_micros > 0
    assert [decision.person for decision in world.store.runs.decisions(run.id)] == [BEN.id]
    assert len([text for text in world.texts() if text.startswith("Run 1 is training")]) == 1


def test_two_approvers_at_once_are_a_quorum_of_two(make_world: Callable[[Rules], World]) -> None:
    world = make_world(Rules(quorum=2))
    world.start()
    approve_at_once(world, (BEN, CLEO))
    world.tick_until_state("training")
    assert world.jobs() == 1 and set(world.ledger()) == {"reserve"}
    assert {decision.person for decision in world.store.runs.decisions(1)} == {BEN.id, CLEO.id}


def test_two_approvers_at_once_start_one_job_if_one_is_enough(world: World) -> None:
    world.start()
    approve_at_once(world, (BEN, CLEO))
    world.tick_until_state("training")
    world.tick(3)
    assert world.jobs() == 1 and set(world.ledger()) == {"reserve"}
    assert len(world.store.runs.decisions(1)) == 1, "the second came too late"


def test_an_approval_and_a_new_plan_at_once_start_one_of_the_two(world: World) -> None:
    world.start()
    world.click(BEN, "approve_plan")
    with ThreadPoolExecutor(2) as threads:
        approval = threads.submit(world.slack.submit_modal, BEN.id, {"reason": WHY})
        again = START.replace("volume=100M", "volume=200M")
        plan = threads.submit(world.slack.command, ANA.id, PRIVATE.id, again)
        approval.result()
        plan.result()
    world.tick_until(lambda: world.store.runs.get(2), "the new plan, which is stored after the ack")
    world.tick(5)
    assert world.jobs() <= 1
    states = [world.run(number).state for number in (1, 2)]
    assert states[0] in ("training", "evaluating", "cancelled") and states[1] == "awaiting_approval", states


def test_a_lower_price_and_budget_after_the_approval_change_no_approved_plan(world: World) -> None:
    """The stored plan was approved, with its price list; the new figures apply to the next plan. A price that has
    risen ends it (test_story_plan_integrity.py)."""
    run = world.start_approved()
    world.rules.training, world.rules.budget = "0.80", "0.01"
    world.restart()
    world.tick_until_state("done")
    assert world.jobs() == 1
    assert world.run().plan == run.plan and world.run().plan_hash == run.plan_hash
    settled = Decimal(world.ledger()["settle"])
    assert 0 < settled <= run.reserved_micros
