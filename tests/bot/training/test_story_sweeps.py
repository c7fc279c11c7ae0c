"""Sweeps on our own trainer: what is sent, what people read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.rules.plans import plan_from_json
from tests.bot.own_trainer import NOWHERE, assert_trains_on, own, train_to_the_end
from tests.bot.own_trainer import sleeping_trainer as sleeping_trainer
from tests.bot.props import tickets_csv
from tests.bot.world import START, MakeWorld, Rules, World
from tests.local.conftest import tiny_model_dir  # noqa: F401 - a fixture
from tests.local.trainer_server import KEY, TrainerServer, serve_in_process
from trainers.client.payloads import is_sweep_table, sweep_trials
from trainers.errors import InvalidResponse
from trainers.hyperparameters import halving_steps

SWEEP = "sweep=lora_r:2,4;learning_rate:0.001,0.01"
LOCAL = f"/finetune start tickets target=local/tiny epochs=1 {SWEEP}"


def test_a_sweep_is_one_plan_one_budget_and_one_job(
    make_world: MakeWorld, sleeping_trainer: TrainerServer
) -> None:
    world = make_world(Rules(more=own(sleeping_trainer.url, "2")))
    world.seed_dataset(rows=400)
    assert world.type(LOCAL) == ""
    world.send()
    world.find_message("train tiny on tickets (sweep of 4 trials)", "sweep of 4 trials: lora_r 2 or 4")
    card = world.plan_details()
    plan = plan_from_json(world.run().plan)
    swept = plan.swept
    assert swept is not None
    assert (swept.trials, swept.usd_per_hour) == (4, "2")
    assert (
        f"{swept.n_fitted} to train on, {swept.n_validation} training rows to choose the best trial" in card
    )
    assert (
        f"lora_r 2 or 4, learning_rate 1e-3 or 0.01: 4 trials, at most {swept.steps} steps in total" in card
    )
    assert swept.steps == halving_steps([-(-swept.n_fitted // 8)] * 4)
    assert not {"lora_r", "learning_rate", "lora_alpha"} & set(dict(plan.hyperparameters))
    world.approve()
    world.tick_until_state("training")
    with sleeping_trainer.client() as client:
        job = client.fine_tuning.jobs.retrieve(str(world.run().job_id))
        sent = job.hyperparameters.model_extra or {}
        assert sent["sweep"] == {"lora_r": [2, 4], "learning_rate": [0.001, 0.01]}
        assert float(sent["max_usd"]) == pytest.approx(plan.maximum_micros / 1e6)
        assert "lora_r" not in sent
        assert_trains_on(client, job, swept)
        client.fine_tuning.jobs.cancel(job.id)
        world.tick_until_state("cancelled")


def test_an_estimate_for_a_sweep_counts_the_trainings_of_its_formula(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=own(NOWHERE, "2")))
    world.seed_dataset()
    estimate = "/finetune estimate tickets target=local/tiny"
    once = thousand_tokens(details_of(world, estimate))
    swept = details_of(world, f"{estimate} {SWEEP}")
    assert thousand_tokens(swept) == pytest.approx(2 * once, abs=0.2)
    assert "tokens of 4 trials, stopped by halving" in swept


def details_of(world: World, line: str) -> str:
    world.type(line)
    return world.estimate_details()


def thousand_tokens(details: str) -> float:
    return float(details.partition("k tokens")[0].rsplit(" ", 1)[1])


def test_a_sweep_is_refused_by_a_provider_that_cannot_before_there_is_a_plan(world: World) -> None:
    world.seed_dataset()
    assert "`sweep=` needs our own trainer; Acme Tuning trains one set" in world.type(f"{START} {SWEEP}")
    assert "can't be swept" in world.type(f"{START} sweep=colour:1,2")
    assert world.store.runs.newest(1) == []


def test_a_table_of_trials_is_distinguished_from_a_file_of_steps() -> None:
    csv = (
        b"arm,lora_r,step,total_steps,best_step,valid_loss,valid_mean_token_accuracy,trained_tokens,seconds,outcome\r\n"
        b'1,8,10,40,10,0.5,0.75,970,1.5,stopped after round 1\r\n2,16,3,40,,,,290,0.4,"out after step 3: a, b"\r\n'
    )
    first, second = sweep_trials(csv, "reading")
    assert is_sweep_table(csv) and not is_sweep_table(b"step,train_loss\r\n")
    assert (first.chosen, first.step, first.total_steps) == ((("lora_r", "8"),), 10, 40)
    assert (first.valid_loss, first.valid_accuracy, first.outcome) == (0.5, 0.75, "stopped after round 1")
    assert (second.valid_loss, second.outcome) == (None, "out after step 3: a, b")
    with pytest.raises(InvalidResponse, match="unknown format"):
        sweep_trials(b"arm,colour\r\n1,red\r\n", "reading")


@pytest.mark.slow
def test_a_real_sweep_ends_with_its_table_in_the_results_thread(
    make_world: MakeWorld,
    tmp_path: Path,
    tiny_model_dir: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    with serve_in_process(tmp_path / "trainer", f"tiny={tiny_model_dir}") as served:
        world = make_world(Rules(more=own(served.url, "0")))
        world.upload_and_check(tickets_csv(400))
        result = train_to_the_end(world, LOCAL)
        world.send()
        assert len(result.trials) == 4
        assert [trial.outcome for trial in result.trials].count("won") == 1
        plan = plan_from_json(world.run().plan)
        assert plan.swept is not None and result.steps == plan.swept.steps
        table = world.find_message("Sweep on tickets: 4 trials")
        assert "★" in table and "stopped after round 1" in table
