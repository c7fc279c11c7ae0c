"""A candidate on live calls, from the command through a real door to the card: what it answers is asked for by the
door, compared by the bot, and paid as the vendor has billed it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import openai
import pytest

from bot.cards.common.candidates import promotable_name
from bot.services.serving import actuals
from demo.people import BEN
from tests.bot.measurements import PRICES, measure
from tests.bot.models.test_story_use_candidate import answer_right
from tests.bot.monitoring.test_story_live_tests import WATCH, begin, current_test, live_test
from tests.bot.monitoring.test_story_mondays import ask, billed_usd
from tests.bot.monitoring.test_story_watch import current, deploy_prompt, promotion
from tests.bot.props import LABELS
from tests.bot.world import DORA, MakeWorld, Rules, World
from tests.patience import wait_until
from tests.peers.dated_door import serve_dated_door
from trainers.recipes import canary_events, shadow_answers
from trainers.recipes.folder import RecipeFolder

CALLS = 12


def measured_world(make_world: MakeWorld, more: str) -> World:
    """A prompt is in use, and one with examples is measured."""
    world = make_world(Rules(more=more))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    measure(world, "/finetune baseline tickets candidates=few models=acme/acme-small", 2)
    return world


@pytest.fixture
def sampled(make_world: MakeWorld) -> World:
    """All calls are sampled, and watching may spend a dollar."""
    world = measured_world(make_world, PRICES + WATCH)
    world.type("/finetune watch tickets sample=100%", user=DORA)
    world.tick()
    watch = current(world)
    assert watch is not None and watch.samples
    return world


def call_door(world: World, calls: Callable[[openai.OpenAI], None], done: Callable[[], bool]) -> None:
    folder = RecipeFolder(world.service.settings.recipes)
    with serve_dated_door(folder, lambda: world.clock) as client:
        calls(client)
        wait_until(done, "all answers", seconds=60)


def ask_all(client: openai.OpenAI) -> None:
    for number in range(CALLS):
        ask(client, f"Order {number}: a question about {LABELS[number % 3]}, please.")


@pytest.mark.deep
def test_sampled_calls_are_put_to_a_candidate_whose_answers_are_compared_and_paid(sampled: World) -> None:
    world = sampled
    test = begin(world, "/finetune test tickets few")
    now = live_test(world)
    assert now is not None and now.asks_sampled
    folder = world.service.settings.recipes
    billed = len(world.provider.service.billed)
    call_door(world, ask_all, lambda: len(shadow_answers.read(folder, test.id)) == CALLS)
    assert len(world.provider.service.billed) - billed == 2 * CALLS
    world.tick()
    calls = world.store.compared_calls.of(test.id)
    assert [call.verdict for call in calls] == ["same"] * CALLS
    compared = sum(call.micros or 0 for call in calls)
    actuals.update(world.service.context, {})
    (month,) = world.store.actuals.of("tickets")
    assert month.calls == CALLS, "what is only compared is no call of a program"
    paid = Decimal((month.micros or 0) + compared) / 1_000_000
    # Each compared answer is rounded up to a micro-dollar.
    assert 0 <= paid - billed_usd(world, billed) <= Decimal(CALLS + 1) / 1_000_000
    assert world.store.committed(calls[0].month) >= compared
    world.pass_time(61)
    world.tick()
    world.send()
    card = world.find_message("is tried on live calls")
    assert f"*{CALLS} calls answered by both*: the same in {CALLS}." in card


@pytest.mark.deep
def test_a_canary_answers_programs_and_is_counted_under_its_own_name(make_world: MakeWorld) -> None:
    world = measured_world(make_world, PRICES)
    begin(world, "/finetune test tickets few canary=50%", BEN)
    test = current_test(world)
    assert live_test(world) is not None
    billed = len(world.provider.service.billed)
    call_door(world, ask_all, lambda: True)
    actuals.update(world.service.context, {})
    months = {month.model: month for month in world.store.actuals.of("tickets")}
    names = {promotable_name(promotion(world).what), f"{promotable_name(test.what)}, as canary"}
    assert set(months) == names
    assert sum(month.calls for month in months.values()) == CALLS
    assert all(month.calls and month.micros for month in months.values())
    paid = Decimal(sum(month.micros or 0 for month in months.values())) / 1_000_000
    assert 0 <= paid - billed_usd(world, billed) <= Decimal(len(months)) / 1_000_000
    assert canary_events.read(world.service.settings.recipes, test.id) == ()
