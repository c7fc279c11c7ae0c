"""Status, the App Home and the list of datasets: measurements stand beside runs, results beside what is
open."""

from __future__ import annotations

import json
from collections.abc import Callable

from bot.cards import evaluations
from demo.people import ANA
from demo.workspace import wait_until
from storage.records import MeasurementState
from tests.bot.props import tickets_csv
from tests.bot.world import Rules, World

PRICES = '[prices."acme/acme-small"]\ninput = "0.80"\noutput = "3.20"\n'
MakeWorld = Callable[[Rules], World]


def until(world: World, state: MeasurementState, number: int) -> None:
    world.tick_until(
        lambda: world.store.measurements.get(number).state == state, f"m{number} {state}", seconds=30
    )
    world.send()


def home(world: World) -> str:
    before = len(world.slack.calls("views.publish"))
    world.slack.open_home(ANA.id)
    wait_until(lambda: len(world.slack.calls("views.publish")) > before, "the App Home")
    shown = world.slack.home(ANA.id)
    assert shown is not None
    return json.dumps(list(shown.blocks), ensure_ascii=False)


def test_status_and_home_show_measurements_and_what_came_of_them(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    assert "Nothing is running" in world.type("/finetune status")
    world.type("/finetune baseline tickets models=acme/acme-small rungs=zero")
    assert "*Measurement m1*, alternatives on tickets: preparing its questions" in world.type(
        "/finetune status"
    )
    world.tick_until(lambda: world.store.measurements.get(1).reserved_micros, "its price", seconds=30)
    said = world.type("/finetune status")
    assert "Open: 1 measurement" in said and "waiting for confirmation, under 1 cent" in said
    assert "waiting for confirmation" in home(world)
    world.slack.press(ANA.id, evaluations.MEASURE, home=True)
    assert "running, 0% done, time left unknown yet" in world.type("/finetune status")
    until(world, "done", 1)
    for said in (world.type("/finetune status"), home(world)):
        assert "*Measurement m1*, alternatives on tickets: no measured alternative meets your 85% bar" in said
        assert "open" not in said.split("Measurement")[0]
    assert world.type("/finetune status m1") == world.type("/finetune results m1")


def test_results_of_runs_and_measurements_stand_newest_first(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    world.type("/finetune baseline tickets rungs=classical")
    until(world, "done", 1)
    said = world.type("/finetune status")
    assert "Nothing is running" in said
    assert said.index("Measurement m1") < said.index("Run 1")


def test_the_list_of_datasets_says_the_best_rung_and_whether_it_is_good_enough(world: World) -> None:
    world.seed_dataset()
    assert "ready. Nothing measured yet" in world.type("/finetune datasets")
    world.type("/finetune baseline tickets rungs=classical")
    until(world, "done", 1)
    assert "Best measured: classical, 100.0% (82–100%), meets 85%" in world.type("/finetune datasets")
    world.type("/finetune baseline tickets rungs=classical bar=99%")
    until(world, "done", 2)
    assert "too few held-out rows to tell whether it meets 99%" in world.type("/finetune datasets")


def test_a_tuned_model_is_among_the_best_and_older_versions_say_nothing(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    assert "Best measured: tuned, acme/" in world.type("/finetune datasets")
    world.upload_and_check(tickets_csv(90))
    lines = [line for line in world.type("/finetune datasets").splitlines() if "`tickets`" in line]
    assert ["version 2" in lines[0], "version 1" in lines[1]] == [True, True]
    assert "measured" in lines[0] and "easured" not in lines[1]
