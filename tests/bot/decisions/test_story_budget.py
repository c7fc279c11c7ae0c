"""The month's budget as people see it, and the warnings as it is used up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.rules.plans import plan_from_json
from bot.rules.units import month_of
from demo.people import ANA, BEN
from tests.bot.measurements import ACME, PRICES, until_asked
from tests.bot.world import PRIVATE, PUBLIC, Rules, World
from trainers.money import from_micros, usd_micros

MakeWorld = Callable[[Rules], World]
DAYS = 24 * 3600.0


def approve(world: World) -> int:
    """Approve a run; returns the maximum that is then reserved."""
    run = world.start_approved()
    world.tick()
    return plan_from_json(run.plan).maximum_micros


def approve_share_of_budget(make_world: MakeWorld, percent: int, **more: str) -> World:
    """Approve a run that takes `percent` of the month's budget."""
    world = make_world(Rules(budget="1"))
    maximum = plan_from_json(world.start().plan).maximum_micros
    world.rules.budget = str(from_micros(maximum * 100 // percent))
    world.rules.fallback = more.get("fallback", "")
    world.restart()
    world.approve()
    world.tick()
    return world


def warnings(world: World, **where: object) -> list[str]:
    return [text for text in world.texts(**where) if "of the budget of" in text or "is used up" in text]  # type: ignore[arg-type]


@pytest.mark.deep
def test_the_budget_lists_runs_and_measurements_of_the_month(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME} candidates=zero", user=BEN)
    measurement = until_asked(world)
    maximum = approve(world)
    assert_list_adds_up(world)
    world.tick_until_state("done")
    assert_list_adds_up(world)
    listing = world.type("/finetune budget", user=BEN)
    assert world.ledger()["settle"] <= maximum
    spent, reserved = usd_micros(world.ledger()["settle"]), usd_micros(measurement.reserved_micros)
    assert f"*Run 1* on tickets: {spent} spent, for <@{ANA.id}> in <#{PRIVATE.id}>" in listing
    assert f"*Measurement m1* on tickets: {reserved} reserved, for <@{BEN.id}>" in listing
    assert listing.index("Run 1") < listing.index("m1")
    assert f"<@{ANA.id}>: {spent}" in listing and "of $20.00 left" in listing
    world.type("/finetune cancel m1", user=BEN)
    world.tick()
    assert "reserved, for" not in world.type("/finetune budget")
    world.pass_time(32 * DAYS)
    listing = world.type("/finetune budget")
    assert "Run 1" not in listing and "$20.00 of $20.00" in listing, "another month"


def assert_list_adds_up(world: World) -> None:
    month = month_of(world.clock)
    commitments = world.store.ledger.commitments(month)
    assert sum(commitment.micros for commitment in commitments) == world.store.committed(month) > 0


@pytest.mark.deep
def test_half_of_the_budget_is_warned_about_once(make_world: MakeWorld) -> None:
    world = approve_share_of_budget(make_world, 60)
    (warning,) = warnings(world)
    assert "50% of the budget of" in warning and "is spent or reserved" in warning
    world.tick(3)
    world.restart()
    world.tick(3)
    assert len(warnings(world)) == 1


@pytest.mark.deep
def test_of_several_warnings_due_at_once_only_the_highest_is_sent(make_world: MakeWorld) -> None:
    world = approve_share_of_budget(make_world, 100)
    (warning,) = warnings(world)
    assert "is used up" in warning
    world.tick_until_state("done")  # it costs less than reserved, but no lower warning follows
    world.tick(3)
    assert len(warnings(world)) == 1
    assert world.store.ledger.warned(month_of(world.clock)) == {50, 80, 100}


def test_warnings_go_to_the_fallback_channel_if_there_is_one(make_world: MakeWorld) -> None:
    world = approve_share_of_budget(make_world, 85, fallback=PUBLIC.id)
    assert warnings(world) == []
    (warning,) = warnings(world, channel=PUBLIC)
    assert "80% of the budget of" in warning


def set_limits(world: World, *, channel: str = "", person: str = "") -> None:
    """Set the budgets of the private channel and of Ana."""
    more = f'[budget.channels]\n{PRIVATE.id} = "{channel}"\n' if channel else ""
    world.rules.more = more + (f'[budget.people]\n{ANA.id} = "{person}"\n' if person else "")
    world.restart()


def test_the_tightest_budget_decides_and_is_named(world: World) -> None:
    world.start()
    set_limits(world, channel="1", person="0.01")
    refusal = world.click_and_read(BEN, "approve_plan")
    assert f"$0.01 of this month's $0.01 for <@{ANA.id}> is left" in refusal and "[budget.people]" in refusal
    set_limits(world, channel="0.02", person="1")
    refusal = world.click_and_read(BEN, "approve_plan")
    assert f"of this month's $0.02 for <#{PRIVATE.id}> is left" in refusal and "[budget.channels]" in refusal
    set_limits(world, channel="1", person="1")
    world.approve()
    assert world.run().state == "approved"


def test_a_person_sees_their_own_and_their_channels_budget(world: World) -> None:
    set_limits(world, channel="1", person="2")
    approve(world)
    listing = world.type("/finetune budget")
    assert f"This month for <#{PRIVATE.id}>: $0.94 of $1.00 left" in listing
    assert f"This month for <@{ANA.id}>: $1.94 of $2.00 left" in listing
    elsewhere = world.type("/finetune budget", user=BEN, channel=PUBLIC)
    assert "for <#" not in elsewhere.split("Newest first")[0] and f"for <@{BEN.id}>" not in elsewhere


@pytest.mark.deep
def test_each_budget_warns_once_those_whom_it_limits(world: World) -> None:
    world.start()
    set_limits(world, channel="0.09", person="0.07")
    world.approve()
    world.tick(2)
    world.restart()
    world.tick(2)
    (warning,) = warnings(world)
    assert "50% of the budget of" in warning and f"for <#{PRIVATE.id}> is used" in warning
    (notice,) = [text for text in world.dms(ANA) if "of the budget of" in text]
    assert "80% of the budget of" in notice and f"for <@{ANA.id}> is used" in notice


def test_a_measurement_counts_against_its_persons_budget(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=f'[budget.people]\n{BEN.id} = "0.000001"\n' + PRICES))
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME} candidates=zero", user=BEN)
    world.tick_until(lambda: world.store.measurements.get(1).state == "failed", "the refusal")
    world.send()
    assert world.find_message("This measurement may cost", f"for <@{BEN.id}>", "[budget.people]")
