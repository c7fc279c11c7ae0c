"""Models that think before they answer: they get room for it, and their thinking is paid for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.cards.evidence import evaluations
from demo.people import BEN
from storage.records import Measurement
from tests.bot.world import MODEL, Rules, World
from trainers.evaluation.results import Comparison
from trainers.models.chat_parameters import THINKING_TOKENS

CHAT = "POST /chat/completions"
THINKER = "acme-thinker"
LINE = f"/finetune baseline tickets models=acme/{THINKER} candidates=zero"
PRICE = f'[prices."acme/{THINKER}"]\ninput = "0.80"\noutput = "3.20"\n'
ROW = f'[providers.acme.models."{THINKER}"]\nreasoning = true\ninput = "0.80"\noutput = "3.20"\n'
HELD, THOUGHT = 18, 100
MakeWorld = Callable[[Rules], World]


def thinker_world(make_world: MakeWorld, more: str) -> World:
    world = make_world(Rules(more=more))
    world.provider.service.models = (MODEL, THINKER)
    world.provider.service.thinks = {THINKER: THOUGHT}
    world.seed_dataset()
    return world


def measure(world: World) -> Measurement:
    assert world.type(LINE) == ""
    world.tick_until(lambda: measurement(world).reserved_micros, "its price", seconds=30)
    world.send()
    world.click(BEN, evaluations.MEASURE)
    world.tick_until(lambda: measurement(world).state == "done", "m1 to be done", seconds=30)
    world.send()
    return measurement(world)


def measurement(world: World) -> Measurement:
    first: Measurement | None = world.store.measurements.get(1)
    assert first is not None
    return first


def caps(world: World) -> list[set[tuple[str, int]]]:
    """The limits that were sent with each question."""
    names = ("max_tokens", "max_completion_tokens", "temperature")
    return [
        {(name, request.body[name]) for name in names if name in request.body}
        for request in world.provider.requests
        if request.route == CHAT
    ]


def test_a_model_marked_as_reasoning_gets_room_and_its_thinking_is_paid_for(make_world: MakeWorld) -> None:
    world = thinker_world(make_world, PRICE + ROW)
    finished = measure(world)
    assert caps(world) == [{("max_completion_tokens", 16 + THINKING_TOKENS)}] * HELD
    candidate = Comparison.from_json(str(finished.result)).candidates[0]
    assert candidate.score == pytest.approx(1 / 3) and candidate.empty == 0
    assert candidate.completion_tokens == HELD * (THOUGHT + 1)
    answers_cost = HELD * (16 + THINKING_TOKENS) * 3.2
    assert answers_cost < finished.reserved_micros < 1.2 * answers_cost
    assert HELD * THOUGHT * 3.2 < (finished.actual_micros or 0) < finished.reserved_micros


def test_an_unmarked_reasoning_model_gives_empty_answers_that_the_card_counts(make_world: MakeWorld) -> None:
    world = thinker_world(make_world, PRICE)
    finished = measure(world)
    limits = caps(world)
    assert limits.count({("max_completion_tokens", 16)}) == HELD
    assert len(limits) <= HELD + 2 * 8, "a refused parameter is learnt once, by the questions under way"
    candidate = Comparison.from_json(str(finished.result)).candidates[0]
    assert (candidate.score, candidate.empty, candidate.completion_tokens) == (0.0, HELD, HELD * 16)
    assert world.find_message(
        f"{HELD} of {HELD} answers", "were empty and count as wrong", "`reasoning = true`"
    )
