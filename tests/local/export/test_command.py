"""`finetune export`: the model of a run, the scores on its card, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bot.cli import main
from bot.cli.exports import ExportSource, find_model
from bot.rules.plans import canonical_json
from bot.settings import load_settings
from bot.values.runs import Refusal, RunResult
from storage.datasets import NewDataset
from storage.records import Model
from storage.runs import NewRun
from storage.store import Store
from tests.cards import builders, measurements
from tests.local.export.exports import MODEL, tune, write_questions
from trainers.local.export.order import RunMeasurements


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")
    (tmp_path / "finetune.toml").write_text('data = "data"\n')


def seed_run(provider: str = "local", result: RunResult | None = None) -> None:
    """Stores a finished run and its model tickets-7."""
    store = Store(load_settings(need_slack=False).database)
    dataset = store.datasets.receive(NewDataset("tickets", "C1", "U1", "tickets.csv", "F1"), now=builders.NOW)
    assert dataset is not None
    plan = canonical_json(builders.plan(dataset_id=dataset.id))
    run = store.runs.add(NewRun("planhash", plan, "key", dataset.id, "U1", "C1", provider), now=builders.NOW)
    assert run is not None
    store.runs.move(run, "done", now=builders.NOW, result=(result or builders.result()).to_json())
    store.add_model(Model("tickets-7", run.id, provider, MODEL, "candidate", builders.NOW))
    store.close()


def finetune(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def find_source(model: str = "tickets-7") -> ExportSource:
    source = find_model(load_settings(need_slack=False), model)
    assert isinstance(source, ExportSource)
    return source


@pytest.mark.deep
def test_a_runs_model_is_exported_by_its_name_with_its_scores(tmp_path: Path, tiny_model_dir: Path) -> None:
    tune(tmp_path / "data" / "trainer", tiny_model_dir)
    seed_run()
    more = ("--base-id", "org/tiny", "--licence", "mit", "--rows", str(write_questions(tmp_path)))
    result = finetune("export", "tickets-7", "--to", "vllm", *more)
    assert result.exit_code == 0, result.output
    card = (tmp_path / "tickets-7-vllm" / "README.md").read_text(encoding="utf-8")
    assert "| this model | 85.7% | 76.3% to 91.8% |" in card
    assert "| the untuned base, smollm2-135m | 23.4% | 15.3% to 33.8% |" in card
    script = (tmp_path / "tickets-7-vllm" / "serve.sh").read_text(encoding="utf-8")
    assert "--lora-modules tickets-7=./adapter" in script


def test_an_exports_facts_come_from_the_plan_and_the_result() -> None:
    seed_run()
    source = find_source()
    assert (source.model, source.name) == (MODEL, "tickets-7")
    assert source.facts is not None
    facts = RunMeasurements.from_json(json.dumps(source.facts))
    assert (facts.train_rows, facts.holdout_rows, facts.measure) == (306, 77, "the share of right answers")
    assert find_source(MODEL) == source


def test_alternatives_are_listed_and_the_base_only_with_the_same_measure() -> None:
    seed_run(result=builders.result(beside=measurements.comparison_by_f1()))
    facts = find_source().facts
    assert facts is not None
    assert facts["measure"] == "the share F1, the words shared with the expected answer"
    assert [score["what"].split(",")[0] for score in facts["against"]] == ["retrieval"]


def test_a_model_whose_weights_a_vendor_keeps_cannot_be_exported() -> None:
    seed_run(provider="openai")
    refusal = find_model(load_settings(need_slack=False), "tickets-7")
    assert isinstance(refusal, Refusal)
    assert "was trained at openai, which keeps its weights" in refusal.text
    assert finetune("export", "tickets-7", "--to", "merged").exit_code == 2


def test_a_killed_export_names_the_likely_cause_and_the_folder_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_processes: None
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    result = finetune("export", "ft:other", "--to", "merged", "--out", "there/new")
    assert result.exit_code == 2
    assert "killed, perhaps because memory ran out" in result.output
    assert "delete the unfinished folder there/.new-*." in result.output


def test_a_model_that_is_nowhere_is_refused_with_the_option_for_other_trainers(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert finetune("export", "ft:other", "--to", "merged").exit_code == 2
    assert "For a trainer that you started yourself, add --data ITS_DATA_FOLDER." in capfd.readouterr().err


def test_a_model_of_no_run_is_left_to_the_trainer() -> None:
    seed_run()
    assert find_source("ft:other") == ExportSource("ft:other", None, None)
