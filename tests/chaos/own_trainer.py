"""The storm over our own trainer: the bot, the trainer and its training process are killed in random order.

The trainer is killed too and writes no record, so the jobs' folders are the record: no process of the bot writes them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.fork_host import ForkHost
from tests.chaos.records import Record, read
from tests.chaos.storm import LONGEST_LIFE_S, PATIENCE_S, Storm
from tests.chaos.stormy_peers import record_paths
from tests.chaos.verdict import Verdict, models_with_result
from tests.local.trainer_server import KEY, free_port
from trainers.client.payloads import METADATA_KEY
from trainers.local.jobs.records import END_MARKS
from trainers.local.rentals.machines import RentingOptions

STUB = (sys.executable, "-m", "tests.chaos.slow_train")
REAL = (sys.executable, "-m", "trainers.local.train")
TRAINING_S = 20.0  # patience for a training that can be killed
VICTIMS = ("the bot", "the trainer", "the training")
TRAINER = """
[providers.local]
base_url = "{url}"
timeout_s = 5
abilities = ["metadata", "metadata_filter", "idempotency", "extra_hyperparameters", "method",
    "suffix", "progress"{chat}]
[providers.local.defaults]
n_epochs = 1
[providers.local.models.tiny]
usd_per_hour = "1.00"
tokens_per_second = 450
"""


def serve(data: str, model: str, command: list[str], port: int, image: str) -> None:
    """Serves until SIGKILL."""
    import uvicorn

    from trainers.http.sockets import listen
    from trainers.local.api.server import Config, build_app

    os.environ |= {"FINETUNE_DTYPE": "fp32", "OMP_NUM_THREADS": "1"}
    rented = RentingOptions(image) if image else None
    app = build_app(Config(Path(data), KEY, {"tiny": model}, train_command=tuple(command), rented=rented))
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(
        sockets=[listen("127.0.0.1", port)]
    )


@dataclass
class OwnTrainer:
    """Our trainer, whose processes all use one folder."""

    forks: ForkHost
    data: Path
    model: Path
    command: tuple[str, ...]
    image: str = ""
    port: int = field(default_factory=free_port)
    _life: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def last_active(self) -> float:
        """Now while a job is running."""
        return time.monotonic() if self.training() else 0.0

    def folders(self) -> list[Path]:
        return sorted(job.parent for job in self.data.glob("jobs/*/job.json"))

    def training(self) -> list[Path]:
        return [job for job in self.folders() if not any((job / mark).exists() for mark in END_MARKS)]

    def done(self) -> list[Path]:
        return [job for job in self.folders() if (job / "DONE").exists()]

    def begin(self) -> None:
        self._life = self.forks.start(
            "tests.chaos.own_trainer:serve",
            data=str(self.data),
            model=str(self.model),
            command=list(self.command),
            port=self.port,
            image=self.image,
        )

    def kill(self) -> None:
        if self._life is not None:
            self.forks.kill(self._life)
            self._life = None

    def kill_training(self) -> bool:
        """Returns False if no job is running."""
        for folder in self.training():
            with suppress(OSError, ValueError):
                os.kill(int((folder / "pid").read_text(encoding="ascii")), signal.SIGKILL)
                return True
        return False


@dataclass
class OwnStorm(Storm):
    """`model` is a folder with a toy model. `command` trains it for real, or is a stub that takes a second."""

    model: Path = Path()
    command: tuple[str, ...] = STUB
    target: str = "target=local/tiny"

    @contextmanager
    def _start_provider(self, record: Record) -> Iterator[OwnTrainer]:
        trainer = OwnTrainer(self._forks, self.folder / "trainer", self.model, self.command)
        trainer.begin()
        try:
            yield trainer
        finally:
            trainer.kill()

    def _kill_repeatedly(self) -> None:
        """Kills every victim once in each round."""
        self._weather.slack = self.orders.bad_weather
        self._begin_life()
        while sum(self.kills.values()) < self.orders.kills:
            for victim in self._chance.sample(VICTIMS, len(VICTIMS)):
                time.sleep(self._chance.uniform(0.1, LONGEST_LIFE_S))
                self._kill_victim(victim)

    def _kill_victim(self, victim: str) -> None:
        if victim == "the bot":
            self._kill(victim)
            self._begin_life()
            return
        if victim == "the training":
            deadline = time.monotonic() + TRAINING_S
            while not self.provider.kill_training():
                if time.monotonic() > deadline:
                    return
                time.sleep(0.05)
        else:
            self.provider.kill()
            self.provider.begin()
        self.kills[victim] = self.kills.get(victim, 0) + 1

    def _provider_row(self) -> str:
        chat = ', "chat"' if self.command == REAL else ""  # the stub's adapter answers nothing
        return TRAINER.format(url=self.provider.url, chat=chat)

    def _wait_for_quiet(self) -> None:
        """Also waits for the results, because a model that is loaded and asked makes no noise."""
        deadline = time.monotonic() + PATIENCE_S
        slack = record_paths(self.folder)[1]
        while self.provider.training() or len(models_with_result(slack)) < len(self.provider.done()):
            assert time.monotonic() < deadline, "a trained model's result was not posted"
            time.sleep(0.2)
        super()._wait_for_quiet()

    def _keys(self) -> dict[str, str]:
        return {"FINETUNE_TRAINER_KEY": KEY}

    def _judge(self) -> Verdict:
        path = record_paths(self.folder)[0]
        recorded = {(line["what"], line["job"]) for line in read(path)}
        with closing(Record(path)) as provider:
            for folder in self.provider.folders():
                name = folder.name
                if ("created", name) not in recorded:
                    provider.add("created", job=name, **_facts(folder))
                if (folder / "DONE").exists() and ("succeeded", name) not in recorded:
                    provider.add("succeeded", job=name, tokens=0)
        return super()._judge()


def _facts(folder: Path) -> dict[str, Any]:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    metadata = job["metadata"]
    model = f"{job['suffix']}-{metadata.get('run')}"
    return {"key": metadata.get(METADATA_KEY), "plan": metadata.get("plan"), "model": model}
