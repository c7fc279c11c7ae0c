"""What wins goes to work: measured, put to use, and called by a program with the card's own five lines, while a prompt
replaces it, somebody rolls back, bot and door are killed, and until it is taken out of use."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import openai
import pytest

from bot.cards.models.call_instructions import EXAMPLE
from bot.door_process import DoorProcess, ask_door
from bot.reconciler import maintain
from demo.people import BEN
from tests.bot.hosting import host, hosting_rules
from tests.bot.measurements import ACME, CHAT, PRICES, comparison_of, measure
from tests.bot.props import LABELS, tickets_csv
from tests.bot.serving.the_door import door_of, look_until_it_answers
from tests.bot.world import CLEO, MakeWorld, Rules, World
from tests.local.trainer_server import free_port
from tests.patience import wait_until
from tests.peers.programs import CallingProgram, ask, call_once, five_lines, open_client
from trainers.recipes import usage
from trainers.recipes.folder import RecipeFolder

NAME = "team/tickets"
QUESTION = "Order 4711: a question about refund"


def kill(door: DoorProcess) -> None:
    """Kills both processes, so that only the bot can start another door."""
    serving = door.settings.serving
    answer = ask_door(serving.host, serving.port)
    assert answer is not None
    os.kill(answer.pid, signal.SIGKILL)
    os.kill(answer.worker, signal.SIGKILL)
    door._children[0].wait(30)
    wait_until(lambda: ask_door(serving.host, serving.port) is None, "both ends")


def calls_of(folder: RecipeFolder, promotion: int) -> int:
    counts = usage.read(folder.root)
    return sum(use.calls for key, use in counts.items() if key.promotion == promotion)


def answer_right(model: str, messages: list[dict[str, str]]) -> str:
    return next((label for label in LABELS if label in messages[-1]["content"]), "billing")


def deploy(world: World, what: str) -> None:
    assert world.type(f"/finetune promote {what} because=the demo is today", user=BEN) == ""
    world.send()
    if world.has_button("approve_promotion"):
        world.click(CLEO, "approve_promotion")
    world.tick_until(lambda: world.store.promotions.current("tickets").carried_at, "programs to get it")
    world.send()


def test_what_wins_goes_to_work_and_comes_back(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, serving=f"127.0.0.1:{free_port()}"))
    world.provider.service.answer = answer_right
    world.upload_and_check(tickets_csv(90))
    measure(world, f"/finetune baseline tickets {ACME} candidates=encoder,kshot shots=4")
    assert {candidate.kind for candidate in comparison_of(world).candidates} == {"encoder", "kshot"}

    deploy(world, "tickets encoder")
    folder = RecipeFolder(world.service.settings.recipes)
    encoder = folder.published(NAME)
    with door_of(world) as door:
        look_until_it_answers(door)
        lines = five_lines(world.find_message("is in use for tickets", "How to call it"))
        printed = call_once(lines.replace(EXAMPLE, QUESTION))
        assert printed.stdout.strip() == "refund", printed.stderr
        with open_client(lines) as client:
            with CallingProgram(client, NAME, QUESTION) as program:
                program.wait_for(10)
                before = world.provider.count(CHAT)
                deploy(world, "tickets kshot")
                wait_until(lambda: world.provider.count(CHAT) > before + 5, "the prompt's answers")
                world.type("/finetune rollback tickets", user=BEN)
                world.tick(2)
                program.wait_for(5)
            assert program.failures == [] and set(program.answers) == {"refund"}
            again = folder.published(NAME)
            assert encoder and again and again.recipe == encoder.recipe and again != encoder

            # The bot is gone and comes back; then the door is killed, once it has stored its counts of the last second.
            wait_until(lambda: calls_of(folder, 3) > 0, "the counts")
            world.restart()
            assert ask(client, NAME, QUESTION) == "refund"
            kill(door)
            look_until_it_answers(door)
            assert ask(client, NAME, QUESTION) == "refund"

            assert world.type("/finetune rollback tickets to=nothing", user=BEN) == ""
            world.tick(2)
            with pytest.raises(openai.NotFoundError, match="was taken out of use on"):
                wait_until(lambda: ask(client, NAME, QUESTION) and None, "the end of its use", seconds=30)

    maintain(world.service.context)
    months = {month.model: month for month in world.store.actuals.of("tickets")}
    kshot = next(month for name, month in months.items() if "examples" in name)
    free = next(month for name, month in months.items() if "encoder" in name)
    assert free.micros == 0 and kshot.micros and kshot.micros > 0
    assert free.calls > 10 and kshot.calls >= 5 and kshot.prompt_tokens > 0
    # Against what was in use before, which was free.
    assert (kshot.alternative_micros, kshot.saving_micros) == (0, -kshot.micros)


@pytest.mark.deep
@pytest.mark.parametrize(
    "api",
    ["crusoe", *(pytest.param(api, marks=pytest.mark.slow) for api in ("fireworks", "together"))],
)
def test_a_model_on_a_machine_by_the_hour_answers_until_its_machine_stops(
    make_world: MakeWorld, api: str
) -> None:
    rules = replace(hosting_rules(api), serving=f"127.0.0.1:{free_port()}")
    world = make_world(rules)
    host(world, api)
    world.start_approved()
    world.tick_until_state("done")
    deploy(world, "tickets-1")
    with door_of(world) as door:
        look_until_it_answers(door)
        lines = five_lines(world.find_message("tickets-1 is in use for tickets", "How to call it"))
        with open_client(lines) as client:
            with CallingProgram(client, NAME, QUESTION) as program:
                program.wait_for(5)
                world.restart()
                world.tick(2)
                program.wait_for(5)
            assert program.failures == []
            assert set(program.answers) == {"refund"}

            world.click(BEN, "stop_deployment")
            world.tick_until(lambda: not world.store.deployments.live(), "its machine to stop")
            world.tick(2)
            with pytest.raises(openai.InternalServerError, match="machine"):
                wait_until(lambda: ask(client, NAME, QUESTION) and None, "the end of its answers", seconds=30)

    maintain(world.service.context)
    months = world.store.actuals.of("tickets")
    assert sum(month.calls for month in months) >= 10
    assert sum(month.micros or 0 for month in months) == world.store.deployments.cost_of_run(1) > 0
