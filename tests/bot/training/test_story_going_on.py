"""A training goes on from a tuned model: what is planned and sent, what the result is compared with, and what is
refused."""

from __future__ import annotations

from typing import Any

import pytest

from bot.cli.estimates import estimate
from bot.rules.estimate_inputs import Question
from bot.rules.estimates import EstimateResult
from bot.rules.plans import plan_from_json, plan_hash
from bot.values.runs import RunResult
from tests.bot.datasets.test_story_row_deletion import report_of
from tests.bot.props import LABELS
from tests.bot.runs import seed_runs
from tests.bot.world import START, TARGET, World

FIRST = "ft:acme-small:org:tickets:1"


def learns_more_each_time(model: str, messages: list[dict[str, Any]]) -> str:
    """The base model always says 'billing', the first tuned model doesn't know refunds, and the next one does."""
    label = next(label for label in LABELS if label in messages[-1]["content"])
    if not model.startswith("ft:") or (model == FIRST and label == "refund"):
        return "billing"
    return label


@pytest.fixture
def going_on(world: World) -> World:
    world.abilities += ', "going_on"'
    world.restart()
    seed_runs(world)
    return world


@pytest.mark.deep
def test_a_run_goes_on_from_a_tuned_model_and_is_compared_with_it(world: World) -> None:
    world.abilities += ', "going_on"'
    world.restart()
    world.provider.service.answer = learns_more_each_time
    world.seed_dataset(rows=120)
    world.start(f"{START} epochs=5")
    world.approve()
    world.tick_until_state("done")
    line = START.replace(TARGET, "tickets-1")
    assert "tickets on tickets-1," in world.type(line.replace("start", "estimate"))
    in_terminal = estimate(
        world.service.settings, "tickets", report_of(world.dataset()), Question(target="tickets-1")
    )
    assert isinstance(in_terminal, EstimateResult) and in_terminal.target.title == "tickets-1"

    run = world.start(f"{line} epochs=2")
    card = world.find_message("train tickets-1 on tickets")
    assert "`tickets-1`: acme-small tuned on tickets, version 1" in card
    plan = plan_from_json(run.plan)
    start = plan.starts_from
    assert start is not None and (start.provider_model, start.run) == (FIRST, 1)
    first = plan_from_json(world.run(1).plan)
    assert (start.plan_hash, start.train_files) == (plan_hash(first), (first.train_sha256,))
    world.approve()
    asked_before = len(world.provider.requests)
    world.tick_until_state("done", 2)
    sent = world.provider.requests[asked_before:]
    (create,) = [each.body for each in sent if each.route == "POST /fine_tuning/jobs"]
    assert create["model"] == FIRST
    questioned = {each.body["model"] for each in sent if each.route == "POST /chat/completions"}
    assert questioned == {"ft:acme-small:org:tickets:2"}, "the first model's answers are stored"
    result = RunResult.from_json(str(world.run(2).result))
    assert (result.before, result.start, result.tuned.share, result.worse) == ("start", "tickets-1", 1.0, 0)
    assert (result.base.correct, result.better) == (26, 13)
    card = world.find_message("acme-small, from `tickets-1`, on tickets, 39 held-out rows")
    assert "Against tickets-1, 66.7%" in card

    assert "going on from `tickets-1`" in world.type("/finetune models all")
    assert world.type(f"{START.replace(TARGET, 'tickets-2')} epochs=2") == ""
    again = plan_from_json(world.run(3).plan).starts_from
    assert again is not None and again.lineage == ("tickets-2", "tickets-1")


def test_a_training_goes_on_only_where_that_proves_something_and_is_possible(going_on: World) -> None:
    world = going_on
    world.seed_dataset(called="others", rows=60)
    line = START.replace(TARGET, "tickets-1")
    refusal = world.type(line.replace("tickets c", "others c"))
    assert "1 of the 18 rows that `others` sets aside for measuring was among the rows" in refusal
    assert "`target=acme/acme-small`" in refusal
    assert "trains one set of hyperparameters" in world.type(f"{line} sweep=batch_size:2,4")
    assert world.newest_run().id == 1

    assert world.type(line) == ""
    world.send()
    plan = plan_from_json(world.run(2).plan)
    assert "tickets-1 meets the bar as it is" in str(plan.warnings) and not plan.is_advised
    model = world.store.model("tickets-1")
    assert model is not None
    world.approve()
    world.store.mark_model_gone(model, world.clock)
    world.tick_until_state("cancelled", 2)
    assert "`tickets-1`, from which it would go on, is gone" in str(world.run(2).error)
    assert world.jobs() == 1
    assert "is gone" in world.type(line)

    world.abilities = world.abilities.removesuffix(', "going_on"')
    world.restart()
    world.store.mark_model_gone(model, None)
    assert "no training there can go on from `tickets-1`" in world.type(line)
