"""The door as the bot runs it, and a program of the team that asks what is in use there and is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bot.door_process import DoorProcess, ask_door
from bot.services.serving import actuals
from tests.bot.world import World
from tests.patience import wait_until
from tests.peers.programs import ask, five_lines, open_client

DATASET = "tickets"


@contextmanager
def door_of(world: World) -> Iterator[DoorProcess]:
    """The bot's own care for the door, with the keys that it has. No door is left behind."""
    door = DoorProcess(world.service.settings)
    try:
        yield door
    finally:
        serving = replace(door.settings.serving, address="")
        DoorProcess(replace(door.settings, serving=serving)).look()
        for child in door._children:
            child.wait(60)


def look_until_it_answers(door: DoorProcess) -> None:
    serving = door.settings.serving

    def answers() -> bool:
        door._next_start = 0.0
        if ask_door(serving.host, serving.port) is None and not door._children:
            door.look()
        door._children = [child for child in door._children if child.poll() is None]
        return ask_door(serving.host, serving.port) is not None

    wait_until(answers, "the door to answer", seconds=60)


def ask_by_the_door(world: World, question: str) -> str:
    """Returns the answer of what is in use, by the five lines of its card."""
    with door_of(world) as door:
        look_until_it_answers(door)
        lines = five_lines(world.find_message(f"is in use for {DATASET}", "How to call it"))
        with open_client(lines) as client:
            return ask(client, f"team/{DATASET}", question)


def micros_with_the_call(world: World) -> int:
    """Returns what the dataset's months have cost, once the only call is counted. A story may last from one month into
    the next."""

    def is_counted() -> bool:
        actuals.update(world.service.context, {})
        months = world.store.actuals.of(DATASET)
        return sum(month.calls for month in months) == 1

    wait_until(is_counted, "the call to be counted", seconds=30)
    return sum(month.micros or 0 for month in world.store.actuals.of(DATASET))
