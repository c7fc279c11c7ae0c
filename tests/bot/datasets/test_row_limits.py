"""The longest row that a model can train on, and whose tokens are counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from bot.services.common.targets import (
    RowLimit,
    default_row_limit,
    row_limit_of,
    row_limit_of_folder,
)
from bot.settings import Settings, load_settings
from bot.values.runs import Refusal
from tests.bot.cli_runner import finetune
from trainers.models.tokens import O200K, Encoding


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder whose tokenizer takes every word as one token."""
    folder = tmp_path / "small"
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def settings(tmp_path: Path, more: str = "") -> Settings:
    config = tmp_path / "finetune.toml"
    config.write_text(f'[trainer]\nmodels = {{ small = "{tmp_path / "small"}" }}\n{more}')
    return load_settings({}, config, need_slack=False)


def test_the_limit_of_a_vendors_model_is_in_its_row(tmp_path: Path) -> None:
    assert row_limit_of(settings(tmp_path), "gpt-4.1") == RowLimit(65_536, O200K)


def test_our_own_trainer_counts_with_the_models_own_tokenizer_up_to_its_limit(
    folder: Path, tmp_path: Path
) -> None:
    assert default_row_limit(settings(tmp_path)) == RowLimit(1024, Encoding("small", folder=folder))


def test_a_running_trainer_has_the_same_limit(folder: Path, tmp_path: Path) -> None:
    stopped = settings(tmp_path)
    running = replace(stopped, providers=tuple(
        row.at_address("http://127.0.0.1:8123/v1") if row.is_started_by_us else row for row in stopped.providers
    ))  # fmt: skip
    limit = RowLimit(1024, Encoding("small", folder=folder))
    assert default_row_limit(running) == default_row_limit(stopped) == limit


@pytest.mark.parametrize("longest", [100_000, 512])
def test_max_length_in_the_settings_is_the_limit(folder: Path, tmp_path: Path, longest: int) -> None:
    configured = settings(tmp_path, f"[providers.local.defaults]\nmax_length = {longest}")
    limit = row_limit_of(configured, "local/small")
    assert isinstance(limit, RowLimit) and limit.tokens == longest


@pytest.mark.parametrize(
    ("config", "tokens"),
    [(None, 1024), ("{", 1024), ("[]", 1024), ('{"max_position_embeddings": 512}', 512),
     ('{"max_position_embeddings": 8192}', 1024)],
)  # fmt: skip
def test_the_limit_of_a_folder_is_the_lower_of_model_and_trainer(
    folder: Path, config: str | None, tokens: int
) -> None:
    if config:
        (folder / "config.json").write_text(config)
    assert row_limit_of_folder(folder) == RowLimit(tokens, Encoding("small", folder=folder))


def test_a_folder_without_a_tokenizer_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    empty = row_limit_of_folder(tmp_path)
    unknown = row_limit_of(settings(tmp_path), "gpt-9")
    assert isinstance(empty, Refusal) and "has no tokenizer.json" in empty.text
    assert isinstance(unknown, Refusal) and "I know no model to train named" in unknown.text
    rented = row_limit_of(settings(tmp_path), "hf/smollm2-135m")
    assert isinstance(rented, Refusal) and "under `[hf]` in finetune.toml" in rented.text


def test_check_counts_with_the_tokenizer_of_the_named_target(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"q {i} {'x' * (i % 9)} {'word ' * (1100 if i == 7 else 3)},{'ab'[i % 2]}" for i in range(40)]
    Path("a.csv").write_text("\n".join(["text,label", *rows]))
    usual = json.loads(finetune("check", "a.csv", "--quick", "--json").stdout)
    ours = json.loads(finetune("check", "a.csv", "--quick", "--json", "--target", folder).stdout)
    assert "row_too_long" not in {finding["code"] for finding in usual["findings"]}
    assert [row["line"] for row in ours["findings"] if row["code"] == "row_too_long"] == [9]
    assert (usual["tokens"]["encoding"], ours["tokens"]["encoding"]) == ("o200k_base", "small")
