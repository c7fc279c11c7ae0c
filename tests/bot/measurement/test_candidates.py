"""Which models a measurement suggests, and providers that answer questions but train nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from bot.cards.common.words import SLACK, Spelling, TerminalSpelling
from bot.reconciler import maintain
from bot.services.common.candidates import LineUp, line_up, suggest_models
from bot.services.common.targets import find_target
from bot.services.measurement import evaluations
from bot.settings import Settings, load_settings
from bot.values.requests import Baseline
from bot.values.runs import Refusal
from demo.people import ANA
from tests.bot.cli_runner import finetune, write_tickets
from tests.bot.world import JOBS, PRIVATE, TARGET, Rules, World
from tests.cards import builders

MakeWorld = Callable[[Rules], World]

TODAY = date(2026, 11, 27)
LUNA = ("openai/gpt-6-luna", "openai/gpt-6-luna@low")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "finetune.toml"
    path.write_text("")
    return load_settings({}, path, need_slack=False)


def end_models(settings: Settings, provider: str, ends: dict[str, date]) -> Settings:
    rows = (row.with_shutdowns(ends) if row.name == provider else row for row in settings.providers)
    return replace(settings, providers=tuple(rows))


def test_the_cheapest_capable_model_is_suggested_beside_todays(settings: Settings) -> None:
    assert suggest_models(settings, "gpt-4o", TODAY) == ("openai/gpt-4o", *LUNA)
    assert suggest_models(settings, "openai/gpt-5.6-sol", TODAY) == ("openai/gpt-5.6-sol", *LUNA)
    assert suggest_models(settings, "OpenAI/gpt-4o", TODAY) == ("openai/gpt-4o", *LUNA)


def test_once_the_cheapest_model_has_ended_the_next_one_is_suggested(settings: Settings) -> None:
    ended = end_models(settings, "openai", {"gpt-6-luna": date(2026, 12, 1)})
    _, cheap, _ = suggest_models(ended, "gpt-4o", TODAY)
    assert cheap == "openai/gpt-5.6-luna"
    both = end_models(settings, "openai", {"gpt-6-luna": TODAY, "gpt-5.6-luna": TODAY})
    assert suggest_models(both, "gpt-4o", TODAY)[1] == "openai/gpt-6.1-terra"


def test_nothing_is_suggested_beside_the_cheapest_model(settings: Settings) -> None:
    assert suggest_models(settings, "gpt-6-luna", TODAY) == ("openai/gpt-6-luna",)


@pytest.mark.parametrize(
    ("reachable", "names"),
    [
        ((), ()),
        (("local", "ollama", "groq"), ()),
        (("openai",), LUNA),
        (("google",), ("google/gemini-3.1-flash-lite",)),
        (("anthropic", "openai", "google"), LUNA),
    ],
)
def test_without_todays_model_any_provider_with_a_key_is_suggested(
    settings: Settings, reachable: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert suggest_models(settings, None, TODAY, reachable) == names
    assert suggest_models(settings, "a-model-of-nobody", TODAY, reachable) == names


def test_rows_go_to_no_other_vendor_than_todays(settings: Settings) -> None:
    models = suggest_models(settings, "claude-sonnet-4-5", TODAY, ("openai", "anthropic"))
    assert models == ("anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-5-5")


def test_a_prompt_is_optimised_only_for_a_model_that_can_be_asked(settings: Settings) -> None:
    command = Baseline("tickets", optimise=Decimal(2))
    refused = line_up(settings, ("openai",), command, builders.report(), TODAY, SLACK)
    assert isinstance(refused, Refusal) and "no model to ask" in refused.text


@pytest.mark.parametrize(
    ("spelling", "typed", "instead"),
    [
        (SLACK, "`candidates=classical`", "`candidates=zero`"),
        (TerminalSpelling("texts.csv"), "`--candidates classical`", "`--candidates zero`"),
    ],
)
def test_a_free_candidate_that_cannot_write_texts_is_refused_by_its_option(
    settings: Settings, spelling: Spelling, typed: str, instead: str
) -> None:
    command = Baseline("texts", kinds=("classical",))
    texts = builders.report(task="free_text", scoring="f1")
    refused = line_up(settings, (), command, texts, TODAY, spelling)
    assert isinstance(refused, Refusal)
    assert refused.text.startswith(f"{typed} can answer with labels") and instead in refused.text


def test_a_provider_that_only_answers_is_no_target(settings: Settings) -> None:
    refused = find_target(settings.providers, "groq/openai/gpt-oss-20b")
    assert isinstance(refused, Refusal)
    assert refused.text.startswith("Groq can be asked, but doesn't train models. There are `local/")


def test_any_model_of_a_provider_that_only_answers_can_be_measured_by_name(settings: Settings) -> None:
    command = Baseline("tickets", models=("groq/openai/gpt-oss-20b", "ollama/llama3.2"), kinds=("zero",))
    lineup = line_up(settings, ("groq", "ollama"), command, builders.report(), TODAY, SLACK)
    assert isinstance(lineup, LineUp)
    groq, ollama = lineup.models
    assert (str(groq.price.price.input), groq.thinks) == ("0.075", True)
    assert ollama.price.price.input == ollama.price.usd_per_hour == 0


def test_a_server_on_this_machine_is_measured_without_a_key_or_a_price(world: World, tmp_path: Path) -> None:
    config = tmp_path / "finetune.toml"
    config.write_text(
        f'[providers.ollama]\nbase_url = "{world.provider.url}"\nkey_env = "ACME_KEY"\nstays_here = true\n'
    )
    write_tickets(tmp_path / "rows.csv", 60)
    arguments = ("--model", "ollama/acme-small", "--candidates", "zero", "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.delenv("FINETUNE_CONFIG", raising=False)
        result = finetune("baseline", "rows.csv", *arguments)
    assert result.exit_code == 0, result.output
    (candidate,) = json.loads(result.stdout)["ladder"]["rungs"]
    assert candidate["arm"]["model"] == "ollama/acme-small" and float(candidate["usd_per_1000"]) == 0


def test_a_provider_that_only_answers_is_not_asked_for_jobs(make_world: MakeWorld) -> None:
    world = make_world(Rules(provider_is_remote=True))
    world.abilities = '"chat"'
    world.restart()
    before = world.provider.count(f"GET {JOBS}")
    maintain(world.service.context)
    world.tick()
    assert world.provider.count(f"GET {JOBS}") == before
    assert world.provider.count("GET /models") > 0
    world.seed_dataset()
    assert "Acme Tuning can be asked, but doesn't train models" in world.type(
        f"/finetune start tickets target={TARGET}"
    )


def test_forms_offer_the_cheapest_model_of_each_provider_with_a_key(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-nobody")
    world = make_world(Rules())
    world.seed_dataset()
    models = evaluations.form_choices(world.service.context, ANA.id, PRIVATE.id).models
    assert set(LUNA) <= set(models)
    world.slack.command(ANA.id, PRIVATE.id, "/finetune estimate")
    assert "None yet? openai/gpt-6-luna is the cheapest likely candidate." in world.read_form(ANA)


def test_an_estimate_prices_todays_requests_with_the_cheapest_model(world: World) -> None:
    world.seed_dataset(rows=240)
    card = world.type(f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}")
    assert "Without training" in card and "gpt-6-luna, about $" in card


def test_the_terminal_lists_the_end_dates_of_all_named_models(tmp_path: Path) -> None:
    text = '[prices."old-model"]\ninput = "1"\noutput = "2"\nends = 2025-01-01\n'
    (tmp_path / "finetune.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.delenv("FINETUNE_CONFIG", raising=False)
        uses = {use["model"]: use for use in json.loads(finetune("sunsets", "--json").stdout)}
        printed = finetune("sunsets", "--all").stdout
    assert uses["old-model"]["has_ended"] and "your own price" in uses["old-model"]["said_by"]
    mini = uses["openai/gpt-4o-mini-2024-07-18"]
    assert (mini["use"], mini["ends"], mini["successor"]) == ("target", "2027-01-14", "gpt-6-luna")
    assert uses["local/smollm2-135m"]["said_by"] == "the weights are on your own machine"
    assert all(model in printed for model in ("old-model", "local/smollm2-135m"))
