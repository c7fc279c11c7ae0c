"""A model is promoted while our own trainer is down: its alias answers once the trainer is back."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest
from click.testing import CliRunner

from bot.cli import main
from bot.reconciler import maintain
from demo.people import BEN
from tests.bot.models.test_story_promote import promote
from tests.bot.world import MakeWorld, Rules, World
from tests.local.conftest import tiny_model_dir  # noqa: F401 - a fixture
from tests.local.trainer_server import KEY, TrainerServer, close, free_port, ready_url, start_process

QUESTION = [{"role": "user", "content": "Order 37: a question about shipping"}]


def start_trainer(folder: Path, base: Path, port: int) -> TrainerServer:
    process = start_process(folder, f"tiny={base}", more=("--port", str(port)))
    return TrainerServer(ready_url(process), process)


def stop_trainer(served: TrainerServer) -> None:
    assert served.process is not None
    served.process.terminate()
    served.process.wait(20)
    close(served.process)


@pytest.mark.deep
def test_the_alias_is_set_once_our_trainer_is_back(
    make_world: MakeWorld,
    tmp_path: Path,
    tiny_model_dir: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    port, folder = free_port(), tmp_path / "trainer"
    served = start_trainer(folder, tiny_model_dir, port)
    try:
        own = f'[providers.local]\nbase_url = "{served.url}"\n[providers.local.models.tiny]\nusd_per_hour = "0"\n'
        world = make_world(Rules(more=own))
        world.start("/finetune start tickets current=gpt-4o volume=100M target=local/tiny epochs=1")
        world.approve()
        world.tick_until(lambda: world.run().state == "done", "the run to be done", seconds=180)
        stop_trainer(served)
        promote(world, why="because=it shows how this works")
        world.tick(2)
        assert "can't be reached yet, so the bot keeps trying" in world.find_message(
            "tickets-1 is in use for tickets"
        )
        served = start_trainer(folder, tiny_model_dir, port)
        world.pass_time(120)
        world.tick_until(lambda: world.store.promotions.current("tickets").carried_at, "the trainer to know")
        world.send()
        assert "now get it, without a change" in world.find_message("tickets-1 is in use for tickets")
        ask_by_alias(world, served)
        assert_counted(world, 1)
        stop_trainer(served)
        served = start_trainer(folder, tiny_model_dir, port)
        with openai.OpenAI(base_url=served.url, api_key=KEY, max_retries=0, timeout=60) as client:
            for streams in (False, True):
                answer = client.chat.completions.create(
                    model="team/tickets", messages=QUESTION, max_tokens=4, stream=streams
                )  # type: ignore[call-overload]
                assert not streams or list(answer)
        assert_counted(world, 3)
        assert_nothing_answers_after_a_rollback(world, served)
    finally:
        stop_trainer(served)


def assert_nothing_answers_after_a_rollback(world: World, served: TrainerServer) -> None:
    """Not even for programs that ask the trainer itself. An alias that a person has set there stays."""
    world.service.context.trainers["local"].set_alias(
        "team/mine", world.store.model("tickets-1").provider_model
    )
    world.type("/finetune rollback tickets", user=BEN)
    world.tick(2)
    maintain(world.service.context)
    assert set(world.service.context.trainers["local"].aliases()) == {"team/mine"}
    with (
        openai.OpenAI(base_url=served.url, api_key=KEY, max_retries=0, timeout=60) as client,
        pytest.raises(openai.NotFoundError),
    ):
        client.chat.completions.create(model="team/tickets", messages=QUESTION, max_tokens=4)  # type: ignore[arg-type]
    assert "no_alias" in [entry.action for entry in world.store.audit.entries()]


def assert_counted(world: World, calls: int) -> None:
    """The calls, their tokens and what they saved against today's model, in Slack and in the terminal."""
    world.pass_time(300)
    maintain(world.service.context)
    assert f"{calls} call" in world.type("/finetune models")
    assert "saved under 1 cent" in world.type("/finetune status")
    (month,) = (month for month in world.store.actuals.of("tickets") if month.calls)
    assert (month.model, month.calls, month.micros) == ("tickets-1", calls, 0)
    assert month.prompt_tokens > 10 * calls and 0 < month.completion_tokens <= 4 * calls
    assert month.alternative == "today's model, gpt-4o"
    # $2.50 per 1M tokens of prompts; today's answers are shorter than this model's, and count as such
    assert month.alternative_micros > month.prompt_tokens
    config = {"FINETUNE_CONFIG": str(world.folder / "finetune.toml")}
    (model,) = json.loads(CliRunner().invoke(main, ["models", "--json"], env=config).stdout)
    assert month.saving_micros in [row["saving_micros"] for row in model["months"]]
    listed = CliRunner().invoke(main, ["models"], env=config).stdout
    # This model is right on no row, so what its plan expected to save is no news.
    assert f"{calls:,} calls" in listed and "planned" not in listed
    assert "net_value" in model and not {"plan", "result"} & model.keys()


def ask_by_alias(world: World, served: TrainerServer) -> None:
    """Ask as a program and in Slack. The model in use can't be deleted, and the bot finds its alias as it set it."""
    model = world.store.model("tickets-1").provider_model
    with openai.OpenAI(base_url=served.url, api_key=KEY, max_retries=0, timeout=60) as client:
        answer = client.chat.completions.create(
            model="team/tickets", messages=QUESTION, max_tokens=4, temperature=0
        )  # type: ignore[arg-type]
        assert answer.model == model
        with pytest.raises(openai.BadRequestError, match="in use by team/tickets"):
            client.models.delete(model)
    assert "Asking `tickets-1`" in world.type("/finetune try tickets where is it?")
    assert "It answers" in world.tick_until_answered()
    messages = len(world.texts())
    maintain(world.service.context)
    world.tick()
    assert len(world.texts()) == messages and world.store.model("tickets-1").gone_at is None
