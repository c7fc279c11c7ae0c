"""What wins goes to work: measured, put to use, and called by a program with the card's own five lines, while a prompt
replaces it, somebody rolls back, bot and door are killed, and until it is taken out of use."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from bot.door_process import DoorProcess, ask_door
from bot.reconciler import maintain
from demo.people import BEN
from demo.workspace import wait_until
from tests.bot.measurements import ACME, CHAT, PRICES, comparison_of, measure
from tests.bot.props import LABELS, tickets_csv
from tests.bot.world import CLEO, MakeWorld, Rules, World
from tests.local.trainer_server import free_port
from trainers.recipes import usage
from trainers.recipes.folder import RecipeFolder

NAME = "team/tickets"
QUESTION = "Order 4711: a question about refund"
ROOT = Path(__file__).parents[3]


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


def run_the_cards_lines(card: str) -> str:
    """Runs the five lines of Python that the promotion's card shows."""
    program = re.search(r"from openai import OpenAI\n.*?print\([^\n]*\)", card, re.DOTALL)
    assert program and len(program[0].splitlines()) == 5, card
    lines = program[0].replace("Where is my parcel?", QUESTION)
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Program:
    """Asks again and again in a thread, without retries, and keeps what went wrong."""

    def __init__(self, client: openai.OpenAI) -> None:
        self.client = client
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)

    def __enter__(self) -> Program:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask_on(self) -> None:
        while not self._over.wait(0.02):
            try:
                self.answers.append(ask(self.client))
            except openai.OpenAIError as error:
                self.failures.append(str(error))


def ask(client: openai.OpenAI) -> str:
    answer = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": QUESTION}])
    return str(answer.choices[0].message.content)


def calls_of(folder: RecipeFolder, promotion: int) -> int:
    counts = usage.read(folder.root)
    return sum(use.calls for key, use in counts.items() if key.promotion == promotion)


def answer_right(model: str, messages: list[dict[str, str]]) -> str:
    return next((label for label in LABELS if label in messages[-1]["content"]), "billing")


def deploy(world: World, candidate: str) -> None:
    assert world.type(f"/finetune promote tickets {candidate} because=the demo is today", user=BEN) == ""
    world.send()
    if world.has_button("approve_promotion"):
        world.click(CLEO, "approve_promotion")
    world.tick_until(lambda: world.store.promotions.current("tickets").carried_at, "programs to get it")
    world.send()


def test_what_wins_goes_to_work_and_comes_back(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(more=PRICES, serving=f"127.0.0.1:{free_port()}"))
    world.provider.service.answer = answer_right
    world.upload_and_check(tickets_csv(90))
    measure(world, f"/finetune baseline tickets {ACME} candidates=encoder,kshot shots=4")
    assert {candidate.kind for candidate in comparison_of(world).candidates} == {"encoder", "kshot"}

    deploy(world, "encoder")
    folder = RecipeFolder(world.service.settings.recipes)
    encoder = folder.published(NAME)
    with door_of(world) as door:
        look_until_it_answers(door)
        card = world.find_message("is in use for tickets", "How to call it")
        assert run_the_cards_lines(card) == "refund"
        base_url = str(world.service.settings.serving.base_url)
        with openai.OpenAI(base_url=base_url, api_key=folder.call_key(), max_retries=0, timeout=60) as client:
            with Program(client) as program:
                before = world.provider.count(CHAT)
                deploy(world, "kshot")
                wait_until(lambda: world.provider.count(CHAT) > before + 5, "the prompt's answers")
                world.type("/finetune rollback tickets", user=BEN)
                world.tick(2)
                count = len(program.answers)
                wait_until(lambda: len(program.answers) > count + 5, "answers of the encoder")
            assert program.failures == [] and set(program.answers) == {"refund"}
            again = folder.published(NAME)
            assert encoder and again and again.recipe == encoder.recipe and again != encoder

            # The bot is gone and comes back; then the door is killed, once it has stored its counts of the last second.
            wait_until(lambda: calls_of(folder, 3) > 0, "the counts")
            world.restart()
            assert ask(client) == "refund"
            os.kill(door._children[0].pid, signal.SIGKILL)
            door._children[0].wait(30)
            look_until_it_answers(door)
            assert ask(client) == "refund"

            assert world.type("/finetune rollback tickets to=nothing", user=BEN) == ""
            world.tick(2)
            with pytest.raises(openai.NotFoundError, match="was taken out of use on"):
                wait_until(lambda: ask(client) and None, "the end of its use", seconds=30)

    maintain(world.service.context)
    months = {month.model: month for month in world.store.actuals.of("tickets")}
    kshot = next(month for name, month in months.items() if "examples" in name)
    free = next(month for name, month in months.items() if "encoder" in name)
    assert free.micros == 0 and kshot.micros and kshot.micros > 0
    assert free.calls > 10 and kshot.calls >= 5 and kshot.prompt_tokens > 0
    # Against what was in use before, which was free.
    assert (kshot.alternative_micros, kshot.saving_micros) == (0, -kshot.micros)
