"""`finetune export DATASET CANDIDATE`: what was measured, as a folder that answers without us."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bot.cli import main
from bot.services.datasets.dataset_worker import examples
from tests.bot.measurements import HELD, PRICES, measurement, seed_measurement
from tests.bot.props import tickets_csv
from tests.bot.world import MakeWorld, Rules, World
from trainers.dataset.near_duplicates import question_text


@pytest.fixture
def world(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> World:
    """All kinds were measured."""
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    seed_measurement(world)
    monkeypatch.setenv("FINETUNE_CONFIG", str(world.folder / "finetune.toml"))
    monkeypatch.chdir(world.folder)
    return world


def export(*words: str) -> Result:
    return CliRunner().invoke(main, ["export", *words])


@pytest.mark.deep
def test_free_candidates_are_exported_with_their_scores(world: World, tmp_path: Path) -> None:
    plan = json.loads(measurement(world).plan)
    holdout = examples(world.service.settings.files, plan["holdout_sha256"])
    for kind in ("classical", "encoder"):
        result = export("tickets", kind)
        assert result.exit_code == 0, result.output
        folder = world.folder / f"tickets-{kind}"
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert f"100.0% right (95% interval 82\u2013100%) on {HELD} held-out rows" in card
        assert f"on all {HELD} held-out rows: they score as measured" in card
        assert plan["train_sha256"] in card and "- shipping" in card
        assert "It gives no probabilities. Probabilities of 3 labels need 200 training rows" in card
        assert "programs in this folder: Apache-2.0" in card
        assert ("The encoder all-minilm-l6-v2" in card) == (kind == "encoder")
        command = [sys.executable, "-I", "-c", "import sys; sys.path.insert(0, sys.argv[1]); "]
        command[-1] += "from classify import Classifier; print(Classifier().classify(sys.argv[2]))"
        question = question_text(holdout[0])
        process = subprocess.run(
            [*command, str(folder), question], capture_output=True, text=True, check=True
        )
        assert process.stdout.strip() == holdout[0].answer
    again = export("tickets", "classical")
    assert again.exit_code == 2 and "is not empty" in again.output


def test_a_prompt_is_exported_as_it_was_measured(world: World) -> None:
    result = export("tickets", "few-shot", "model=acme-small", "--out", "prompt")
    assert result.exit_code == 0, result.output
    prompt = json.loads((world.folder / "prompt" / "prompt.json").read_text(encoding="utf-8"))
    requests = [request for request in world.provider.requests if len(request.body["messages"]) > 3]
    assert prompt["messages"] == requests[0].body["messages"][:-1]
    assert (prompt["model"], prompt["base_url"]) == ("acme-small", world.provider.url)
    card = (world.folder / "prompt" / "README.md").read_text(encoding="utf-8")
    assert "prompt.json shows 10 rows of the dataset" in card


def test_a_free_candidate_is_exported_straight_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a bot: no finetune.toml, no database, no Slack."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    Path("tickets.csv").write_text(tickets_csv(90), encoding="utf-8")
    result = export("tickets.csv", "classical")
    assert result.exit_code == 0, result.output
    assert not Path("tickets-classical/__pycache__").exists(), "only what the receiver needs"
    card = Path("tickets-classical/README.md").read_text(encoding="utf-8")
    (score,) = [line for line in card.splitlines() if "95% interval" in line]
    assert f"tickets-classical is ready: {score} README.md says how to use it." in result.output
    assert "asks no model. It was measured when this folder was written." in card
    assert "held-out rows: they score as measured" in card
    command = [sys.executable, "tickets-classical/classify.py", "a question about refund"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["label"] == "refund"

    refused = export("tickets.csv", "zero")
    assert refused.exit_code == 2 and "From a file only classical or encoder can be" in refused.output
    unclear = export("tickets.csv")
    assert unclear.exit_code == 2 and "finetune export tickets.csv encoder" in unclear.output
    form = export("tickets.csv", "classical", "--to", "merged")
    assert form.exit_code == 2 and "--to is the form of a tuned model" in form.output
    model = export("tickets.csv", "classical", "--model", "acme-small")
    assert model.exit_code == 2 and "--model and --shots tell candidates of a dataset apart" in model.output
    no_file = export("tickets", "classical", "--label", "team")
    assert no_file.exit_code == 2 and "tickets is no file here" in no_file.output


def test_what_can_not_be_exported_says_what_can(world: World) -> None:
    refused = export("tickets", "retrieval")
    assert refused.exit_code == 2 and "It looks up examples for each question" in refused.output
    unmeasured = export("tickets", "optimised")
    assert "This was not measured. Measured were:\n  finetune export tickets classical\n" in unmeasured.output
    assert "finetune export tickets zero model=acme/acme-small" in unmeasured.output
    assert "Nothing was measured on parcels" in export("parcels", "encoder").output
    assert "finetune export tickets encoder" in export("tickets").output
    assert not list(world.folder.glob("tickets-*"))


def test_other_answers_than_the_measured_ones_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.recipes import classical

    freeze = classical.freeze_classical
    shuffled = lambda train, seed, has_labels: freeze(train[:2], seed, has_labels=has_labels)  # noqa: E731
    monkeypatch.setattr("bot.services.serving.recipe_worker.freeze_classical", shuffled)
    result = export("tickets", "classical")
    assert result.exit_code == 2 and "held-out rows otherwise than m1 measured" in result.output
    assert not (world.folder / "tickets-classical").exists()
