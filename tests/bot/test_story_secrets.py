"""All flows at DEBUG with secrets and customers' words that are found nowhere afterwards but where they
belong."""

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

from bot import logs, reconciler
from bot.cards import evaluations
from bot.embedded_trainer import free_port
from demo.people import BEN
from tests.bot import canaries
from tests.bot.test_process_health import get
from tests.bot.test_story_ladder import PRICES, MakeWorld, until, until_asked
from tests.bot.world import CLEO, GUS, TARGET, Rules, World
from tests.local.conftest import tiny_model_dir  # noqa: F401 - a fixture
from tests.local.trainer_server import KEY as TRAINER_TOKEN
from tests.local.trainer_server import ROOT, close, ready_url
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
# Who owns what: the report counts labels, plans say which are measured, results confuse them; answers and replies are a
# model's words; asks are what a person typed to one.
OWNERS = {
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
DEBUGGING = (
    "import logging, runpy, sys; logging.basicConfig(level=logging.DEBUG, stream=sys.stderr);"
    "sys.argv[0] = 'trainers.local'; runpy.run_module('trainers.local', run_name='__main__', alter_sys=True)"
)
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
    """What was left of a story outside its database."""

    log: io.StringIO = field(default_factory=io.StringIO)
    told: dict[str, str] = field(default_factory=dict)
    arguments: set[str] = field(default_factory=set)


def secrets(world: World) -> dict[str, str]:
    door = world.slack.access
    return {
        "the bot's token": door.bot_token,
        "the app's token": APP_TOKEN,
        "the signing secret": door.signing_secret,
        "the provider's key": PROVIDER_KEY,
        "the trainer's token": TRAINER_TOKEN,
    }


@contextmanager
def debugging_trainer(folder: Path, model: Path) -> Iterator[str]:
    """`python -m trainers.local` with its log at DEBUG, in folder/trainer.err."""
    arguments = ["--port", "0", "--data", str(folder / "data"), "--exit-with-parent", f"--model=tiny={model}"]
    more = {"FINETUNE_TRAINER_KEY": TRAINER_TOKEN, "FINETUNE_DTYPE": "fp32", "OMP_NUM_THREADS": "1"}
    folder.mkdir()
    with (folder / "trainer.err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", DEBUGGING, *arguments],
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
def everything_logged(into: io.StringIO) -> Iterator[None]:
    """Our loggers at DEBUG and the chatty ones quieted, as in the product; unblotted, unlike there."""
    handler = logging.StreamHandler(into)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    before = [(one, one.level) for one in map(logging.getLogger, ("", *logs.CHATTY))]
    logs.quieten()
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for one, level in before:
            one.setLevel(level)


def rows(count: int = 60) -> str:
    lines = [f"Order {n * 37}: {WORD} asks for the {n}th time,{LABELS[n % 3]}" for n in range(count)]
    return "\n".join(["text,label", *lines]) + "\n"


def play(world: World, told: dict[str, str]) -> None:
    """Upload, check, estimate, ladder, start, approve, train, result, try, cancel, freeze, refusals, bad input."""
    world.provider.service.answer = lambda model, messages: LABELS[0]
    assert world.upload_and_check(rows()).state == "ready"
    world.upload("bad.jsonl", f'{{"messages": [{{"role": "{WORD}", "content": "{LABELS[0]}"', called="bad")
    world.tick_until(lambda: world.store.datasets.newest("bad").state == "refused", "the refusal")
    world.type(f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}")
    world.type(f"/finetune {WORD}")
    world.type("/finetune start nothing target=nowhere")
    assert world.type("/finetune baseline tickets models=acme/acme-small rungs=classical,zero") == ""
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    until(world, "done")
    run = world.start("/finetune start tickets current=gpt-4o volume=100M target=local/tiny")
    assert "Only full members" in world.click_and_read(GUS, "approve_plan")
    world.approve()
    world.tick_until(lambda: world.run(run.id).state in ("done", "failed"), "the training", seconds=60)
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
    told["/finetune audit"] = world.type(f"/finetune audit {run.id}", user=BEN)
    world.send()


@pytest.mark.skipif(
    not Path("/proc/self/cmdline").exists(), reason="the arguments of processes are read in /proc"
)
@pytest.mark.usefixtures("real_processes")
def test_no_secret_and_no_customer_s_word_is_found_where_it_does_not_belong(
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
        everything_logged(traces.log),
        canaries.watched_arguments() as traces.arguments,
        debugging_trainer(tmp_path / "trainer", tiny_model_dir) as url,
    ):
        world = make_world(Rules(more=OWN.format(url=url, port=port) + PRICES))
        health = world.service.health
        assert health is not None
        health.start()
        play(world, traces.told)
        traces.told |= {path: get(port, path)[1] for path in ("/healthz", "/metrics")}
        reconciler.back_up(world.service.context)
        health.stop()
        world.service.health = None
    traces.told["stdout"], traces.told["stderr"] = capfd.readouterr()
    assert any("trainers.local.train" in line for line in traces.arguments), "no training process was seen"
    assert all(traces.told[place] for place in ("/finetune audit", "/healthz", "/metrics"))
    assert "DEBUG" in traces.log.getvalue() and "DEBUG" in (tmp_path / "trainer" / "trainer.err").read_text()
    assert sorted(_found(world, traces, tmp_path)) == []


def _found(world: World, traces: Traces, folder: Path) -> set[tuple[str, str]]:
    everything = {**secrets(world), **DATA}
    settings = world.service.settings
    found = {("the log", name) for name in canaries.in_text(traces.log.getvalue(), everything)}
    for place, text in traces.told.items():
        found |= {(place, name) for name in canaries.in_text(text, everything)}
    found |= {("arguments", name) for line in traces.arguments for name in canaries.in_text(line, everything)}
    for database in (settings.database, *settings.backups.glob("finetune-*.db")):
        found |= {hit for hit in canaries.in_database(database, everything) if not _owns(*hit)}
    logs = [
        *folder.rglob("*.log"),
        *folder.rglob("*.err"),
        *folder.rglob("events.jsonl"),
        *folder.rglob("*.json"),
    ]
    found |= canaries.in_files(logs, everything)
    found |= canaries.in_files(folder.rglob("*"), secrets(world))
    return found


def _owns(column: str, canary: str) -> bool:
    return canary.startswith(OWNERS.get(column, "nothing"))


@pytest.mark.parametrize("place", ["log", "audit", "arguments", "database", "file"])
def test_what_is_planted_is_found(world: World, tmp_path: Path, place: str) -> None:
    traces, token = Traces(), world.slack.access.bot_token
    match place:
        case "log":
            traces.log.write(f"DEBUG bot: posting with {token}")
        case "audit":
            world.store.audit.add(at=1.0, who="U1", action="asked", subject="run 1", detail=f"with {token}")
        case "arguments":
            with canaries.watched_arguments() as traces.arguments:
                subprocess.run([sys.executable, "-c", "import time; time.sleep(0.5)", token], check=True)
        case "database":
            world.store.database.change(
                "INSERT INTO asks (person, channel, model, text, created_at) VALUES ('U1', 'C1', ?, 'x', 1)",
                (WORD,),
            )
        case _:
            (tmp_path / "data" / "leak.json").write_text(token)
    assert len(_found(world, traces, tmp_path)) >= 1


def test_a_world_with_nothing_planted_is_clean(world: World, tmp_path: Path) -> None:
    assert _found(world, Traces(), tmp_path) == set()
