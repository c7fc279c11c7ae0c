"""Our own trainer in stories: its settings, one that only sleeps, and runs that are trained for real."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from bot.rules.plans import EarlyStopping, SweepPlan
from bot.values.runs import RunResult
from tests.bot.world import World
from tests.local.trainer_server import KEY, TrainerServer, serve_in_thread

NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def sleeping_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainerServer]:
    """A trainer that accepts jobs for the model `tiny`, but sleeps instead of training."""
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    with serve_in_thread(tmp_path / "trainer", {"tiny": "/nowhere"}, ("/bin/sleep", "600")) as served:
        yield served


def own(url: str, usd_per_hour: str) -> str:
    """The settings of our trainer at that address, with a known speed, so that runs have a maximum."""
    price = f'[providers.local.models.tiny]\nusd_per_hour = "{usd_per_hour}"\ntokens_per_second = 450\n'
    return f'[providers.local]\nbase_url = "{url}"\n{price}'


def assert_trains_on(client: openai.OpenAI, job: FineTuningJob, split: EarlyStopping | SweepPlan) -> None:
    """Asserts that the job has the split's training rows and its validation rows."""
    assert sha256(client.files.content(job.training_file).read()) == split.fitted_sha256
    assert sha256(client.files.content(job.validation_file or "").read()) == split.validation_sha256


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def train_to_the_end(world: World, line: str) -> RunResult:
    """Starts a run that is trained for real, and waits for its result."""
    assert world.type(line) == ""
    world.send()
    world.approve()
    world.tick_until(lambda: world.newest_run().state in ("done", "failed"), "the end", seconds=200)
    run = world.newest_run()
    assert run.state == "done", run.error
    return RunResult.from_json(str(run.result))
