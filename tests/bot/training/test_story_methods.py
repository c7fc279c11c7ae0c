"""Runs by methods other than supervised: what is sent, what people read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from bot.rules.plans import plan_from_json
from demo.people import BEN
from tests.bot.datasets.test_story_deletion import delete
from tests.bot.own_trainer import NOWHERE, own, train_to_the_end
from tests.bot.own_trainer import sleeping_trainer as sleeping_trainer
from tests.bot.props import tickets_csv
from tests.bot.serving.test_story_programs import deploy
from tests.bot.serving.the_door import ask_by_the_door
from tests.bot.training.test_story_sweeps import details_of, thousand_tokens
from tests.bot.world import START, MakeWorld, Rules, World
from tests.local.conftest import tiny_model_dir  # noqa: F401 - a fixture
from tests.local.trainer_server import KEY, TrainerServer, free_port, serve_in_process
from trainers.recipes.folder import RecipeFolder

OWN = "/finetune start tickets target=local/smollm2-135m method=grpo"
FULL = "/finetune start tickets target=local/tiny method=full"
GRPO = "/finetune start tickets target=local/tiny method=grpo epochs=1"
OPTIONS = "samples=4 max_new_tokens=6 lora_r=8 lora_alpha=8 dropout=0.1 learning_rate=5e-4 target_modules=q_proj,v_proj"


def test_a_grpo_run_is_planned_and_sent_with_its_method(
    make_world: MakeWorld, sleeping_trainer: TrainerServer
) -> None:
    world = make_world(Rules(more=own(sleeping_trainer.url, "0")))
    world.seed_dataset(rows=240)
    assert world.type(f"{GRPO} {OPTIONS}") == ""
    world.send()
    assert "method grpo, learning rate 0.0005" in world.plan_details()
    card = world.find_message("train tiny on tickets (GRPO)", "GRPO, 4 answers sampled per question")
    assert "lora_r 8" in card
    plan = plan_from_json(world.run().plan)
    assert plan.method == "grpo"
    world.approve()
    world.tick_until_state("training")
    # Not the trainer's own client, which checks the answers: OpenAI's API has no GRPO.
    with openai.OpenAI(base_url=sleeping_trainer.url, api_key=KEY) as client:
        job = client.fine_tuning.jobs.retrieve(str(world.run().job_id))
        sent = job.hyperparameters.model_extra or {}
        wanted = {
            "samples": 4,
            "reward": "exact",
            "beta": 0.0,
            "lora_r": 8,
            "lora_alpha": 8,
            "lora_dropout": 0.1,
        }
        assert wanted.items() <= sent.items()
        assert (sent["learning_rate"], sent["target_modules"]) == (5e-4, "q_proj,v_proj")
        assert job.method is not None
        assert str(job.method.type) == "grpo"
        client.fine_tuning.jobs.cancel(job.id)
        world.tick_until_state("cancelled")


def test_an_estimate_for_grpo_counts_its_sampled_tokens(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=own(NOWHERE, "2")))
    world.seed_dataset()
    estimate = "/finetune estimate tickets target=local/tiny epochs=1"
    once = thousand_tokens(details_of(world, estimate))
    four = thousand_tokens(details_of(world, f"{estimate} method=grpo samples=4"))
    assert four == pytest.approx(4 * once, abs=0.2)


def test_what_a_method_cannot_do_is_refused_before_there_is_a_plan(world: World) -> None:
    world.seed_dataset()
    assert "`method=grpo` needs our own trainer, and Acme Tuning" in world.type(f"{START} method=grpo")
    assert "`method=dpo` learns from preference pairs" in world.type(OWN.replace("grpo", "dpo"))
    assert "can't be combined with `sweep=`" in world.type(f"{OWN} sweep=lora_r:2,4")
    assert "`engine=unsloth` can't train with `method=grpo`" in world.type(f"{OWN} engine=unsloth")
    quantized = world.type(f"{OWN} engine=vllm quantization=nf4")
    assert "`engine=vllm` loads the base without quantization" in quantized
    assert world.store.runs.newest(1) == []


@pytest.mark.deep
def test_all_weights_are_trained_measured_put_to_work_and_deleted(
    make_world: MakeWorld,
    tmp_path: Path,
    tiny_model_dir: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    data = tmp_path / "trainer"
    with serve_in_process(data, f"tiny={tiny_model_dir}") as served:
        world = make_world(Rules(more=own(served.url, "0"), serving=f"127.0.0.1:{free_port()}"))
        world.upload_and_check(tickets_csv(90))
        assert world.type(f"{FULL} epochs=1 max_length=512") == ""
        world.send()
        card = world.find_message("train tiny on tickets (all weights)")
        assert "all weights of the model, without an adapter" in card
        assert "lora" not in card.lower()
        world.approve()
        world.tick_until(lambda: world.run().state in ("done", "failed"), "the end", seconds=200)
        assert world.run().state == "done", world.run().error
        plan = plan_from_json(world.run().plan)
        assert plan.method == "all_weights"
        assert dict(plan.hyperparameters).keys() == {"n_epochs", "batch_size", "max_length"}

        (job,) = data.glob("jobs/ftjob-*")
        assert {path.name for path in (job / "adapter").iterdir()} >= {"model.safetensors", "config.json"}
        refused = world.type(FULL.replace("local/tiny", "tickets-1"))
        assert "All weights of `tickets-1` were trained" in refused

        deploy(world, "tickets-1")
        assert ask_by_the_door(world, "Order 4711: a question about refund") != ""
        published = RecipeFolder(world.service.settings.recipes).published("team/tickets")
        assert published is not None and published.unavailable is None
        world.type("/finetune rollback tickets", user=BEN)
        world.tick(2)
        assert delete(world, BEN).closed
        world.tick_until(lambda: not job.exists(), "the model to be deleted")


def test_an_adapters_options_have_no_effect_on_all_weights(world: World) -> None:
    world.seed_dataset()
    full = OWN.replace("grpo", "full")
    assert "belongs to method=supervised" in world.type(f"{full} lora_r=8")
    assert "can't be combined with `sweep=`" in world.type(f"{full} sweep=learning_rate:1e-4,2e-4")
    assert "it belongs to method=supervised" in world.type(f"{full} engine=unsloth")
    assert "`method=full` needs our own trainer, and Acme Tuning" in world.type(f"{START} method=full")
    assert world.store.runs.newest(1) == []


@pytest.mark.slow
def test_a_real_grpo_run_ends_with_an_evaluated_model(
    make_world: MakeWorld,
    tmp_path: Path,
    tiny_model_dir: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    with serve_in_process(tmp_path / "trainer", f"tiny={tiny_model_dir}") as served:
        world = make_world(Rules(more=own(served.url, "0")))
        world.upload_and_check(tickets_csv(400))
        result = train_to_the_end(world, f"{GRPO} samples=4 max_new_tokens=4")
        assert result.steps > 0
        world.tick_until_file("reward.png")
        assert "loss.png" not in world.files()
        assert len(result.reward_curve) > 1

        line = GRPO.replace("local/tiny", "tickets-1")
        again = train_to_the_end(world, f"{line} samples=4 max_new_tokens=4")
        start = plan_from_json(world.run(2).plan).starts_from
        assert start is not None and start.lineage == ("tickets-1",)
        assert again.steps > 0 and again.start == "tickets-1"
