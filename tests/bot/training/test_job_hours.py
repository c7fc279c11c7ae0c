"""The hours of a job that trained while the bot was away are counted all the same."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bot.services.common.provider_jobs import JobOwner, follow
from bot.values.runs import Progress
from tests.peers.hosted import Hosted
from tests.trainers.client.conftest import data, provider, spec  # noqa: F401 - a fixture
from trainers.client.client import Trainer
from trainers.types import Job


def follow_first(trainer: Trainer, job_id: str, now: float) -> tuple[Job, Progress]:
    """Follows the job for the first time."""
    warned: list[str] = []
    owner = SimpleNamespace(
        trainer=trainer, context=SimpleNamespace(clock=lambda: now), report_warnings=warned.extend
    )
    followed = follow(cast(JobOwner, owner), job_id, Progress(), None)
    assert followed is not None
    return followed


@pytest.mark.parametrize("hours", [3, 30])
def test_a_job_that_trained_unwatched_took_the_time_of_its_own_events(data: Path, hours: int) -> None:  # noqa: F811
    with Hosted() as server, Trainer(provider(server), server.key) as trainer:
        job = trainer.create(spec(trainer, data))
        server.service.jobs[job.id].created -= hours * 3600
        server.service.jobs[job.id].polls = 4
        now = time.time() + 24 * 3600  # the bot was away for another day
        ended, progress = follow_first(trainer, job.id, now)
    assert ended.status == "succeeded"
    assert progress.train_seconds == pytest.approx(hours * 3600, abs=10)


def test_a_job_that_began_and_ended_between_two_checks_is_counted(data: Path) -> None:  # noqa: F811
    with Hosted() as server, Trainer(provider(server), server.key) as trainer:
        job = trainer.create(spec(trainer, data))
        server.service.jobs[job.id].created -= 5
        server.service.jobs[job.id].polls = 4
        _, progress = follow_first(trainer, job.id, time.time())
    assert progress.train_seconds == pytest.approx(5, abs=3)
