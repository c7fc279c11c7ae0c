"""An approval that somebody must give: its card reaches those who can, or the command is refused with the cure."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from demo.people import ANA, BEN
from demo.workspace import Channel, Person, wait_until
from tests.bot.world import CLEO, PRIVATE, PUBLIC, START, WHY, WITHOUT_BOT, Rules, World

MakeWorld = Callable[[Rules], World]


def home(world: World, person: Person) -> str:
    """What the person's App Home shows once it was opened."""
    before = len(world.slack.calls("views.publish"))
    world.slack.open_home(person.id)
    wait_until(lambda: len(world.slack.calls("views.publish")) > before, "the App Home")
    shown = world.slack.home(person.id)
    assert shown is not None
    return json.dumps(list(shown.blocks), ensure_ascii=False)


@pytest.mark.parametrize("line", [START, "/finetune baseline tickets", "/finetune curve tickets"])
def test_where_the_bot_is_not_a_command_that_posts_is_refused_with_the_cure(world: World, line: str) -> None:
    world.seed_dataset(channel=PUBLIC)
    world.slack.remove_bot(PUBLIC.id)
    assert "/invite @Finetune" in world.type(line, channel=PUBLIC)
    assert world.store.runs.newest(1) == [] and world.store.measurements.open() == []
    world.slack.add_bot(PUBLIC.id)
    assert world.type(line, channel=PUBLIC) == ""


def test_with_a_fallback_channel_the_card_stands_there(make_world: MakeWorld) -> None:
    world = make_world(Rules(fallback=PUBLIC.id))
    world.seed_dataset(channel=WITHOUT_BOT)
    assert world.type(START, channel=WITHOUT_BOT) == ""
    world.tick(2)
    world.approve(BEN, channel=PUBLIC)
    world.tick_until_state("training")


def test_a_plan_is_not_asked_for_where_nobody_else_sees_it(world: World) -> None:
    world.seed_dataset()
    alone = Channel(world.slack.dm(ANA.id), "dm", (ANA.id,))
    said = world.type(START, channel=alone)
    assert "in a channel that approvers and I are in" in said and "/invite @Finetune" in said
    assert world.store.runs.newest(1) == []


def test_a_card_that_lost_its_channel_is_told_and_stands_there_once_the_bot_is_invited(world: World) -> None:
    world.seed_dataset()
    assert world.type(START) == ""
    world.slack.remove_bot(PRIVATE.id)
    world.tick(3)
    (told,) = world.dms(ANA)
    assert "Run 1: train" in told and "/invite @Finetune" in told
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
    assert "approve_plan" not in home(world, ANA), "who asked can't approve"
    assert "Not now: too few rows" in shown
    world.slack.press(BEN.id, "approve_plan", home=True)
    assert world.slack.submit_modal(BEN.id, {"reason": WHY}).closed
    assert world.run(run.id).state != "awaiting_approval"
    world.tick_until_state("training")
    assert world.jobs() == 1
    wait_until(
        lambda: "approve_plan" not in json.dumps(list(world.slack.home(BEN.id).blocks)), "the new Home"
    )


def test_a_no_to_a_click_on_the_app_home_is_read_there(world: World) -> None:
    world.start()
    home(world, BEN)
    assert world.type("/finetune cancel 1") != ""
    world.tick()
    world.slack.press(BEN.id, "approve_plan", home=True)
    notice = wait_until(lambda: world.slack.view(BEN.id), "the answer")
    assert "moved on" in json.dumps(list(notice.blocks))


def test_a_run_that_has_enough_approvers_by_a_lowered_number_goes_on(make_world: MakeWorld) -> None:
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


def test_a_run_whose_only_approver_was_taken_off_the_list_does_not(make_world: MakeWorld) -> None:
    world = make_world(Rules(quorum=2))
    world.start()
    world.approve()
    world.rules.quorum, world.rules.approvers = 1, (CLEO.id,)
    world.restart()
    for _ in range(4):
        world.pass_time(61)
        world.tick()
    assert world.run().state == "awaiting_approval" and world.jobs() == 0
