"""Status, the App Home and the list of datasets show measurements beside runs, and results beside open work."""

from __future__ import annotations

import json

from bot.cards.evidence import evaluations
from demo.people import ANA
from tests.bot.measurements import BASELINE, PRICES, until, until_asked
from tests.bot.props import tickets_csv
from tests.bot.runs import ENOUGH_ROWS, seed_runs
from tests.bot.world import MakeWorld, Rules, World
from tests.patience import wait_until


def open_home(world: World) -> str:
    before = len(world.slack.calls("views.publish"))
    world.slack.open_home(ANA.id)
    wait_until(lambda: len(world.slack.calls("views.publish")) > before, "the App Home")
    home = world.slack.home(ANA.id)
    assert home is not None
    return json.dumps(list(home.blocks), ensure_ascii=False)


def test_status_and_home_show_measurements_and_their_results(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    assert "Nothing is running" in world.type("/finetune status")
    world.type(f"{BASELINE} candidates=zero")
    assert "*Measurement m1*, alternatives on tickets: preparing its questions" in world.type(
        "/finetune status"
    )
    until_asked(world)
    status = world.type("/finetune status")
    assert "Open: 1 measurement" in status and "waiting for confirmation, under 1 cent" in status
    assert "waiting for confirmation" in open_home(world)
    world.slack.press(ANA.id, evaluations.MEASURE, home=True)
    assert "running, 0% done, time left unknown yet" in world.type("/finetune status")
    until(world, "done")
    for view in (world.type("/finetune status"), open_home(world)):
        assert (
            "*Measurement m1*, alternatives on tickets: no measured alternative meets the usual bar of 85%"
            in view
        )
        assert "open" not in view.split("Measurement")[0]
    assert world.type("/finetune status m1") == world.type("/finetune results m1")


def test_results_are_listed_newest_first(world: World) -> None:
    seed_runs(world)
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done")
    status = world.type("/finetune status")
    assert "Nothing is running" in status
    assert status.index("Measurement m1") < status.index("Run 1")


def test_the_list_of_datasets_shows_the_best_candidate_and_whether_it_meets_the_bar(world: World) -> None:
    world.seed_dataset(rows=ENOUGH_ROWS)
    assert "ready. Nothing measured yet" in world.type("/finetune datasets")
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done")
    assert "Best measured: classical, 100.0% (91–100%), meets 85%" in world.type("/finetune datasets")
    world.type("/finetune baseline tickets candidates=classical bar=99%")
    until(world, "done", 2)
    assert "too few held-out rows to tell whether it meets 99%" in world.type("/finetune datasets")


def test_a_tuned_model_can_be_the_best_of_a_dataset(world: World) -> None:
    seed_runs(world)
    assert "Best measured: tuned, acme/" in world.type("/finetune datasets")
    world.upload_and_check(tickets_csv(90))
    lines = [line for line in world.type("/finetune datasets all").splitlines() if "`tickets`" in line]
    assert "version 2" in lines[0] and "version 1" in lines[1]
    assert "measured" in lines[0] and "easured" not in lines[1]
