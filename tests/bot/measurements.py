"""Measurements in stories: asking for one, agreeing to its price, and reading its result."""

from __future__ import annotations

from bot.cards.evidence import evaluations
from demo.people import BEN
from storage.records import Measurement, MeasurementState
from tests.bot.saved_worlds import reached_once
from tests.bot.world import World
from trainers.evaluation.results import Comparison

CHAT = "POST /chat/completions"
ACME = "models=acme/acme-small"
BASELINE = f"/finetune baseline tickets {ACME}"
PRICES = '[prices."acme/acme-small"]\ninput = "0.80"\noutput = "3.20"\n'
HELD = 18
"""Held-out rows of the tickets that `World.seed_dataset` puts there."""


def measurement(world: World, number: int = 1) -> Measurement:
    measurement: Measurement | None = world.store.measurements.get(number)
    assert measurement is not None
    return measurement


def until(world: World, state: MeasurementState, number: int = 1, *, seconds: float = 30) -> Measurement:
    """Tick until a measurement is in this state."""
    world.tick_until(
        lambda: measurement(world, number).state == state, f"m{number} to be {state}", seconds=seconds
    )
    world.send()
    return measurement(world, number)


def until_asked(world: World, number: int = 1) -> Measurement:
    """Tick until a measurement has a price that somebody has to agree to."""
    world.tick_until(lambda: measurement(world, number).reserved_micros, "its price", seconds=30)
    world.send()
    return measurement(world, number)


def start_measurement(world: World, line: str = BASELINE, number: int = 1) -> Measurement:
    """Ask for a paid measurement, and agree to its price."""
    assert world.type(line) == ""
    until_asked(world, number)
    world.click(BEN, evaluations.MEASURE)
    return measurement(world, number)


def measure(world: World, line: str = BASELINE, number: int = 1) -> Comparison:
    """Take a paid measurement to its result."""
    start_measurement(world, line, number)
    until(world, "done", number)
    return comparison_of(world, number)


@reached_once
def seed_measurement(world: World, line: str = BASELINE) -> None:
    """Measurement 1, asked for by this command, is done."""
    measure(world, line)


def comparison_of(world: World, number: int = 1) -> Comparison:
    result = measurement(world, number).result
    assert result is not None
    return Comparison.from_json(result)
