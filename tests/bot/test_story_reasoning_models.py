"""Models that think before they answer, in a ladder: asked their way, with room, and paid for what they
think."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.cards import evaluations
from demo.people import BEN
from storage.records import Measurement
from tests.bot.world import MODEL, Rules, World
from trainers.chat_parameters import THINKING_TOKENS
from trainers.evaluation.results import Ladder

CHAT = "POST /chat/completions"
THINKER = "acme-thinker"
LINE = f"/finetune baseline tickets models=acme/{THINKER} rungs=zero"
PRICE = f'[prices."acme/{THINKER}"]\ninput = "0.80"\noutput = "3.20"\n'
ROW = f'[providers.acme.models."{THINKER}"]\nreasoning = true\ninput = "0.80"\noutput = "3.20"\n'
HELD, THOUGHT = 18, 100
MakeWorld = Callable[[Rules], World]


def thinking(make_world: MakeWorld, more: str) -> World:
    world = make_world(Rules(more=more))
    world.provider.service.models = (MODEL, THINKER)
    world.provider.service.thinks = {THINKER: THOUGHT}
    world.seed_dataset()
    return world


def climbed(world: World) -> Measurement:
    assert world.type(LINE) == ""
    world.tick_until(lambda: measurement(world).reserved_micros, "its price", seconds=30)
    world.send()
    world.click(BEN, evaluations.MEASURE)
    world.tick_until(lambda: measurement(world).state == "done", "m1 to be done", seconds=30)
    world.send()
    return measurement(world)


def measurement(world: World) -> Measurement:
    found: Measurement | None = world.store.measurements.get(1)
    assert found is not None
    return found


def caps(world: World) -> list[set[tuple[str, int]]]:
    """What limited each question."""
    names = ("max_tokens", "max_completion_tokens", "temperature")
    return [
        {(name, seen.body[name]) for name in names if name in seen.body}
        for seen in world.provider.requests
        if seen.route == CHAT
    ]


def test_a_model_whose_row_says_so_gets_room_and_its_thinking_is_paid(make_world: MakeWorld) -> None:
    world = thinking(make_world, PRICE + ROW)
    done = climbed(world)
    assert caps(world) == [{("max_completion_tokens", 16 + THINKING_TOKENS)}] * HELD
    rung = Ladder.from_json(str(done.result)).rungs[0]
    assert rung.score == pytest.approx(1 / 3) and rung.empty == 0
    assert rung.completion_tokens == HELD * (THOUGHT + 1)
    most = HELD * (16 + THINKING_TOKENS) * 3.2  # of the answers alone
    assert most < done.reserved_micros < 1.2 * most
    assert HELD * THOUGHT * 3.2 < (done.actual_micros or 0) < done.reserved_micros


def test_one_that_nobody_knows_thinks_its_cap_away_and_the_card_counts_it(make_world: MakeWorld) -> None:
    world = thinking(make_world, PRICE)
    done = climbed(world)
    asked = caps(world)
    assert asked.count({("max_completion_tokens", 16)}) == HELD
    assert len(asked) <= HELD + 2 * 8, "what it refuses is learnt once, by those under way together"
    rung = Ladder.from_json(str(done.result)).rungs[0]
    assert (rung.score, rung.empty, rung.completion_tokens) == (0.0, HELD, HELD * 16)
    assert world.find_message(
        f"{HELD} of {HELD} answers", "were empty and count as wrong", "`reasoning = true`"
    )
