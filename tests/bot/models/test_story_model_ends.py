"""End dates in a provider's list of models reach estimates and plans, whatever our own lists say."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from bot.reconciler import maintain
from bot.rules.plans import plan_from_json
from bot.settings import load_settings, model_ends
from tests.bot.world import MODEL, START, TARGET, MakeWorld, Rules, World
from tests.peers.hosted import HTML, NOTHING_BUT_500
from trainers.types import ModelInfo

LIST = "GET /models"
ESTIMATE = "/finetune estimate tickets current=gpt-4o volume=100M target=acme/acme-small"


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    world = make_world(Rules())
    world.seed_dataset(rows=240)  # of fewer than 200 no saving is shown
    return world


def day(world: World, days: int) -> str:
    return (datetime.fromtimestamp(world.clock, UTC).date() + timedelta(days=days)).isoformat()


def stored_ends(world: World) -> dict[str, object]:
    ends = json.loads((world.service.settings.data / model_ends.MODEL_ENDS_FILE).read_text(encoding="utf-8"))
    models: dict[str, object] = ends["acme"]["models"]
    return models


def test_a_target_that_its_provider_shut_down_is_refused(world: World) -> None:
    world.provider.service.shutdowns = {MODEL: day(world, -1)}
    maintain(world.service.context)
    assert f"ended on {day(world, -1)}" in world.type(ESTIMATE)
    assert day(world, -1) in world.type(START)
    assert world.store.runs.newest() == []


def test_savings_of_a_target_stop_at_its_end_date(world: World) -> None:
    world.provider.service.shutdowns = {MODEL: day(world, 20)}
    maintain(world.service.context)
    assert day(world, 20) in world.type(ESTIMATE)


def test_savings_stop_at_the_end_date_of_todays_model(world: World) -> None:
    estimate = ESTIMATE.replace("gpt-4o", "gpt-5.6-terra")
    assert "ends on" not in world.type(estimate)
    service = world.provider.service
    service.models, service.shutdowns = (*service.models, "gpt-5.6-terra"), {"gpt-5.6-terra": day(world, 40)}
    maintain(world.service.context)
    assert f") until {day(world, 40)}" in world.type(estimate)  # after the range of the monthly saving
    world.pass_time(40 * 86_400)
    assert "no longer answers" in world.type(estimate)


def test_a_price_that_arrives_while_end_dates_are_fetched_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = world.service.context
    trainer = context.trainers["acme"]
    list_models = trainer.models

    def models_while_a_price_comes() -> tuple[ModelInfo, ...]:
        rows = tuple(row.with_hourly_price(MODEL, Decimal(7)) for row in context.settings.providers)
        context.settings = replace(context.settings, providers=rows)
        return list_models()

    monkeypatch.setattr(trainer, "models", models_while_a_price_comes)
    priced = [row.with_hourly_price(MODEL, Decimal(7)) for row in context.settings.providers]
    maintain(context)
    fetched = [replace(row, listed=frozenset()) for row in context.settings.providers]
    assert fetched == priced


def test_approvers_see_how_long_a_saving_lasts(world: World) -> None:
    service = world.provider.service
    service.models, service.shutdowns = (*service.models, "gpt-5.6-terra"), {"gpt-5.6-terra": day(world, 40)}
    maintain(world.service.context)
    run = world.start(f"/finetune start tickets current=gpt-5.6-terra volume=100M target={TARGET}")
    advised = plan_from_json(run.plan).advised
    assert advised is not None and advised.saves_until == day(world, 40)
    assert f"a month until {day(world, 40)}, if it is good enough" in world.find_message(
        "Run 1: train", "Saves"
    )


def test_end_dates_survive_a_restart_and_reach_the_terminal(world: World) -> None:
    world.provider.service.shutdowns = {MODEL: day(world, 20)}
    maintain(world.service.context)
    world.restart()
    assert day(world, 20) in world.type(ESTIMATE)
    row = load_settings({}, world.folder / "finetune.toml", need_slack=False).provider("acme")
    assert row is not None and [str(model.ends) for model in row.models] == [day(world, 20)]


@pytest.mark.deep
def test_each_provider_is_asked_once_a_night_and_again_after_a_failure(world: World) -> None:
    world.provider.fail(LIST, NOTHING_BUT_500, times=20)
    maintain(world.service.context)
    failed = world.provider.count(LIST)
    world.provider.forgive(LIST)
    maintain(world.service.context)
    maintain(world.service.context)
    assert (world.provider.count(LIST), stored_ends(world)) == (failed + 1, {})
    world.provider.service.shutdowns = {MODEL: day(world, 20)}
    world.pass_time(86_400)
    maintain(world.service.context)
    assert list(stored_ends(world)) == [MODEL]


@pytest.mark.deep
def test_an_unreadable_list_leaves_the_stored_end_dates(world: World) -> None:
    end = day(world, 20)
    world.provider.service.shutdowns = {MODEL: end}
    maintain(world.service.context)
    world.provider.fail(LIST, HTML)
    world.pass_time(86_400)
    maintain(world.service.context)
    assert stored_ends(world) == {MODEL: end}


@pytest.mark.parametrize("text", ["", "[1]", '{"acme": {}}', '{"acme": {"models": {"m": "soon"}}}', "\xff"])
def test_a_damaged_file_of_end_dates_is_ignored(world: World, tmp_path: Path, text: str) -> None:
    (tmp_path / model_ends.MODEL_ENDS_FILE).write_bytes(text.encode("latin-1"))
    rows = world.service.settings.providers
    assert model_ends.with_announced_ends(rows, tmp_path) == rows
    model_ends.store_model_ends(tmp_path, "acme", {}, datetime(2026, 11, 27, tzinfo=UTC).date())
    assert "2026-11-27" in (tmp_path / model_ends.MODEL_ENDS_FILE).read_text(encoding="utf-8")
