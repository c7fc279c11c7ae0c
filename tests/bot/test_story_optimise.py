"""A better prompt, looked for with gepa on training rows and measured once on the held-out ones."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest

from bot.cards import evaluation_results, evaluations
from bot.services import datasets, evaluation_worker, prompt_search
from bot.services.datasets import CheckedDataset
from bot.services.evidence import load_evidence
from bot.values.evaluations import LadderPlan, LadderProgress, SearchProgress
from demo.people import ANA, BEN
from demo.workspace import wait_until
from storage.records import Measurement, MeasurementState
from tests.bot.props import LABELS
from tests.bot.world import Rules, World
from tests.chaos.fork_host import ForkHost
from trainers.dataset import Report
from trainers.evaluation.results import Ladder, Rung

CHAT = "POST /chat/completions"
ACME = "models=acme/acme-small"
BAD = "Sort it."
INPUT, OUTPUT = Decimal("200"), Decimal("20")  # dollars a million tokens: a question costs a cent
PRICES = f'[prices."acme/acme-small"]\ninput = "{INPUT}"\noutput = "{OUTPUT}"\n'
MakeWorld = Callable[[Rules], World]


def rule(label: str) -> str:
    return f"What is about {label} is {label}."


def improving(model: str, messages: list[dict[str, Any]]) -> str:
    """Says 'billing', but for labels whose rule it was told; for a better prompt it adds a rule that it missed."""
    text = messages[-1]["content"]
    if is_reflection(messages):
        before = text.split("```")[1].strip()
        missed = [label for label in LABELS if f"answer is: {label}" in text and rule(label) not in before]
        return f"```\n{before} {' '.join(map(rule, missed[:1]))}\n```"
    label = next(label for label in LABELS if label in text)
    return label if rule(label) in messages[0]["content"] else "billing"


def useless(model: str, messages: list[dict[str, Any]]) -> str:
    """Has many words for a better prompt, and answers no better with any."""
    if is_reflection(messages):
        return f"```\n{messages[-1]['content'].split('```')[1].strip()} Think.\n```"
    return "billing"


def is_reflection(messages: list[dict[str, Any]]) -> bool:
    return messages[0]["role"] == "user" and "new instruction" in messages[0]["content"]


class Ledger:
    """What the provider would bill: every answer that it gave, also one that nobody waited for."""

    def __init__(self, world: World, speak: Callable[[str, list[dict[str, Any]]], str]) -> None:
        self.usd, self.speak = Decimal(0), speak
        world.provider.service.answer = self.answer

    def answer(self, model: str, messages: list[dict[str, Any]]) -> str:
        text = self.speak(model, messages)
        sent = sum(len(message["content"].split()) for message in messages)
        self.usd += (INPUT * sent + OUTPUT * len(text.split())) / 1_000_000
        return text


@pytest.fixture
def priced(make_world: MakeWorld) -> World:
    world = make_world(Rules(more=PRICES, measurement="10", provider_row="callers = 4"))
    world.seed_dataset()
    return world


def measurement(world: World, number: int = 1) -> Measurement:
    result: Measurement | None = world.store.measurements.get(number)
    assert result is not None
    return result


def until(world: World, state: MeasurementState, number: int = 1) -> Measurement:
    world.tick_until(
        lambda: measurement(world, number).state == state, f"m{number} to be {state}", seconds=90
    )
    world.send()
    return measurement(world, number)


def search_of(world: World, number: int = 1) -> SearchProgress:
    search = LadderProgress.from_json(measurement(world, number).progress).search
    assert search is not None
    return search


def ask(world: World, budget: str = "$2") -> None:
    line = f"/finetune baseline tickets {ACME} rungs=zero optimise={budget} bar=75% prompt={BAD}"
    assert world.type(line) == ""
    world.tick_until(
        lambda: measurement(world).reserved_micros or measurement(world).state == "failed", "its price"
    )
    world.send()


def rung_of(world: World, name: str, number: int = 1) -> Rung:
    result = measurement(world, number).result
    assert result is not None
    return next(rung for rung in Ladder.from_json(result).rungs if rung.arm.rung == name)


def held_out(world: World) -> set[str]:
    report = Report.from_json(str(world.dataset().report))
    rows = evaluation_worker.examples(world.service.settings.files, str(report.holdout_sha256))
    return {row.prompt[-1].content for row in rows}


def live_and_die(world: World, answers: Sequence[int]) -> None:
    """The bot as processes of its own, each ended by SIGKILL while questions are under way: after so many answers."""
    world.stop()
    world.provider.slow_s = 0.05
    door = world.slack.access
    environment = {"SLACK_BOT_TOKEN": door.bot_token, "SLACK_SIGNING_SECRET": door.signing_secret}
    database = f"file:{world.folder}/data/finetune.db?mode=ro"
    with closing(sqlite3.connect(database, uri=True)) as file, ForkHost() as forks:

        def answered() -> int:
            (progress,) = file.execute("SELECT progress FROM measurements").fetchone()
            search = LadderProgress.from_json(progress).search
            return search.answered if search else 0

        for least in answers:
            began = time.time()
            life = forks.start(
                "tests.chaos.bot_process:run_bot",
                config=str(world.folder / "finetune.toml"),
                environment=environment,
                born=began,
                speed=1.0,
                late_s=began - world.clock,
            )
            wait_until(lambda least=least: answered() > least, f"{least} answers", seconds=90)
            assert forks.kill(life) == -signal.SIGKILL
            world.pass_time(time.time() - began)
    world.provider.slow_s = 0.0
    world.boot()


def test_a_bad_prompt_is_improved_though_the_bot_is_killed_twice(priced: World) -> None:
    world, ledger = priced, Ledger(priced, improving)
    ask(world)
    card = world.find_message("Optimised prompt", "up to $2.00 of it")
    assert "Measure 1 alternative" in card
    world.click(BEN, evaluations.MEASURE)
    live_and_die(world, (10, 60))
    world.tick_until(lambda: search_of(world).is_over, "the end of the search", seconds=90)
    searched = [seen.body["messages"] for seen in world.provider.requests if seen.route == CHAT]
    done = until(world, "done")

    assert rung_of(world, "zero").score == pytest.approx(1 / 3)
    assert rung_of(world, "optimised").score == 1.0
    assert ledger.usd <= 2, "with the prompt alone, which is not the search's"
    assert (done.actual_micros or 0) <= done.reserved_micros
    asked = " ".join(message["content"] for messages in searched for message in messages)
    assert not [question for question in held_out(world) if question in asked], "a held-out row was seen"
    repeated = [messages for messages in searched if searched.count(messages) > 1]
    assert len(repeated) <= 2 * 2 * 4, "only what was under way at a kill may be asked again"

    said = world.find_message("Measurement m1", "A better prompt is enough")
    assert "meets your 75% bar" in said and len(world.cards()) == 1
    ends = [entry.action for entry in world.store.audit.entries("measurement 1")]
    assert ends == ["measure", "agree", "measured"]
    world.click(ANA, evaluation_results.DETAILS)
    details = world.read_form(ANA)
    assert "What the search changed in the prompt" in details and f"-{BAD}" in details
    assert rule("refund") in details and rule("shipping") in details
    _is_kept_with_the_dataset(world)


def _is_kept_with_the_dataset(world: World) -> None:
    """The next measurement asks it too, and what is tuned is held against it."""
    prompt = LadderPlan.from_json(measurement(world).plan).optimised
    assert prompt == prompt_search.latest_prompt(world.service.context, "tickets")
    before = world.provider.count(CHAT)
    assert world.type(f"/finetune baseline tickets {ACME}") == ""
    world.tick_until(lambda: measurement(world, 2).reserved_micros, "its price")
    world.send()
    world.click(BEN, evaluations.MEASURE)
    until(world, "done", 2)
    assert rung_of(world, "optimised", 2) == rung_of(world, "optimised", 1)
    assert world.provider.count(CHAT) == before + 2 * len(held_out(world)), "only ten examples and retrieval"
    checked = datasets.load_usable(world.service.context, "tickets", ANA.id, None)
    assert isinstance(checked, CheckedDataset) and checked.report
    rungs = load_evidence(world.service.context, checked.dataset, checked.report, None).alternatives
    assert "optimised" in {rung.arm.rung for rung in rungs}


def test_a_search_stops_before_its_budget_is_passed(priced: World) -> None:
    world, ledger = priced, Ledger(priced, useless)
    ask(world, "$1")
    world.click(BEN, evaluations.MEASURE)
    world.tick_until(lambda: search_of(world).is_over, "the end of the search", seconds=90)
    assert search_of(world).ended == prompt_search.BUDGET_USED
    assert Decimal("0.5") < ledger.usd <= 1
    until(world, "done")
    assert "optimised" not in str(measurement(world).result)
    assert world.find_message("No better prompt was found", "Its budget was used up")


def test_what_two_kills_have_paid_twice_is_in_the_budget(priced: World) -> None:
    world, ledger = priced, Ledger(priced, useless)
    ask(world, "$1")
    world.click(BEN, evaluations.MEASURE)
    live_and_die(world, (10, 60))
    until(world, "done")
    assert search_of(world).ended == prompt_search.BUDGET_USED and search_of(world).lost_micros
    assert Decimal("0.5") < ledger.usd <= 1


def test_a_budget_that_compares_nothing_is_refused_before_anything_is_asked(priced: World) -> None:
    world = priced
    ask(world, "$0.05")
    assert measurement(world).state == "failed" and world.provider.count(CHAT) == 0
    assert world.find_message("$0.05 is too little to optimise the prompt")


def test_too_few_rows_and_unreadable_sums_are_refused(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset(rows=24)
    assert "at least 20 training rows" in world.type(f"/finetune baseline tickets {ACME} optimise=$2")
    assert "dollars for optimising" in world.type(f"/finetune baseline tickets {ACME} optimise=much")
    assert "no optimised prompt yet" in world.type(f"/finetune baseline tickets {ACME} rungs=optimised")
    assert not world.store.measurements.newest()


def test_a_search_is_cancelled_and_what_it_cost_is_booked(priced: World) -> None:
    world, ledger = priced, Ledger(priced, improving)
    ask(world)
    world.click(BEN, evaluations.MEASURE)
    world.tick_until(lambda: search_of(world).answered > 5, "answers")
    world.click(BEN, evaluations.CANCEL)
    cancelled = until(world, "cancelled")
    assert 0 < ledger.usd * 1_000_000 <= (cancelled.actual_micros or 0) + 1
