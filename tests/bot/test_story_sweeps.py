"""A run that sweeps, on our own trainer: what is sent, what people read, who is refused; slow: to the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.rules.plans import plan_from_json
from bot.values.runs import RunResult
from tests.bot.props import tickets_csv
from tests.bot.test_story_early_stopping import sha256
from tests.bot.test_story_ladder import MakeWorld
from tests.bot.world import START, Rules, World
from tests.local.conftest import tiny_model_dir  # noqa: F401 - a fixture
from tests.local.trainer_server import KEY, serve_in_process, serve_in_thread
from trainers.errors import InvalidResponse
from trainers.hyperparameters import halving_steps
from trainers.payloads import is_sweep_table, sweep_arms

SWEEP = "sweep=lora_r:2,4;learning_rate:0.001,0.01"
LOCAL = f"/finetune start tickets target=local/tiny epochs=1 {SWEEP}"


def own(url: str, usd_per_hour: str) -> str:
    """With its speed as a person says it: no maximum comes from a guess."""
    speed = "[trainer]\ntokens_per_second = 450\n"
    price = f'[providers.local.models.tiny]\nusd_per_hour = "{usd_per_hour}"\n'
    return f'{speed}[providers.local]\nbase_url = "{url}"\n{price}'


def test_one_plan_one_budget_and_one_job_are_made_of_a_sweep(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    sleeping = ("/bin/sleep", "600")
    with (
        serve_in_thread(tmp_path / "trainer", {"tiny": "/nowhere"}, sleeping) as served,
        served.client() as client,
    ):
        world = make_world(Rules(more=own(served.url, "2")))
        world.upload_and_check(tickets_csv(400))
        assert world.type(LOCAL) == ""
        world.send()
        card = world.plan_details()
        plan = plan_from_json(world.run().plan)
        swept = plan.swept
        assert swept is not None
        assert (swept.arms, swept.usd_per_hour) == (4, "2")
        assert (
            f"{swept.n_fitted} to train on, {swept.n_validation} training rows to choose the best trial"
            in card
        )
        assert (
            f"lora_r 2 or 4, learning_rate 1e-3 or 0.01: 4 trials, at most {swept.steps} steps in total"
            in card
        )
        assert swept.steps == halving_steps([-(-swept.n_fitted // 8)] * 4)
        assert not {"lora_r", "learning_rate", "lora_alpha"} & set(dict(plan.hyperparameters))
        world.approve()
        world.tick_until_state("training")
        job = client.fine_tuning.jobs.retrieve(str(world.run().job_id))
        told = job.hyperparameters.model_extra or {}
        assert told["sweep"] == {"lora_r": [2, 4], "learning_rate": [0.001, 0.01]}
        assert float(told["max_usd"]) == pytest.approx(plan.maximum_micros / 1e6)
        assert "lora_r" not in told
        assert sha256(client.files.content(job.training_file).read()) == swept.fitted_sha256
        assert sha256(client.files.content(job.validation_file or "").read()) == swept.validation_sha256
        client.fine_tuning.jobs.cancel(job.id)
        world.tick_until_state("cancelled")


def test_a_sweep_costs_as_many_trainings_as_its_formula_says(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=own("http://127.0.0.1:9/v1", "2")))
    world.seed_dataset()
    asked = "/finetune estimate tickets target=local/tiny"
    alone, swept = (details_of(world, line) for line in (asked, f"{asked} {SWEEP}"))
    once, four = (float(said.partition("k tokens")[0].rsplit(" ", 1)[1]) for said in (alone, swept))
    assert four == pytest.approx(2 * once, abs=0.2)
    assert "tokens of 4 trials, stopped by halving" in swept


def details_of(world: World, line: str) -> str:
    world.type(line)
    return world.estimate_details()


def test_who_cannot_sweep_says_so_before_there_is_a_plan(world: World) -> None:
    world.seed_dataset()
    assert "`sweep=` needs our own trainer; Acme Tuning trains one set" in world.type(f"{START} {SWEEP}")
    assert "can't be swept" in world.type(f"{START} sweep=colour:1,2")
    assert world.store.runs.newest(1) == []


def test_the_table_of_arms_is_told_from_a_file_of_steps() -> None:
    table = (
        b"arm,lora_r,step,total_steps,best_step,valid_loss,valid_mean_token_accuracy,trained_tokens,seconds,outcome\r\n"
        b'1,8,10,40,10,0.5,0.75,970,1.5,stopped after rung 1\r\n2,16,3,40,,,,290,0.4,"out after step 3: a, b"\r\n'
    )
    first, second = sweep_arms(table, "reading")
    assert is_sweep_table(table) and not is_sweep_table(b"step,train_loss\r\n")
    assert (first.chosen, first.step, first.total_steps) == ((("lora_r", "8"),), 10, 40)
    assert (first.valid_loss, first.valid_accuracy, first.outcome) == (0.5, 0.75, "stopped after rung 1")
    assert (second.valid_loss, second.outcome) == (None, "out after step 3: a, b")
    with pytest.raises(InvalidResponse, match="unknown format"):
        sweep_arms(b"arm,colour\r\n1,red\r\n", "reading")


@pytest.mark.slow
def test_a_real_sweep_ends_with_its_table_in_the_thread_of_the_result(
    make_world: MakeWorld,
    tmp_path: Path,
    tiny_model_dir: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    with serve_in_process(tmp_path / "trainer", f"tiny={tiny_model_dir}") as served:
        world = make_world(Rules(more=own(served.url, "0")))
        world.upload_and_check(tickets_csv(400))
        assert world.type(LOCAL) == ""
        world.send()
        world.approve()
        world.tick_until(lambda: world.run().state in ("done", "failed"), "the end", seconds=200)
        world.send()
        assert world.run().state == "done", world.run().error
        found = RunResult.from_json(str(world.run().result))
        assert len(found.arms) == 4
        assert [arm.outcome for arm in found.arms].count("won") == 1
        plan = plan_from_json(world.run().plan)
        assert plan.swept is not None and found.steps == plan.swept.steps
        table = world.find_message("Sweep on tickets: 4 trials")
        assert "★" in table and "stopped after rung 1" in table
