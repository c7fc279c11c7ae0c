"""Every flow is played at DEBUG; secrets and customers' words are then only where they belong."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bot import logs, nightly
from bot.cards.evidence import evaluations
from bot.embedded_trainer import free_port
from demo.people import BEN
from tests.bot import canaries
from tests.bot.measurements import PRICES, until, until_asked
from tests.bot.operations.test_process_health import get
from tests.bot.world import CLEO, GUS, TARGET, MakeWorld, Rules, World
from tests.local.conftest import tiny_model_dir  # noqa: F401 - a fixture
from tests.local.trainer_server import KEY as TRAINER_TOKEN
from tests.local.trainer_server import ROOT, close, ready_url
from tests.patience import wait_until
from tests.peers.hosted import KEY as PROVIDER_KEY

LABELS = ("zorkheron", "zorkosprey", "zorkkestrel")
WORD = "quuxnightjar"
TYPED = "quuxwheatear"
APP_TOKEN = "xapp-1-CANARY-0123456789"
DATA = {
    **{f"label {label}": label for label in LABELS},
    "a customer's word": WORD,
    "a question to a model": TYPED,
}
# What each column may hold: reports count labels, plans list them, results compare them; answers and replies are a
# model's words; asks are what a person typed to one.
ALLOWED = {
    "datasets.report": "label",
    "runs.plan": "label",
    "measurements.plan": "label",
    "answers.text": "label",
    "replies.text": "label",
    "measurements.result": "label",
    "runs.result": "label",
    "asks.text": "a question",
    "tried_answers.question": "a question",
    "tried_answers.answer": "label",
}
OWN = """[providers.local]
base_url = "{url}"
[providers.local.defaults]
n_epochs = 1
[providers.local.models.tiny]
usd_per_hour = "0"
[service]
health_port = {port}
"""


@dataclass
class Traces:
    """What a story left outside its database and files."""

    log: io.StringIO = field(default_factory=io.StringIO)
    outputs: dict[str, str] = field(default_factory=dict)
    arguments: set[str] = field(default_factory=set)


def secrets(world: World) -> dict[str, str]:
    access = world.slack.access
    return {
        "the bot's token": access.bot_token,
        "the app's token": APP_TOKEN,
        "the signing secret": access.signing_secret,
        "the provider's key": PROVIDER_KEY,
        "the trainer's token": TRAINER_TOKEN,
    }


@contextmanager
def debugging_trainer(folder: Path, model: Path) -> Iterator[str]:
    """A trainer with its log at DEBUG, in folder/trainer.err."""
    arguments = ["--port", "0", "--data", str(folder / "data"), "--exit-with-parent", f"--model=tiny={model}"]
    more = {"FINETUNE_TRAINER_KEY": TRAINER_TOKEN, "FINETUNE_DTYPE": "fp32", "OMP_NUM_THREADS": "1"}
    folder.mkdir()
    with (folder / "trainer.err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bot.operations.debugging_trainer", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **more},
        )
        try:
            yield ready_url(process)
        finally:
            process.terminate()
            process.wait(20)
            close(process)


@contextmanager
def log_everything(into: io.StringIO) -> Iterator[None]:
    """Log at DEBUG as in the product, with its chatty loggers quietened, but without its redaction."""
    handler = logging.StreamHandler(into)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    levels = [(logger, logger.level) for logger in map(logging.getLogger, ("", *logs.CHATTY))]
    logs.quieten()
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for logger, level in levels:
            logger.setLevel(level)


def canary_csv(count: int = 60) -> str:
    lines = [f"Order {n * 37}: {WORD} asks for the {n}th time,{LABELS[n % 3]}" for n in range(count)]
    return "\n".join(["text,label", *lines]) + "\n"


def play_every_flow(world: World, outputs: dict[str, str], trainer: Path) -> None:
    """Upload, check, estimate, comparison, start, approve, train, result, try, cancel, freeze, refusals, bad input."""
    world.provider.service.answer = lambda model, messages: LABELS[0]
    assert world.upload_and_check(canary_csv()).state == "ready"
    world.upload("bad.jsonl", f'{{"messages": [{{"role": "{WORD}", "content": "{LABELS[0]}"', called="bad")
    world.tick_until(lambda: world.store.datasets.newest("bad").state == "refused", "the refusal")
    world.type(f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}")
    world.type(f"/finetune {WORD}")
    world.type("/finetune start nothing target=nowhere")
    assert world.type("/finetune baseline tickets models=acme/acme-small candidates=classical,zero") == ""
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    until(world, "done")
    run = world.start("/finetune start tickets current=gpt-4o volume=100M target=local/tiny")
    assert "Only full members" in world.click_and_read(GUS, "approve_plan")
    world.approve()
    world.tick_until_state("training", run.id)
    wait_until(lambda: list(trainer.rglob("DONE")), "the training", seconds=60)
    world.tick_until(lambda: world.run(run.id).state in ("done", "failed"), "the result", seconds=60)
    assert world.run(run.id).state == "done", world.run(run.id).error
    world.type(f"/finetune try tickets-1 {TYPED}")
    world.tick_until(lambda: not world.store.questions.waiting(), "the answer")
    other = world.start(f"/finetune start tickets current=gpt-4o volume=100M target={TARGET}")
    world.approve()
    world.tick_until(lambda: world.run(other.id).state == "training", "the other training")
    world.type(f"/finetune cancel {other.id}")
    world.tick_until(lambda: world.run(other.id).state == "cancelled", "the cancel")
    world.type("/finetune freeze it looks odd", user=BEN)
    for person in (BEN, CLEO):
        world.type("/finetune unfreeze", user=person)
    outputs["/finetune audit"] = world.type(f"/finetune audit {run.id}", user=BEN)
    world.send()


@pytest.mark.deep
@pytest.mark.skipif(
    not Path("/proc/self/cmdline").exists(), reason="the arguments of processes are read in /proc"
)
def test_secrets_and_customers_words_are_only_where_they_belong(
    make_world: MakeWorld,
    tmp_path: Path,
    tiny_model_dir: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", TRAINER_TOKEN)
    monkeypatch.setenv("SLACK_APP_TOKEN", APP_TOKEN)
    traces, port = Traces(), free_port()
    with (
        log_everything(traces.log),
        canaries.watched_arguments() as traces.arguments,
        debugging_trainer(tmp_path / "trainer", tiny_model_dir) as url,
    ):
        world = make_world(Rules(more=OWN.format(url=url, port=port) + PRICES))
        health = world.service.health
        assert health is not None
        health.start()
        play_every_flow(world, traces.outputs, tmp_path / "trainer")
        traces.outputs |= {path: get(port, path)[1] for path in ("/healthz", "/metrics")}
        nightly.back_up(world.service.context)
        health.stop()
        world.service.health = None
    traces.outputs["stdout"], traces.outputs["stderr"] = capfd.readouterr()
    assert any("trainers.local.train" in line for line in traces.arguments), "no training process was seen"
    assert all(traces.outputs[place] for place in ("/finetune audit", "/healthz", "/metrics"))
    assert "DEBUG" in traces.log.getvalue() and "DEBUG" in (tmp_path / "trainer" / "trainer.err").read_text()
    assert sorted(_leaks(world, traces, tmp_path)) == []


def _leaks(world: World, traces: Traces, folder: Path) -> set[tuple[str, str]]:
    """(place, name of the canary) of everything that is where it must not be."""
    words = {**secrets(world), **DATA}
    settings = world.service.settings
    leaks = {("the log", name) for name in canaries.in_text(traces.log.getvalue(), words)}
    for place, text in traces.outputs.items():
        leaks |= {(place, name) for name in canaries.in_text(text, words)}
    leaks |= {("arguments", name) for line in traces.arguments for name in canaries.in_text(line, words)}
    for database in (settings.database, *settings.backups.glob("finetune-*.db")):
        matches = canaries.in_database(database, words)
        leaks |= {(column, name) for column, name in matches if not _is_allowed(column, name)}
    patterns = ("*.log", "*.err", "events.jsonl", "*.json")
    leaks |= canaries.in_files((path for each in patterns for path in folder.rglob(each)), words)
    return leaks | canaries.in_files(folder.rglob("*"), secrets(world))


def _is_allowed(column: str, canary: str) -> bool:
    return canary.startswith(ALLOWED.get(column, "nothing"))


def test_each_planted_leak_is_found_and_nothing_else(world: World, tmp_path: Path) -> None:
    traces, token = Traces(), world.slack.access.bot_token
    assert _leaks(world, traces, tmp_path) == set()
    traces.log.write(f"DEBUG bot: posting with {token}")
    assert ("the log", "the bot's token") in _leaks(world, traces, tmp_path)
    world.store.audit.add(at=1.0, who="U1", action="asked", subject="run 1", detail=f"with {token}")
    assert ("audit.detail", "the bot's token") in _leaks(world, traces, tmp_path)
    with canaries.watched_arguments() as traces.arguments:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)", token], check=True)
    assert ("arguments", "the bot's token") in _leaks(world, traces, tmp_path)
    world.store.database.change(
        "INSERT INTO asks (person, channel, model, text, created_at) VALUES ('U1', 'C1', ?, 'x', 1)", (WORD,)
    )
    assert ("asks.model", "a customer's word") in _leaks(world, traces, tmp_path)
    file = tmp_path / "data" / "leak.json"
    file.write_text(token)
    assert (str(file), "the bot's token") in _leaks(world, traces, tmp_path)
