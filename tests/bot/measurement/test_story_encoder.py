"""Encoders on our real trainer: planned, trained through a kill, measured beside the classical model, and deployed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import openai
import pytest

from bot.cards.common import advice
from bot.cards.datasets import datasets
from bot.cards.evidence import evaluation_results
from bot.cards.training import results
from bot.values.runs import RunResult
from demo.people import ANA, BEN
from tests.bot.measurements import until
from tests.bot.models.test_story_promote import promote
from tests.bot.props import tickets_csv
from tests.bot.world import PRIVATE, TARGET, MakeWorld, Rules, World, words_of
from tests.local.encoders import multilingual_encoder_dir as multilingual_encoder_dir
from tests.local.labelled_tickets import ENCODER
from tests.local.trainer_server import KEY, TrainerServer, close, free_port, ready_url, start_process
from trainers.evaluation.results import Comparison

START = "/finetune start tickets target=local/minilm-encoder"


class Trainer:
    """Our trainer, at the same address after each start."""

    def __init__(self, folder: Path, encoder: str = ENCODER) -> None:
        self._folder = folder
        self._port = free_port()
        self._encoder = encoder
        self.start()

    def start(self) -> None:
        self._process = start_process(
            self._folder, more=("--port", str(self._port), "--encoder", self._encoder)
        )
        self.served = TrainerServer(ready_url(self._process), self._process)

    @property
    def training(self) -> str:
        """The id of the process that trains, '' before it started."""
        pids = (path.read_text() for path in self._folder.glob("jobs/*/pid"))
        return next(pids, "")

    def kill(self) -> None:
        """Kill the server and the process that trains."""
        self._process.kill()
        self._process.wait(20)
        close(self._process)
        with suppress(ProcessLookupError):  # it has ended already
            os.kill(int(self.training), signal.SIGKILL)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        close(self._process)


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    trainer = Trainer(tmp_path / "trainer")
    yield trainer
    trainer.stop()


@pytest.fixture
def world(make_world: MakeWorld, trainer: Trainer) -> World:
    """An hour of our trainer has a price, low enough for the world's quick clock."""
    rows = f'[providers.local]\nbase_url = "{trainer.served.url}"\n'
    world = make_world(
        Rules(more=f'{rows}[providers.local.models."minilm-encoder"]\nusd_per_hour = "0.02"\n')
    )
    world.seed_dataset(rows=60)
    return world


@pytest.mark.deep
def test_an_encoder_is_approved_trained_measured_and_deployed(world: World, trainer: Trainer) -> None:
    world.start(START)
    world.find_message("Run 1", "train minilm-encoder on tickets", "at most $0.10")
    world.approve()
    world.tick_until(lambda: trainer.training, "its training")
    trainer.kill()
    trainer.start()
    world.tick_until(lambda: world.run().state == "done", "the run to be done", seconds=120)
    world.send()
    result = RunResult.from_json(world.run().result or "")
    assert (result.before, result.tuned.share, result.base.share) == ("classical", 1, 1)
    assert result.actual_micros < 100_000 and result.labels
    card = world.find_message("Result of run 1.")
    assert "the free classical model" in card and "its base" not in card
    world.click(ANA, results.DETAILS)
    assert "the free classical model learnt from the same training rows" in world.read_form(ANA)
    promote(world, why="because=it says how sure it is")
    world.tick_until(lambda: world.store.promotions.current("tickets").carried_at, "the trainer to know")
    ask_by_alias(world, trainer.served)


def ask_by_alias(world: World, served: TrainerServer) -> None:
    with openai.OpenAI(base_url=served.url, api_key=KEY, max_retries=0, timeout=60) as client:
        question = "Order 37: a question about shipping"
        answer = client.chat.completions.create(
            model="team/tickets", messages=[{"role": "user", "content": question}]
        )
        (choice,) = answer.choices
        assert choice.message.content == "shipping"
        assert answer.model == world.store.model("tickets-1").provider_model
        assert choice.model_extra and 0 < choice.model_extra["classification"]["probability"] <= 1
    assert "Asking `tickets-1`" in world.type("/finetune try tickets Order 38: a question about shipping")
    assert "shipping" in world.tick_until_answered()


@pytest.mark.deep
def test_use_it_on_a_good_measurement_and_its_estimate_deploys_the_encoder(world: World) -> None:
    world.upload_and_check(tickets_csv(90))
    world.click(ANA, datasets.MEASURE)
    assert world.slack.submit_modal(
        ANA.id, {"dataset": "tickets", "models": [], "candidates": ["encoder"]}
    ).closed
    world.tick_until(lambda: world.has_button(advice.USE), "the measurement's result")
    world.find_message("Measurement m1", "The encoder meets the usual bar of 85%", "Use it")
    world.click(ANA, evaluation_results.ESTIMATE)
    answers = {"dataset": "tickets", "current": "gpt-4o", "volume": "100M tokens", "target": TARGET}
    assert world.slack.submit_modal(ANA.id, answers).closed
    world.wait_for_answer(ANA, 0)
    (card,) = world.slack.ephemerals(ANA.id)
    assert "Not now: the encoder is good enough" in words_of(card)
    world.slack.click(ANA.id, PRIVATE.id, card.ts, advice.USE)
    assert world.store.promotions.current("tickets") is None, "she may not deploy anything"
    world.click(BEN, advice.USE)
    world.click(BEN, advice.USE)
    world.send()
    (row,) = world.store.database.rows("SELECT measurement FROM promotions")
    assert row["measurement"] == 1, "the second click found it in use"
    world.find_message("The encoder is in use for tickets")


@pytest.fixture
def multilingual(
    make_world: MakeWorld, tmp_path: Path, multilingual_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """[encoder] names a folder, and the trainer has it by the same name."""
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    trainer = Trainer(tmp_path / "trainer", f"multilingual={multilingual_encoder_dir}")
    row = '[providers.local.models.multilingual]\nkind = "encoder"\nusd_per_hour = "0.02"\n'
    more = f'[providers.local]\nbase_url = "{trainer.served.url}"\n{row}'
    world = make_world(Rules(more=f'{more}[encoder]\nmodel = "{multilingual_encoder_dir}"\n'))
    world.seed_dataset(rows=60)
    yield world
    trainer.stop()


@pytest.mark.deep
def test_an_encoder_from_the_settings_is_measured_and_trained_as_a_whole(
    multilingual: World, multilingual_encoder_dir: Path
) -> None:
    """It is compared with the free encoder, which answers for the run; a measurement afterwards has its answers."""
    world = multilingual
    result = train_whole(world)
    assert json.loads(world.run().plan)["method"] == "full"
    assert (result.before, result.no_encoder, result.tuned.share) == ("encoder", "", 1)
    assert "the free encoder" in world.find_message("Result of run 1.")
    world.type("/finetune baseline tickets candidates=encoder")
    comparison = Comparison.from_json(until(world, "done").result or "")
    (encoder,) = comparison.candidates
    assert (encoder.kind, encoder.score) == ("encoder", result.base.share)
    assert encoder.p50_s == result.base.p50_s, "nothing was computed again"
    assert comparison.weights == (f"{multilingual_encoder_dir}: apache-2.0",)
    promote(world, why="because=it answers in French")
    world.tick_until(lambda: world.store.promotions.current("tickets").carried_at, "the trainer to know")
    assert "Asking `tickets-1`" in world.type("/finetune try tickets Order 38: a question about shipping")
    assert "shipping" in world.tick_until_answered()

    # The bot loses the folder that [encoder] names; the trainer still has it.
    world.rules.more = world.rules.more.replace(str(multilingual_encoder_dir), "/gone")
    world.restart()
    result = train_whole(world, 2, epochs=5)
    assert result.before == "classical" and "/gone" in result.no_encoder
    assert "the free encoder, which could not answer for this run" in world.find_message("Result of run 2.")


def train_whole(world: World, number: int = 1, epochs: int = 6) -> RunResult:
    start = "/finetune start tickets target=local/multilingual method=full learning_rate=2e-3"
    world.start(f"{start} epochs={epochs}")
    world.approve()
    world.tick_until(lambda: world.run(number).state == "done", "the run to be done", seconds=120)
    world.send()
    return RunResult.from_json(world.run(number).result or "")


def test_an_encoder_is_estimated_but_refused_work_that_needs_a_chat_model(world: World) -> None:
    estimate = "/finetune estimate tickets current=gpt-4o volume=10M target=local/minilm-encoder"
    assert "minilm-encoder" in world.type(estimate)
    rows = "".join(f"question {n} about things,an answer that nobody else has {n}\n" for n in range(60))
    world.upload("poems.csv", f"text,answer\n{rows}", called="poems")
    world.tick_until(lambda: world.dataset().state in ("ready", "refused"), "the check")
    for line, refusal in (
        (f"{START} method=dpo", "is an encoder, which learns labels: `method=dpo` can't train it"),
        (f"{START} epochs=3", "`epochs=` has no effect on"),
        (f"{START} method=head lora_r=8", "it belongs to method=supervised"),
        (f"{START} patience=2", "`patience=` has no effect on"),
        (f"{START} sweep=lora_r:8,16", "`sweep=` has no effect on"),
        (
            "/finetune start tickets target=local/smollm2-135m method=head",
            "is not an encoder: `method=head` can't train it",
        ),
        (
            "/finetune start poems target=local/minilm-encoder",
            "An encoder learns labels, but the answers of `poems` are free text",
        ),
        (
            "/finetune baseline tickets models=local/minilm-encoder",
            "is an encoder, which can't be prompted",
        ),
    ):
        assert refusal in world.type(line), line
