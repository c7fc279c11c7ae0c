"""Answers in JSON: the free candidates are measured, decide the estimate, and cost nothing; a model that is asked may
write no more than twice the longest right answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from bot.cli import main
from bot.services.datasets.dataset_worker import SEED
from bot.services.evidence.evaluation_worker import max_tokens
from bot.values.runs import RunResult
from storage.datasets import NewDataset
from tests.bot.measurements import ACME, CHAT, PRICES, comparison_of, measurement, start_measurement, until
from tests.bot.world import DORA, PRIVATE, TARGET, MakeWorld, Rules, World
from tests.trainers.evaluation.builders import make_orders
from trainers.dataset import Columns, Report, check_file

ROWS = 240
"""With so many, measured alternatives are compared with the bar."""
FEW_ROWS = 60


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    world = make_world(Rules(more=PRICES))
    seed_orders(world, FEW_ROWS)
    return world


@pytest.fixture
def full_world(make_world: MakeWorld) -> World:
    world = make_world(Rules(more=PRICES))
    seed_orders(world, ROWS)
    return world


def seed_orders(world: World, rows: int) -> Report:
    """A ready dataset "orders" whose answers are JSON objects."""
    path = world.folder / "orders.jsonl"
    orders = [
        {"messages": [{"role": turn.role, "content": turn.content} for turn in order.messages]}
        for order in make_orders(rows)
    ]
    path.write_text("".join(json.dumps(order) + "\n" for order in orders), encoding="utf-8")
    report = check_file(path, path.name, Columns(), world.service.settings.files, SEED)
    store = world.store
    new = NewDataset("orders", PRIVATE.id, DORA.id, path.name, "F0ORDERS")
    received = store.datasets.receive(new, now=world.clock)
    changes = {"sha256": report.source_sha256, "report": report.to_json()}
    assert store.datasets.move(received, "ready", now=world.clock, **changes)
    return report


def report_of(world: World) -> Report:
    return Report.from_json(str(world.store.datasets.get(1).report))


@pytest.mark.deep
def test_free_candidates_answer_in_json_and_the_card_shows_the_floor(full_world: World) -> None:
    report = report_of(full_world)
    assert report.scoring == "json" and report.floor is not None and 0.2 < report.floor < 0.6
    assert full_world.type("/finetune baseline orders candidates=classical,encoder") == ""
    until(full_world, "done")
    comparison = comparison_of(full_world)
    assert [candidate.kind for candidate in comparison.candidates] == ["classical", "encoder"]
    assert {candidate.scoring for candidate in comparison.candidates} == {
        "json"
    } and comparison.floor == report.floor
    classical = comparison.candidates[0]
    assert classical.score > comparison.floor + 0.2 and classical.usd_per_1000 == 0
    assert measurement(full_world).actual_micros == 0 and full_world.provider.count(CHAT) == 0
    full_world.find_message(
        "Measurement m1", f"The commonest values alone get {100 * report.floor:.1f}% of fields right"
    )
    for kind in ("classical", "encoder"):
        check_export(full_world, kind)


def check_export(world: World, kind: str) -> None:
    """The folder's program has scored on the held-out rows as the candidate was measured."""
    folder = world.folder / f"orders-{kind}"
    environment = {"FINETUNE_CONFIG": str(world.folder / "finetune.toml")}
    result = CliRunner().invoke(main, ["export", "orders", kind, "--out", str(folder)], env=environment)
    assert result.exit_code == 0, result.output
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Answers with an object of JSON" in card and "held-out rows: they score as measured" in card
    assert (folder / "extract.py").exists()


@pytest.mark.deep
def test_an_estimate_asks_for_the_free_candidates_first_and_then_uses_the_one_that_meets_the_bar(
    full_world: World,
) -> None:
    first = full_world.type("/finetune estimate orders current=acme/acme-small volume=10M")
    assert "Measure the free models" in first
    full_world.type("/finetune baseline orders candidates=classical,encoder bar=60%")
    until(full_world, "done")
    card = full_world.type("/finetune estimate orders current=acme/acme-small volume=10M bar=60%")
    assert "is good enough" in card and "Use the" in card


def test_a_model_may_write_twice_the_longest_right_answer_and_is_priced_for_it(world: World) -> None:
    report = report_of(world)
    longest = report.tokens.answer_most
    cap = max_tokens((), longest, "json")
    assert cap == max(64, 2 * longest) < 256
    start_measurement(world, f"/finetune baseline orders {ACME} candidates=zero")
    until(world, "done")
    caps = {seen.body["max_tokens"] for seen in world.provider.requests if seen.route == CHAT}
    assert caps == {cap}


def test_a_prompt_without_instructions_asks_for_json_and_names_its_fields(world: World) -> None:
    world.provider.service.answer = answer_in_json_if_told
    start_measurement(world, f"/finetune baseline orders {ACME} candidates=zero,kshot")
    world.find_message("Measurement m1", "a plain instruction with the fields")
    until(world, "done")
    by_candidate = {candidate.kind: candidate for candidate in comparison_of(world).candidates}
    assert by_candidate["zero"].score == 1.0 and by_candidate["zero"].unread == 0
    assert by_candidate["kshot"].score == 1.0
    for system in systems_asked(world):
        assert "desk" not in system and "1007" not in system, "a value of a row"


@pytest.mark.deep
def test_a_run_asks_its_base_model_the_same_and_reuses_the_measured_answers(world: World) -> None:
    held = report_of(world).n_holdout
    world.provider.service.answer = answer_in_json_if_told
    start_measurement(world, f"/finetune baseline orders {ACME} candidates=zero")
    until(world, "done")
    world.start(f"/finetune start orders current=gpt-4o volume=100M target={TARGET}")
    world.approve()
    run = world.tick_until_state("done")
    assert world.provider.count(CHAT) == 2 * held, "only the tuned model was asked"
    result = RunResult.from_json(str(run.result))
    assert result.names_fields and result.comparison and result.partial
    assert result.partial.before.score == 1.0, "by fields, as the bar counts and as it was measured"
    assert result.partial.after.score == result.comparison.of_kind("tuned")[0].score == 0.0
    for command in ("runs", "status", f"results {run.id}"):
        assert "0.0% of fields right" in world.type(f"/finetune {command}"), command
    assert all(answer.correct for answer in world.store.runs.answers(run.id, "base"))
    assert "worse than the untuned base" in world.type(f"/finetune promote {run.model}", user=DORA)


def test_a_typed_prompt_stays_as_it_is(world: World) -> None:
    start_measurement(world, f"/finetune baseline orders {ACME} candidates=zero prompt=Extract it.")
    world.find_message("Measurement m1", "your own")
    until(world, "done")
    assert set(systems_asked(world)) == {"Extract it."}


def systems_asked(world: World) -> list[str]:
    prompts = [seen.body["messages"] for seen in world.provider.requests if seen.route == CHAT]
    return [messages[0]["content"] for messages in prompts if messages[0]["role"] == "system"]


def answer_in_json_if_told(model: str, messages: list[dict[str, Any]]) -> str:
    """Reads every order rightly, and writes it in JSON only if the instructions ask for that by name of each field."""
    is_told = messages[0]["role"] == "system" and all(
        word in messages[0]["content"] for word in ("JSON", *FIELDS)
    )
    return RIGHT[messages[-1]["content"]] if is_told else "That is an order, thank you."


FIELDS = ('"order"', '"goods"', '"item"', '"colour"', '"quantity"', '"urgent"')
RIGHT = {order.prompt[-1].content: order.answer for order in make_orders(ROWS)}


@pytest.mark.parametrize(
    ("longest", "cap"),
    [(0, 256), (10, 64), (24, 64), (100, 200), (2_000, 2_048)],
)
def test_the_cap_of_an_answer_in_json(longest: int, cap: int) -> None:
    assert max_tokens((), longest, "json") == cap


def test_the_cap_of_other_answers_stays(world: World) -> None:
    assert max_tokens((), 24, "f1") == max_tokens((), 24, None) == 256
    assert max_tokens(("yes", "no"), 24, "label") == 16


def test_a_curve_says_that_it_needs_labels(world: World) -> None:
    assert "this dataset's answers are JSON objects" in world.type("/finetune curve orders")
