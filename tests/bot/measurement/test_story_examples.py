"""The number of examples in a prompt: set by a person, or chosen on training rows."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from bot.cards.evidence import evaluation_results, evaluations
from bot.reconciler import apply_retention
from bot.services.datasets import dataset_worker
from bot.values.evaluations import ComparisonProgress
from demo.people import ANA, BEN
from tests.bot.measurements import (
    BASELINE,
    CHAT,
    PRICES,
    comparison_of,
    measure,
    measurement,
    until,
    until_asked,
)
from tests.bot.props import LABELS, tickets_csv
from tests.bot.world import MakeWorld, Rules, World
from trainers.dataset import Report
from trainers.evaluation.results import Comparison

EXAMPLES = f"{BASELINE} candidates=zero,kshot"


def with_many_examples(model: str, messages: list[dict[str, Any]]) -> str:
    """Learns from twenty examples, and says 'billing' with fewer."""
    shots = sum(message["role"] == "assistant" for message in messages)
    right = next(label for label in LABELS if label in messages[-1]["content"])
    return right if shots == 20 else "billing"


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    world = make_world(Rules(more=PRICES, provider_row="callers = 4"))
    world.seed_dataset()
    world.provider.service.answer = with_many_examples
    return world


def progress(world: World) -> ComparisonProgress:
    return ComparisonProgress.from_json(measurement(world).progress)


def test_the_number_of_examples_is_chosen_on_training_rows(world: World) -> None:
    world.type("/finetune baseline")
    answers = {"dataset": "tickets", "models": ["acme/acme-small"], "candidates": ["zero", "kshot"]}
    refused = world.slack.submit_modal(ANA.id, {**answers, "shots": "51"})
    assert "a number of examples from 1 to 50, or auto" in refused.errors["shots"]
    assert world.slack.submit_modal(ANA.id, {**answers, "shots": "auto"}).closed
    until_asked(world)
    assert world.find_message("Examples", "0, 5, 10 or 20, chosen on training rows")
    world.click(BEN, evaluations.MEASURE)
    world.provider.slow_s = 0.05
    world.tick_until(
        lambda: any(candidate.answered for candidate in progress(world).shot_candidates), "answers"
    )
    world.restart()
    world.provider.slow_s = 0.0
    world.tick_until(lambda: progress(world).stage != "choosing", "the choice", seconds=90)
    prompts = [request.body["messages"] for request in world.provider.requests if request.route == CHAT]
    report = Report.from_json(str(world.dataset().report))
    rows = dataset_worker.examples(world.service.settings.files, str(report.holdout_sha256))
    words = " ".join(message["content"] for prompt in prompts for message in prompt)
    assert not [row for row in rows if row.prompt[-1].content in words], "a held-out row was seen"

    done = until(world, "done", seconds=90)
    comparison = comparison_of(world)
    assert [(candidate.kind, candidate.shots) for candidate in comparison.candidates] == [
        ("zero", None),
        ("kshot", 20),
    ]
    assert comparison.candidates[1].score == 1.0
    assert 0 < (done.actual_micros or 0) <= done.reserved_micros
    assert world.find_message("Measurement m1", "20 examples")
    world.click(ANA, evaluation_results.DETAILS)
    assert "Examples for acme/acme-small, on 21 training rows" in world.read_form(ANA)
    assert list(world.folder.rglob("shots/*.jsonl"))
    apply_retention(world.service.context)
    assert not list(world.folder.rglob("shots/*.jsonl")), "prompts hold whole rows"


def test_if_examples_do_not_help_only_the_prompt_alone_is_measured(world: World) -> None:
    world.provider.service.answer = lambda model, messages: next(
        label for label in LABELS if label in messages[-1]["content"]
    )
    comparison = measure(world, f"{EXAMPLES} shots=auto")
    assert [(candidate.kind, candidate.shots) for candidate in comparison.candidates] == [("zero", 0)]
    assert world.find_message("prompt alone", "Examples did not help acme/acme-small: on training rows")
    world.click(ANA, evaluation_results.DETAILS)
    assert "on 21 training rows: 0: 100.0%, 5: 100.0%" in world.read_form(ANA)


def test_a_person_may_set_the_number_of_examples(world: World) -> None:
    comparison = measure(world, f"{EXAMPLES} shots=3")
    assert comparison.candidates[1].key == "kshot-3 acme/acme-small"
    assert world.find_message("3 examples")
    shots = {
        sum(message["role"] == "assistant" for message in request.body["messages"])
        for request in world.provider.requests
        if request.route == CHAT
    }
    assert shots == {0, 3}
    assert "from 1 to 50, or auto" in world.type(f"{EXAMPLES} shots=many")


def copies_from_examples(model: str, messages: list[dict[str, Any]]) -> str:
    """Says the right label if the prompt has examples, and 'billing' otherwise."""
    right = next(label for label in LABELS if label in messages[-1]["content"])
    return right if any(message["role"] == "assistant" for message in messages) else "billing"


def chats(rows: int, **answer: object) -> str:
    """The tickets as chats whose answers have these further keys."""
    tickets = csv.DictReader(io.StringIO(tickets_csv(rows)))
    messages = [
        [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["label"], **answer}]
        for row in tickets
    ]
    return "\n".join(json.dumps({"messages": each}) for each in messages)


def scores(comparison: Comparison) -> dict[str, float]:
    return {candidate.kind: candidate.score for candidate in comparison.candidates}


@pytest.mark.deep
def test_chats_dumped_by_the_openai_package_are_shown_as_examples(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    dumped = chats(60, refusal=None, tool_calls=None, annotations=[], weight=None)
    world.upload_and_check(dumped, file="tickets.jsonl")
    world.provider.service.answer = copies_from_examples
    comparison = measure(world, f"{BASELINE} candidates=zero,kshot,retrieval")
    assert scores(comparison)["kshot"] == scores(comparison)["retrieval"] == 1.0 > scores(comparison)["zero"]


def test_fewer_examples_than_asked_for_are_named_by_their_number(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.upload_and_check(tickets_csv(16))
    world.provider.service.answer = copies_from_examples
    comparison = measure(world, f"{EXAMPLES} shots=15")
    train = Report.from_json(str(world.dataset().report)).n_train
    assert train < 15
    assert [(candidate.kind, candidate.shots) for candidate in comparison.candidates] == [
        ("zero", None),
        ("kshot", train),
    ]
    card = world.find_message("Measurement m1", f"{train} examples")
    assert f"15 examples were asked for, but only {train} training rows can be shown" in card


def test_a_candidate_without_a_single_example_is_left_out_with_the_reason(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    tool = {"type": "function", "function": {"name": "find", "parameters": {}}}
    offering = [{**json.loads(line), "tools": [tool]} for line in chats(60).splitlines()]
    world.upload_and_check("\n".join(map(json.dumps, offering)), file="tickets.jsonl")
    comparison = measure(world, f"{BASELINE} candidates=zero,kshot,retrieval")
    assert set(scores(comparison)) == {"zero"}
    card = world.find_message("Measurement m1", "Left out")
    assert "none of the training rows can be shown as an example" in card
