"""Today's model ends: the team is told in time and once, retrains elsewhere by a button, and deploys the result."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from bot.cards.common import help
from bot.cards.datasets import datasets
from bot.reconciler import maintain
from bot.rules.plans import plan_from_json
from demo.people import ANA, BEN
from tests.bot.props import answer, tickets_csv
from tests.bot.world import GUS, PRIVATE, TARGET, Rules, World, words_of

MakeWorld = Callable[[Rules], World]

ESTIMATE = f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}"
RETUNE = "retune_elsewhere"
DAY = 86_400
GPT_4O = "gpt-4o-2024-08-06"
# 78 held-out rows can show this difference when both models are right on all.
MARGIN = "[policy.promotion]\nmargin_points = 10\n"
# With a cheap successor, a tuned model would lose money from then on.
DEAR_SUCCESSOR = '[prices."gpt-6-luna"]\ninput = "5"\noutput = "20"\n'
# Our own trainer does not run.
ELSEWHERE = '[providers.local]\nbase_url = "http://127.0.0.1:9/v1"\nkey_env = "NOBODY_HAS_IT"\n'


def noon(year: int, month: int, day: int) -> float:
    return datetime(year, month, day, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """Ana has shared an estimate for tickets; gpt-4o ends when the built-in list says."""
    world = make_world(Rules(current_ends="", more=ELSEWHERE))
    world.clock = noon(2026, 9, 1)
    world.seed_dataset(rows=240)
    world.type(ESTIMATE)
    world.share_estimate()
    return world


def look(world: World, day: float | None = None) -> list[str]:
    """Have the bot look for end dates on that day; returns all notices so far."""
    if day is not None:
        world.clock = day
    maintain(world.service.context)
    world.send()
    return [text for text in world.cards() if "Today's model for tickets" in text]


def knows_by_its_prompt(model: str, messages: list[dict[str, Any]]) -> str:
    """Prompted gpt-4o is always right, as a tuned model is."""
    return answer("ft:" if model.startswith("gpt-4o") else model, messages)


def upload_and_estimate_by_buttons(world: World) -> None:
    world.slack.open_home(ANA.id)
    world.tick_until(lambda: world.slack.home(ANA.id), "the App Home")
    world.slack.press(ANA.id, help.UPLOAD, home=True)
    file = world.put_file("tickets.csv", tickets_csv(240), ANA)
    assert world.slack.submit_modal(ANA.id, {"file": file, "name": "tickets", "channel": PRIVATE.id}).closed
    world.tick_until(lambda: world.has_button(datasets.ESTIMATE), "the check")
    world.click(ANA, datasets.ESTIMATE)
    answers = {"dataset": "tickets", "current": "gpt-4o", "volume": "100M tokens", "target": TARGET}
    assert world.slack.submit_modal(ANA.id, answers).closed
    world.wait_for_answer(ANA, 0)
    world.share_estimate()


@pytest.mark.deep
def test_a_team_retrains_elsewhere_before_gpt_4o_ends_by_buttons_alone(make_world: MakeWorld) -> None:
    openai = '[providers.openai]\nbase_url = "{url}"\nkey_env = "ACME_KEY"\nabilities = ["chat"]\n'
    world = make_world(Rules(current_ends="", more=ELSEWHERE + MARGIN + DEAR_SUCCESSOR))
    world.rules.more += openai.format(url=world.provider.url)
    world.restart()
    service = world.provider.service
    service.models, service.answer = (*service.models, GPT_4O), knows_by_its_prompt
    world.clock = noon(2026, 12, 20)
    upload_and_estimate_by_buttons(world)

    (card,) = look(world)
    assert "gpt-4o ends in 25 days, on 2027-01-14" in card and "OpenAI" in card
    assert "Current cost" in card and "about $270 a month" in card
    assert "Its successor, gpt-6-luna" in card
    assert f"Retrained on {TARGET}" in card and "measured on the same" in card

    world.click(ANA, "measure_dataset")
    answers = {"dataset": "tickets", "models": [f"openai/{GPT_4O}"], "candidates": ["zero"]}
    assert world.slack.submit_modal(ANA.id, answers).closed
    world.tick_until(lambda: world.has_button("measure"), "the measurement's price")
    world.click(ANA, "measure")
    world.tick_until(lambda: world.store.measurements.get(1).state == "done", "the measurement")

    messages = world.slack.messages(PRIVATE.id)
    message = next(message for message in messages if "gpt-4o ends in" in words_of(message))
    world.slack.click(ANA.id, PRIVATE.id, message.ts, RETUNE)
    world.send()
    run = world.newest_run()
    plan = plan_from_json(run.plan)
    assert (run.state, plan.dataset, plan.dataset_version) == ("awaiting_approval", "tickets", 1)
    assert (f"{plan.provider}/{plan.base_model}", plan.current) == (TARGET, "gpt-4o")
    world.find_message(
        f"Run {run.id}: train",
        "*Why now*: `gpt-4o`, which this dataset relies on today, ends on 2027-01-14",
        "gpt-6-luna, about $11 a month if it is good enough",
    )
    world.approve(BEN)
    world.tick_until_state("done", run.id)
    world.click(BEN, "put_to_work")
    world.send()
    promotion = world.store.promotions.current("tickets")
    assert promotion is not None and promotion.model == world.run(run.id).model
    assert "cheaper and not worse" in world.find_message(f"{promotion.model} is in use for tickets")
    assert look(world, noon(2027, 1, 10)) == [card], "gpt-4o is no longer used"


def test_each_notice_is_sent_once_despite_restarts(world: World) -> None:
    assert look(world, noon(2026, 10, 10)) == []  # 96 days
    assert len(look(world, noon(2026, 10, 17))) == 1
    for _ in range(2):
        world.restart()
        assert len(look(world)) == 1
    world.pass_time(DAY)
    assert len(look(world)) == 1
    assert len(look(world, noon(2026, 12, 15))) == 2
    assert len(look(world, noon(2027, 1, 7))) == 3
    assert "gpt-4o ended on 2027-01-14" in look(world, noon(2027, 1, 14))[-1]
    assert len(look(world, noon(2027, 1, 20))) == 4


def test_a_bot_that_was_stopped_sends_only_the_nearest_notice(world: World) -> None:
    world.stop()
    world.clock = noon(2027, 1, 9)
    world.boot()
    (card,) = look(world)
    assert "gpt-4o ends in 5 days" in card


def test_a_member_plans_after_the_end_and_compares_with_the_successor(world: World) -> None:
    look(world, noon(2027, 1, 15))
    assert "full members" in world.click_and_read(GUS, RETUNE)
    assert world.store.runs.newest() == []
    world.click(ANA, RETUNE)
    world.send()
    assert plan_from_json(world.newest_run().plan).current == "gpt-6-luna"


def test_the_providers_end_date_wins_and_a_postponed_end_is_announced_again(world: World) -> None:
    service = world.provider.service
    service.models, service.shutdowns = (*service.models, "gpt-5.6-terra"), {"gpt-5.6-terra": "2026-09-20"}
    world.type(ESTIMATE.replace("gpt-4o", "gpt-5.6-terra"))
    world.share_estimate()
    (card,) = look(world)
    assert "gpt-5.6-terra ends in 19 days" in card and "the list of models of Acme Tuning" in card
    service.shutdowns = {"gpt-5.6-terra": "2026-09-25"}
    assert len(look(world, noon(2026, 9, 2))) == 2


@pytest.mark.deep
def test_the_end_of_a_planned_base_and_of_one_in_use_is_announced(world: World) -> None:
    run = world.start(f"/finetune start tickets current=gpt-4o volume=100M target={TARGET}")
    world.provider.service.shutdowns = {"acme-small": "2026-09-20"}
    maintain(world.service.context)
    world.send()
    assert "Run 1 on tickets plans to train it" in world.find_message("acme-small ends in 19 days")
    world.approve(BEN)
    world.tick_until_state("done", run.id)
    world.click(BEN, "put_to_work")
    maintain(world.service.context)
    world.pass_time(DAY)
    maintain(world.service.context)
    world.send()
    card = world.find_message("tickets-1, in use for tickets, was trained on it")
    assert "No lasting model can be trained here" in card
    assert "the base of tickets-1, in use for tickets: ends in" in world.type("/finetune status")


def test_a_private_estimate_says_nothing_about_the_teams_model(world: World) -> None:
    world.clock = noon(2026, 12, 20)
    assert "gpt-4o" in world.type("/finetune status")
    world.type(ESTIMATE.replace("gpt-4o", "gpt-4.1-mini"))
    status = world.type("/finetune status")
    assert "gpt-4o" in status and "gpt-4.1-mini" not in status


def test_a_model_that_vanished_is_announced_the_same_night(world: World) -> None:
    service = world.provider.service
    service.models = (*service.models, "acme-large")
    world.rules.more += '[prices."acme/acme-large"]\ninput = "1"\noutput = "4"\n'
    world.restart()
    world.type(ESTIMATE.replace("gpt-4o", "acme/acme-large"))
    world.share_estimate()
    assert look(world) == []
    service.models = service.models[:-1]
    (card,) = look(world, world.clock + DAY)
    assert "acme-large is no longer offered by Acme Tuning" in card
    world.restart()
    assert len(look(world, world.clock + DAY)) == 1
