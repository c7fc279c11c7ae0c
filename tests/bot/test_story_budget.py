"""The month's money as people see it, and the warnings as it is used up."""

from __future__ import annotations

from collections.abc import Callable

from bot.rules.plans import plan_from_json
from bot.rules.units import month_of
from demo.people import ANA, BEN
from tests.bot.test_story_ladder import ACME, PRICES, until_asked
from tests.bot.world import PRIVATE, PUBLIC, Rules, World
from trainers.money import from_micros, usd_micros

MakeWorld = Callable[[Rules], World]
DAYS = 24 * 3600.0


def approve(world: World) -> int:
    """The maximum that is reserved now."""
    run = world.start_approved()
    world.tick()
    return plan_from_json(run.plan).maximum_micros


def with_budget_of(make_world: MakeWorld, percent: int, **more: str) -> World:
    """A run is approved that takes `percent` of the month's budget."""
    world = make_world(Rules(budget="1"))
    most = plan_from_json(world.start().plan).maximum_micros
    world.rules.budget = str(from_micros(most * 100 // percent))
    world.rules.fallback = more.get("fallback", "")
    world.restart()
    world.approve()
    world.tick()
    return world


def warnings(world: World, **where: object) -> list[str]:
    return [text for text in world.texts(**where) if "of the budget of" in text or "is used up" in text]  # type: ignore[arg-type]


def test_a_run_and_a_measurement_are_listed_with_what_they_hold(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME} rungs=zero", user=BEN)
    asked = until_asked(world)
    most = approve(world)
    world.tick_until_state("done")
    said = world.type("/finetune budget", user=BEN)
    spent = usd_micros(world.ledger()["settle"])
    assert world.ledger()["settle"] <= most
    assert f"*Run 1* on tickets: {spent} spent, for <@{ANA.id}> in <#{PRIVATE.id}>" in said
    assert (
        f"*Measurement m1* on tickets: {usd_micros(asked.reserved_micros)} reserved, for <@{BEN.id}>" in said
    )
    assert said.index("Run 1") < said.index("m1")
    assert f"<@{ANA.id}>: {spent}" in said and "of $20.00 left" in said
    world.type("/finetune cancel m1", user=BEN)
    world.tick()
    assert "reserved, for" not in world.type("/finetune budget")


def test_what_is_listed_adds_up_to_what_the_hard_stop_counts(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME} rungs=zero", user=BEN)
    until_asked(world)
    approve(world)
    for _ in range(2):
        this = month_of(world.clock)
        assert (
            sum(one.micros for one in world.store.ledger.commitments(this)) == world.store.committed(this) > 0
        )
        world.tick_until_state("done")


def test_another_month_begins_with_nothing_held(world: World) -> None:
    approve(world)
    world.tick_until_state("done")
    world.pass_time(32 * DAYS)
    assert "Run 1" not in world.type("/finetune budget") and "$20.00 of $20.00" in world.type(
        "/finetune budget"
    )


def test_half_of_the_budget_is_warned_of_once_where_it_happened(make_world: MakeWorld) -> None:
    world = with_budget_of(make_world, 60)
    (said,) = warnings(world)
    assert "50% of the budget of" in said and "is spent or reserved" in said
    world.tick(3)
    world.restart()
    world.tick(3)
    assert len(warnings(world)) == 1


def test_of_several_that_are_passed_at_once_the_highest_is_said(make_world: MakeWorld) -> None:
    world = with_budget_of(make_world, 100)
    (said,) = warnings(world)
    assert "is used up" in said
    world.tick_until_state("done")  # it cost less than was reserved: no lower warning comes after the highest
    world.tick(3)
    assert len(warnings(world)) == 1
    assert world.store.ledger.warned(month_of(world.clock)) == {50, 80, 100}


def test_warnings_go_to_the_fallback_channel_where_one_is_set(make_world: MakeWorld) -> None:
    world = with_budget_of(make_world, 85, fallback=PUBLIC.id)
    assert warnings(world) == []
    (said,) = warnings(world, channel=PUBLIC)
    assert "80% of the budget of" in said


def limits(world: World, *, channel: str = "", person: str = "") -> None:
    """Of the channel where everything happens, and of who asks there."""
    more = f'[budget.channels]\n{PRIVATE.id} = "{channel}"\n' if channel else ""
    world.rules.more = more + (f'[budget.people]\n{ANA.id} = "{person}"\n' if person else "")
    world.restart()


def test_the_tightest_of_team_channel_and_person_decides_and_is_named(world: World) -> None:
    world.start()
    limits(world, channel="1", person="0.01")
    said = world.click_and_read(BEN, "approve_plan")
    assert f"$0.01 of this month's $0.01 for <@{ANA.id}> is left" in said and "[budget.people]" in said
    limits(world, channel="0.02", person="1")
    said = world.click_and_read(BEN, "approve_plan")
    assert f"of this month's $0.02 for <#{PRIVATE.id}> is left" in said and "[budget.channels]" in said
    limits(world, channel="1", person="1")
    world.approve()
    assert world.run().state == "approved"


def test_who_asks_sees_the_limits_that_concern_them_there(world: World) -> None:
    limits(world, channel="1", person="2")
    approve(world)
    said = world.type("/finetune budget")
    assert f"This month for <#{PRIVATE.id}>: $0.94 of $1.00 left" in said
    assert f"This month for <@{ANA.id}>: $1.94 of $2.00 left" in said
    elsewhere = world.type("/finetune budget", user=BEN, channel=PUBLIC)
    assert "for <#" not in elsewhere.split("Newest first")[0] and f"for <@{BEN.id}>" not in elsewhere


def test_each_limit_warns_once_those_whose_it_is(world: World) -> None:
    world.start()
    limits(world, channel="0.09", person="0.07")
    world.approve()
    world.tick(2)
    world.restart()
    world.tick(2)
    (said,) = warnings(world)
    assert "50% of the budget of" in said and f"for <#{PRIVATE.id}> is used" in said
    (told,) = [text for text in world.dms(ANA) if "of the budget of" in text]
    assert "80% of the budget of" in told and f"for <@{ANA.id}> is used" in told


def test_a_measurement_counts_for_its_channel_and_person_too(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=f'[budget.people]\n{BEN.id} = "0.000001"\n' + PRICES))
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME} rungs=zero", user=BEN)
    world.tick_until(lambda: world.store.measurements.get(1).state == "failed", "the refusal")
    world.send()
    assert world.find_message("This measurement may cost", f"for <@{BEN.id}>", "[budget.people]")
