"""The search for a better prompt: with gepa on training rows, measured once on the held-out ones."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest

from bot.cards.evidence import evaluation_results, evaluations
from bot.services.datasets import dataset_worker, datasets
from bot.services.datasets.datasets import CheckedDataset
from bot.services.evidence.evidence import load_evidence
from bot.services.measurement import prompt_search
from bot.values.evaluations import ComparisonPlan, ComparisonProgress, SearchProgress
from demo.people import ANA, BEN
from tests.bot.measurements import BASELINE, CHAT, comparison_of, measure, measurement, until
from tests.bot.props import LABELS
from tests.bot.world import MakeWorld, Rules, World
from tests.chaos.conftest import forks as forks
from tests.chaos.fork_host import ForkHost
from tests.patience import wait_until
from tests.peers.hosted import KEY
from trainers.dataset import Report
from trainers.evaluation.results import MeasuredCandidate

BAD = "Sort it."
INPUT, OUTPUT = Decimal("200"), Decimal("20")  # dollars per million tokens: a question costs a cent
PRICES = f'[prices."acme/acme-small"]\ninput = "{INPUT}"\noutput = "{OUTPUT}"\n'


def rule(label: str) -> str:
    return f"What is about {label} is {label}."


def improving(model: str, messages: list[dict[str, Any]]) -> str:
    """Says 'billing' unless the prompt has the label's rule; asked for a better prompt, adds a missing rule."""
    text = messages[-1]["content"]
    if is_reflection(messages):
        before = text.split("```")[1].strip()
        missed = [label for label in LABELS if f"answer is: {label}" in text and rule(label) not in before]
        return f"```\n{before} {' '.join(map(rule, missed[:1]))}\n```"
    label = next(label for label in LABELS if label in text)
    return label if rule(label) in messages[0]["content"] else "billing"


def useless(model: str, messages: list[dict[str, Any]]) -> str:
    """Asked for a better prompt, makes it longer, which helps no answer."""
    if is_reflection(messages):
        return f"```\n{messages[-1]['content'].split('```')[1].strip()} Think.\n```"
    return "billing"


def is_reflection(messages: list[dict[str, Any]]) -> bool:
    return messages[0]["role"] == "user" and "new instruction" in messages[0]["content"]


class Ledger:
    """What the provider would bill: every answer that it gave, even if nobody waited for it."""

    def __init__(self, world: World, answer: Callable[[str, list[dict[str, Any]]], str]) -> None:
        self.usd, self._answer = Decimal(0), answer
        world.provider.service.answer = self.answer

    def answer(self, model: str, messages: list[dict[str, Any]]) -> str:
        text = self._answer(model, messages)
        sent = sum(len(message["content"].split()) for message in messages)
        self.usd += (INPUT * sent + OUTPUT * len(text.split())) / 1_000_000
        return text


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    world = make_world(Rules(more=PRICES, measurement="10", provider_row="callers = 4"))
    world.seed_dataset()
    return world


def search_of(world: World, number: int = 1) -> SearchProgress:
    search = ComparisonProgress.from_json(measurement(world, number).progress).search
    assert search is not None
    return search


def ask(world: World, budget: str = "$2") -> None:
    assert world.type(f"{BASELINE} candidates=zero optimise={budget} bar=75% prompt={BAD}") == ""
    world.tick_until(
        lambda: measurement(world).reserved_micros or measurement(world).state == "failed", "its price"
    )
    world.send()


def candidate_of(world: World, name: str, number: int = 1) -> MeasuredCandidate:
    return next(candidate for candidate in comparison_of(world, number).candidates if candidate.kind == name)


def held_out(world: World) -> set[str]:
    report = Report.from_json(str(world.dataset().report))
    rows = dataset_worker.examples(world.service.settings.files, str(report.holdout_sha256))
    return {row.prompt[-1].content for row in rows}


def run_and_kill(world: World, forks: ForkHost, answers: Sequence[int]) -> None:
    """Run the bot as processes of its own. SIGKILL ends each after so many answers, with questions in flight."""
    world.stop()
    world.provider.slow_s = 0.05
    access = world.slack.access
    tokens = {"SLACK_BOT_TOKEN": access.bot_token, "SLACK_SIGNING_SECRET": access.signing_secret}
    environment = {**tokens, "ACME_KEY": KEY}
    database = f"file:{world.folder}/data/finetune.db?mode=ro"
    with closing(sqlite3.connect(database, uri=True)) as file:

        def answered() -> int:
            (progress,) = file.execute("SELECT progress FROM measurements").fetchone()
            search = ComparisonProgress.from_json(progress).search
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


@pytest.mark.deep
def test_a_bad_prompt_is_improved_though_the_bot_is_killed(world: World, forks: ForkHost) -> None:
    ledger = Ledger(world, improving)
    ask(world)
    world.find_message("Optimised prompt", "up to $2.00 of it", "Measure 1 alternative")
    world.click(BEN, evaluations.MEASURE)
    run_and_kill(world, forks, (30,))
    world.tick_until(lambda: search_of(world).is_over, "the end of the search", seconds=90)
    searched = [request.body["messages"] for request in world.provider.requests if request.route == CHAT]
    done = until(world, "done", seconds=90)

    assert candidate_of(world, "zero").score == pytest.approx(1 / 3)
    assert candidate_of(world, "optimised").score == 1.0
    assert ledger.usd <= 2, "including the prompt alone, which is not part of the search"
    assert (done.actual_micros or 0) <= done.reserved_micros
    words = " ".join(message["content"] for messages in searched for message in messages)
    assert not [question for question in held_out(world) if question in words], "a held-out row was seen"
    repeated = [messages for messages in searched if searched.count(messages) > 1]
    assert len(repeated) <= 2 * 4, "only questions in flight at the kill may be asked again"

    world.find_message("Measurement m1", "A better prompt is enough", "meets your 75% bar")
    assert len(world.cards()) == 2, "the new bar, and the measurement"
    actions = [entry.action for entry in world.store.audit.entries("measurement 1")]
    assert actions == ["measure", "agree", "measured"]
    world.click(ANA, evaluation_results.DETAILS)
    details = world.read_form(ANA)
    assert "What the search changed in the prompt" in details and f"-{BAD}" in details
    assert rule("refund") in details and rule("shipping") in details
    assert_prompt_stays_with_dataset(world)


def assert_prompt_stays_with_dataset(world: World) -> None:
    """The next measurement uses it too, and a tuned model is compared with it."""
    prompt = ComparisonPlan.from_json(measurement(world).plan).optimised
    assert prompt == prompt_search.latest_prompt(world.service.context, "tickets")
    before = world.provider.count(CHAT)
    measure(world, f"{BASELINE} candidates=optimised,kshot", 2)
    assert candidate_of(world, "optimised", 2) == candidate_of(world, "optimised", 1)
    assert world.provider.count(CHAT) == before + len(held_out(world)), "only ten examples"
    checked = datasets.load_usable(world.service.context, "tickets", ANA.id, None)
    assert isinstance(checked, CheckedDataset) and checked.report
    candidates = load_evidence(world.service.context, checked.dataset, checked.report, None).alternatives
    assert "optimised" in {candidate.kind for candidate in candidates}


@pytest.mark.deep
def test_a_search_stops_within_its_budget_in_which_questions_paid_twice_after_kills_count(
    world: World, forks: ForkHost
) -> None:
    ledger = Ledger(world, useless)
    ask(world, "$1")
    world.click(BEN, evaluations.MEASURE)
    run_and_kill(world, forks, (10, 60))
    until(world, "done", seconds=90)
    assert search_of(world).ended == prompt_search.BUDGET_USED and search_of(world).lost_micros
    assert Decimal("0.5") < ledger.usd <= 1
    assert "optimised" not in str(measurement(world).result)
    assert world.find_message("No better prompt was found", "Its budget was used up")


def test_a_budget_too_small_to_compare_prompts_is_refused(world: World) -> None:
    ask(world, "$0.05")
    assert measurement(world).state == "failed" and world.provider.count(CHAT) == 0
    assert world.find_message("$0.05 is too little to optimise the prompt")


def test_too_few_rows_and_unreadable_amounts_are_refused(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset(rows=24)
    assert "at least 20 training rows" in world.type(f"{BASELINE} optimise=$2")
    assert "dollars for optimising" in world.type(f"{BASELINE} optimise=much")
    assert "no optimised prompt yet" in world.type(f"{BASELINE} candidates=optimised")
    assert not world.store.measurements.newest()


def test_a_cancelled_search_books_its_cost(world: World) -> None:
    ledger = Ledger(world, improving)
    ask(world)
    world.click(BEN, evaluations.MEASURE)
    world.tick_until(lambda: search_of(world).answered > 5, "answers")
    world.click(BEN, evaluations.CANCEL)
    cancelled = until(world, "cancelled")
    assert 0 < ledger.usd * 1_000_000 <= (cancelled.actual_micros or 0) + 1
