"""The longest row that a model to train takes, and by whose tokens rows are counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from bot.services.hardware import RowLimit, default_row_limit, row_limit_of, row_limit_of_folder
from bot.settings import Settings, load_settings
from bot.values.runs import Refusal
from trainers.tokens import O200K, Encoding


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


def test_a_vendors_model_takes_what_its_row_says(tmp_path: Path) -> None:
    assert row_limit_of(settings(tmp_path), "gpt-4.1") == RowLimit(65_536, O200K)


def test_our_own_trainer_leaves_rows_out_beyond_its_bound_and_counts_by_the_models_own_tokenizer(
    folder: Path, tmp_path: Path
) -> None:
    assert default_row_limit(settings(tmp_path)) == RowLimit(1024, Encoding("small", folder=folder))


def test_our_own_trainer_counts_alike_once_it_is_up(folder: Path, tmp_path: Path) -> None:
    asked = settings(tmp_path)
    up = replace(asked, providers=tuple(
        row.at_address("http://127.0.0.1:8123/v1") if row.is_started_by_us else row for row in asked.providers
    ))  # fmt: skip
    assert (
        default_row_limit(up) == default_row_limit(asked) == RowLimit(1024, Encoding("small", folder=folder))
    )


@pytest.mark.parametrize(("longest", "tokens"), [(2048, 2048), (100_000, 100_000), (512, 512)])
def test_a_max_length_in_the_settings_is_the_bound(
    folder: Path, tmp_path: Path, longest: int, tokens: int
) -> None:
    found = row_limit_of(
        settings(tmp_path, f"[providers.local.defaults]\nmax_length = {longest}"), "local/small"
    )
    assert isinstance(found, RowLimit) and found.tokens == tokens


@pytest.mark.parametrize(
    ("config", "tokens"),
    [(None, 1024), ("{", 1024), ("[]", 1024), ('{"max_position_embeddings": 512}', 512),
     ('{"max_position_embeddings": 8192}', 1024)],
)  # fmt: skip
def test_a_folder_takes_what_its_model_and_our_trainer_take(
    folder: Path, config: str | None, tokens: int
) -> None:
    if config:
        (folder / "config.json").write_text(config)
    assert row_limit_of_folder(folder) == RowLimit(tokens, Encoding("small", folder=folder))


def test_a_folder_without_a_tokenizer_and_a_name_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    empty = row_limit_of_folder(tmp_path)
    unknown = row_limit_of(settings(tmp_path), "gpt-9")
    assert isinstance(empty, Refusal) and "has no tokenizer.json" in empty.text
    assert isinstance(unknown, Refusal) and "I know no model to train named" in unknown.text
    rented = row_limit_of(settings(tmp_path), "hf/smollm2-135m")
    assert isinstance(rented, Refusal) and "under `[hf]` in finetune.toml" in rented.text


def test_check_counts_by_the_target_that_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from bot.cli import main

    monkeypatch.chdir(tmp_path)
    rows = [f"q {i} {'x' * (i % 9)} {'word ' * (1100 if i == 7 else 3)},{'ab'[i % 2]}" for i in range(40)]
    Path("a.csv").write_text("\n".join(["text,label", *rows]))
    usual = json.loads(CliRunner().invoke(main, ["check", "a.csv", "--quick", "--json"]).stdout)
    ours = json.loads(
        CliRunner().invoke(main, ["check", "a.csv", "--quick", "--json", "--target", str(folder)]).stdout
    )
    assert "row_too_long" not in {finding["code"] for finding in usual["findings"]}
    assert [f["line"] for f in ours["findings"] if f["code"] == "row_too_long"] == [9]
    assert (usual["tokens"]["encoding"], ours["tokens"]["encoding"]) == ("o200k_base", "small")
