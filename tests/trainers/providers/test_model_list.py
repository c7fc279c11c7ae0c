"""The dated list of prompted models, and the command that writes it from LiteLLM's wheel."""

from __future__ import annotations

import json
import zipfile
from datetime import date
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from trainers.models.model_list import available_successors, find_listed_model, listed_models, read_list
from trainers.providers.pricing import PriceRow, find_prompted_price
from trainers.providers.providers import load_providers

ROOT = Path(__file__).parents[3]
TODAY = date(2026, 11, 27)
CHAT = {"mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 4e-06}
ROWS: dict[str, dict[str, Any]] = {
    "gpt-4o": {"deprecation_date": "2027-01-14", "successor_model": "gpt-6-luna"},
    "gpt-4o-2024-08-06": {"deprecation_date": "2027-01-14", "successor_model": "gpt-6-luna"},
    "gpt-4o-2024-05-13": {"deprecation_date": "2026-10-23", "successor_model": "gpt-6-luna"},
    "gpt-4o-mini": {},
    "gpt-4.1": {},
    "gpt-4.1-mini": {},
    "gpt-4.1-nano": {},
    "gpt-6-luna": {"supports_reasoning": True, "supports_none_reasoning_effort": True},
    "gpt-7-nova": {"input_cost_per_token": 1e-07, "output_cost_per_token": 5e-07},
    "gpt-4o-audio-preview": {},
    "ft:gpt-4o": {},
    "text-embedding-9": {"mode": "embedding"},
    "gemini/gemini-9-flash": {"litellm_provider": "gemini", "supports_reasoning": True},
    "mistral/lives-on": {"litellm_provider": "mistral"},
}


@pytest.fixture(scope="module")
def command() -> ModuleType:
    spec = util.spec_from_file_location("models", ROOT / "docs" / "models.py")
    assert spec and spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_wheel(folder: Path, changes: dict[str, dict[str, Any]] | None = None, without: str = "") -> Path:
    rows = {**ROWS, **(changes or {})}
    rows.pop(without, None)
    full = {name: {"litellm_provider": "openai", **CHAT, **row} for name, row in rows.items()}
    path = folder / "litellm-9.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("litellm/model_prices_and_context_window_backup.json", json.dumps(full))
    return path


def test_the_list_is_written_from_the_wheel_with_missing_prices(command: ModuleType, tmp_path: Path) -> None:
    path, trained = tmp_path / "models.toml", (ROOT / "trainers" / "providers.toml").read_bytes()
    assert command.main(write_wheel(tmp_path), path, TODAY) == []
    models = read_list(path.read_text(encoding="utf-8"))
    openai = models["openai"]
    assert "gpt-4o-2024-08-06" not in openai  # it differs in nothing from its model
    assert openai["gpt-4o-2024-05-13"].ends == date(2026, 10, 23)
    assert (openai["gpt-4o"].ends, openai["gpt-4o"].successor) == (date(2027, 1, 14), "gpt-6-luna")
    assert openai["gpt-4o"].said_by == "OpenAI's pages, as litellm 9.1.0 has them, 2026-11-27"
    assert openai["gpt-6-luna"].takes_none and models["google"]["gemini-9-flash"].thinks
    assert not {"gpt-4o-audio-preview", "ft:gpt-4o", "text-embedding-9"} & set(openai)
    assert models["mistral"] == {}  # no row ships for it, and its model has no end
    assert (ROOT / "trainers" / "providers.toml").read_bytes() == trained
    # The library has no price of the first.
    assert (str(openai["gpt-7-nova"].input), str(openai["gpt-7-nova"].output)) == ("0.1", "0.5")
    assert openai["gpt-4o"].input is None


def test_a_row_written_by_hand_is_kept(command: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    by_hand = '"gpt-4o" = { ends = 2028-01-01, source = "a letter to us", as_of = 2026-11-01 }'
    path.write_text(
        f'[openai]\nsource = "x"\nas_of = 2026-01-01\n[openai.models]\n{by_hand}\n', encoding="utf-8"
    )
    command.main(write_wheel(tmp_path), path, TODAY)
    model = read_list(path.read_text(encoding="utf-8"))["openai"]["gpt-4o"]
    assert (model.ends, model.said_by) == (date(2028, 1, 1), "a letter to us, 2026-11-01")


@pytest.mark.parametrize(
    ("changes", "without", "problem"),
    [
        ({}, "gpt-4.1-mini", "openai/gpt-4.1-mini, which providers.toml tunes, is in none of the lists"),
        ({}, "gpt-6-luna", "openai/gpt-4o: its successor gpt-6-luna is in none of the lists."),
        (
            {"gpt-6-luna": {"deprecation_date": "2026-11-01"}},
            "",
            "openai/gpt-4o: its successor gpt-6-luna has ended on 2026-11-01.",
        ),
    ],
    ids=["a model that we tune", "a successor", "an end in the past"],
)
def test_missing_models_and_ends_in_the_past_are_reported(
    command: ModuleType, tmp_path: Path, changes: dict[str, dict[str, Any]], without: str, problem: str
) -> None:
    problems = command.main(write_wheel(tmp_path, changes, without), tmp_path / "models.toml", TODAY)
    assert any(text.startswith(problem) for text in problems)


def test_each_model_of_our_rows_is_listed_with_its_source() -> None:
    for row in load_providers():
        for model in row.models if row.name in listed_models() else ():
            listed = find_listed_model(model.base_name or model.name, row.name)
            assert listed is not None and "litellm" in listed.said_by, model.name
    for models in listed_models().values():
        assert not [m.name for m in models.values() if m.successor and m.successor not in models]


def test_the_shipped_list_has_an_available_successor() -> None:
    names = [model.name for model in available_successors("openai", TODAY)]
    assert "gpt-6-luna" in names and "gpt-5.2-chat-latest" not in names
    assert available_successors("nobody", TODAY) == ()


def test_a_price_of_the_list_is_used_if_the_library_has_none() -> None:
    row = find_prompted_price("google/gemini-4-hydrogen", (), (), TODAY)
    assert isinstance(row, PriceRow) and str(row.price.input) == "1.5" and "litellm" in row.source


def test_a_reasoning_effort_does_not_make_another_model() -> None:
    row = find_prompted_price("openai/gpt-5.4-nano@low", load_providers(), (), TODAY)
    assert isinstance(row, PriceRow)
    assert (row.model, row.ends, row.successor) == ("openai/gpt-5.4-nano@low", date(2027, 4, 1), "gpt-6-luna")
    assert row.ends_said_by and "litellm" in row.ends_said_by
