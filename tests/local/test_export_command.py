"""`finetune export` from a run's model name to the card with the run's score, and what it refuses."""

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
from tests.local.exports import MODEL, tune
from trainers.local.export.order import RunMeasurements

RIGHT = "the share of right answers"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")
    (tmp_path / "finetune.toml").write_text('data = "data"\n')


def remember(provider: str = "local", result: RunResult | None = None) -> None:
    """A run that is done, and its model tickets-7."""
    store = Store(load_settings(need_slack=False).database)
    dataset = store.datasets.receive(NewDataset("tickets", "C1", "U1", "tickets.csv", "F1"), now=builders.NOW)
    plan = canonical_json(builders.plan(dataset_id=dataset.id))
    run = store.runs.add(NewRun("planhash", plan, "key", dataset.id, "U1", "C1", provider), now=builders.NOW)
    assert run is not None
    store.runs.move(run, "done", now=builders.NOW, result=(result or builders.result()).to_json())
    store.add_model(Model("tickets-7", run.id, provider, MODEL, "candidate", builders.NOW))
    store.close()


def finetune(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def look(asked: str = "tickets-7") -> ExportSource:
    found = find_model(load_settings(need_slack=False), asked)
    assert isinstance(found, ExportSource)
    return found


def test_a_runs_model_is_exported_by_its_name_with_its_score(tmp_path: Path, tiny_model_dir: Path) -> None:
    tune(tmp_path / "data" / "trainer", tiny_model_dir)
    remember()
    result = finetune("export", "tickets-7", "--to", "vllm", "--base-id", "org/tiny", "--licence", "mit")
    assert result.exit_code == 0, result.output
    card = (tmp_path / "tickets-7-vllm" / "README.md").read_text(encoding="utf-8")
    assert "| this model | 85.7% | 76.3% to 91.8% |" in card
    assert "| the untuned base, smollm2-135m | 23.4% | 15.3% to 33.8% |" in card
    script = (tmp_path / "tickets-7-vllm" / "serve.sh").read_text(encoding="utf-8")
    assert "--lora-modules tickets-7=./adapter" in script


def test_facts_are_those_of_the_plan_and_the_result() -> None:
    remember()
    found = look()
    assert (found.model, found.name) == (MODEL, "tickets-7")
    assert found.facts is not None
    facts = RunMeasurements.from_json(json.dumps(found.facts))
    assert (facts.train_rows, facts.holdout_rows, facts.measure) == (306, 77, RIGHT)
    assert look(MODEL) == found


def test_against_the_ladder_each_rung_is_named_and_other_measures_leave_the_base_out() -> None:
    remember(result=builders.result(beside=measurements.ladder_by_f1()))
    facts = look().facts
    assert facts is not None
    assert facts["measure"] == "the share F1, the words shared with the expected answer"
    assert [one["what"].split(",")[0] for one in facts["against"]] == ["retrieval"]


def test_what_a_vendor_keeps_can_not_be_exported() -> None:
    remember(provider="openai")
    found = find_model(load_settings(need_slack=False), "tickets-7")
    assert isinstance(found, Refusal)
    assert "was trained at openai, which keeps its weights" in found.text
    assert finetune("export", "tickets-7", "--to", "merged").exit_code == 2


def test_what_no_run_knows_is_left_to_the_trainer() -> None:
    assert look("ft:other") == ExportSource("ft:other", None, None)
    remember()
    assert look("ft:other") == ExportSource("ft:other", None, None)
