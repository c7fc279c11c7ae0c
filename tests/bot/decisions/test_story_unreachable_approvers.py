"""A request for approval reaches people who can approve, or the command is refused with the fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from demo.people import ANA, BEN
from demo.workspace import Channel, Person
from tests.bot.world import CLEO, PRIVATE, PUBLIC, START, WHY, WITHOUT_BOT, Rules, World
from tests.patience import wait_until

MakeWorld = Callable[[Rules], World]


def home(world: World, person: Person) -> str:
    """Open the person's App Home; returns what it shows."""
    before = len(world.slack.calls("views.publish"))
    world.slack.open_home(person.id)
    wait_until(lambda: len(world.slack.calls("views.publish")) > before, "the App Home")
    return json.dumps(_home_blocks(world, person), ensure_ascii=False)


def _home_blocks(world: World, person: Person) -> list[Any]:
    home = world.slack.home(person.id)
    assert home is not None
    return list(home.blocks)


@pytest.mark.parametrize("line", [START, "/finetune baseline tickets", "/finetune curve tickets"])
def test_a_command_that_posts_is_refused_in_a_channel_without_the_bot(world: World, line: str) -> None:
    world.seed_dataset(channel=PUBLIC)
    world.slack.remove_bot(PUBLIC.id)
    assert "/invite @Finetune" in world.type(line, channel=PUBLIC)
    assert world.store.runs.newest(1) == [] and world.store.measurements.open() == []
    world.slack.add_bot(PUBLIC.id)
    assert world.type(line, channel=PUBLIC) == ""


def test_with_a_fallback_channel_the_card_is_posted_there(make_world: MakeWorld) -> None:
    world = make_world(Rules(fallback=PRIVATE.id))
    world.seed_dataset(channel=WITHOUT_BOT, called="salaries")
    refusal = world.type(START.replace("tickets", "salaries"), channel=WITHOUT_BOT)
    assert "/invite @Finetune" in refusal, "what belongs to a private channel goes nowhere else"
    world.slack.remove_bot(PUBLIC.id)
    world.seed_dataset(channel=PUBLIC)
    assert world.type(START, channel=PUBLIC) == ""
    world.tick(2)
    world.approve(BEN)
    world.tick_until_state("training")


def test_a_plan_is_refused_where_nobody_else_would_see_it(world: World) -> None:
    world.seed_dataset()
    alone = Channel(world.slack.dm(ANA.id), "dm", (ANA.id,))
    refusal = world.type(START, channel=alone)
    assert "in a channel that approvers and I are in" in refusal and "/invite @Finetune" in refusal
    assert world.store.runs.newest(1) == []


def test_a_card_that_lost_its_channel_is_posted_once_the_bot_is_invited_back(world: World) -> None:
    world.seed_dataset()
    assert world.type(START) == ""
    world.slack.remove_bot(PRIVATE.id)
    world.tick(3)
    (notice,) = world.dms(ANA)
    assert "Run 1: train" in notice and "/invite @Finetune" in notice
    world.slack.add_bot(PRIVATE.id)
    world.pass_time(300)
    world.tick(2)
    world.approve()
    world.tick_until_state("training")


def test_the_app_home_of_an_approver_has_the_buttons_and_the_link(world: World) -> None:
    run = world.start()
    shown = home(world, BEN)
    assert "approve_plan" in shown and "reject_plan" in shown
    assert world.find_button("approve_plan").ts.replace(".", "") in shown, "the card's address"
    assert "approve_plan" not in home(world, ANA), "the requester can't approve"
    assert "Not now: too few rows" in shown
    world.slack.press(BEN.id, "approve_plan", home=True)
    assert world.slack.submit_modal(BEN.id, {"reason": WHY}).closed
    assert world.run(run.id).state != "awaiting_approval"
    world.tick_until_state("training")
    assert world.jobs() == 1
    wait_until(lambda: "approve_plan" not in json.dumps(_home_blocks(world, BEN)), "the new Home")


def test_a_refused_click_on_the_app_home_is_answered_there(world: World) -> None:
    world.start()
    home(world, BEN)
    assert world.type("/finetune cancel 1") != ""
    world.tick()
    world.slack.press(BEN.id, "approve_plan", home=True)
    notice = wait_until(lambda: world.slack.view(BEN.id), "the answer")
    assert "moved on" in json.dumps(list(notice.blocks))


def test_a_run_continues_once_a_lowered_quorum_makes_its_approvals_enough(make_world: MakeWorld) -> None:
    world = make_world(Rules(quorum=2))
    world.start()
    world.approve()
    world.tick(3)
    assert world.run().state == "awaiting_approval"
    world.rules.quorum = 1
    world.restart()
    world.pass_time(61)
    world.tick_until_state("training")
    assert world.jobs() == 1
    assert world.ledger()["reserve"] == json.loads(world.run().plan)["maximum_micros"]


def test_a_lowered_quorum_does_not_count_a_removed_approver(make_world: MakeWorld) -> None:
    world = make_world(Rules(quorum=2))
    world.start()
    world.approve()
    world.rules.quorum, world.rules.approvers = 1, (CLEO.id,)
    world.restart()
    for _ in range(4):
        world.pass_time(61)
        world.tick()
    assert world.run().state == "awaiting_approval" and world.jobs() == 0
