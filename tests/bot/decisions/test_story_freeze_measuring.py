"""What a freeze does to measurements: those that cost money wait."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from bot.cards.evidence import evaluations
from demo.people import BEN
from tests.bot.decisions.test_story_freeze import freeze, unfreeze
from tests.bot.measurements import ACME, CHAT, PRICES, measurement, until, until_asked
from tests.bot.world import CLEO, Rules, World
from tests.patience import wait_until

MakeWorld = Callable[[Rules], World]


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(Rules(more=PRICES))


def test_a_comparison_agreed_to_during_a_freeze_asks_nothing_until_it_ends(world: World) -> None:
    world.seed_dataset()
    freeze(world)
    world.type(f"/finetune baseline tickets {ACME} candidates=zero")
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    world.tick(8)
    assert measurement(world).state == "running" and world.provider.count(CHAT) == 0
    assert world.find_message("m1", f"Waiting: spending was frozen by <@{BEN.id}>", "the bill looks odd")
    unfreeze(world, BEN, CLEO)
    until(world, "done")
    assert world.provider.count(CHAT) > 0


@pytest.mark.deep
@pytest.mark.parametrize("option", ["shots=auto", "optimise=$2"])
def test_examples_and_prompts_are_not_chosen_during_a_freeze(world: World, option: str) -> None:
    world.seed_dataset()
    freeze(world)
    world.type(f"/finetune baseline tickets {ACME} candidates=zero,few {option}")
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    for _ in range(20):
        world.tick()
        time.sleep(0.05)
    assert measurement(world).state == "running" and world.provider.count(CHAT) == 0
    assert world.find_message("m1", f"Waiting: spending was frozen by <@{BEN.id}>")
    unfreeze(world, BEN, CLEO)
    world.tick_until(lambda: world.provider.count(CHAT) > 0, "the first question")


def test_free_models_are_measured_during_a_freeze(world: World) -> None:
    world.seed_dataset()
    freeze(world)
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done")


def test_a_comparison_under_way_asks_nothing_more_until_the_freeze_ends(world: World) -> None:
    world.seed_dataset()
    world.provider.slow_s = 0.1
    world.type(f"/finetune baseline tickets {ACME} candidates=zero,few")
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    world.tick_until(lambda: world.provider.count(CHAT) > 0, "the first question")
    freeze(world)
    world.tick()
    world.provider.slow_s = 0.0
    wait_until(lambda: not world.service.context.llm.drop("m1"), "the answers under way")
    chats = world.provider.count(CHAT)
    world.tick(8)
    assert world.provider.count(CHAT) == chats < 2 * 18
    assert world.find_message("m1", f"Waiting: spending was frozen by <@{BEN.id}>")
    unfreeze(world, BEN, CLEO)
    until(world, "done")
    assert world.provider.count(CHAT) == 2 * 18, "answers under way are stored and not asked for again"
