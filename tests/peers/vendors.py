"""The common part of stand-ins for vendors with their own APIs: a bill to the cent, and jobs that advance by looks.

They store what Service stores (files, jobs, answers), and each answers as its vendor does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from tests.peers.service import Reply, Service, StoredJob

MILLION = 1_000_000
FINAL = ("succeeded", "failed", "cancelled")


@dataclass
class VendorJob(StoredJob):
    """`tokens` is the whole training's number, counted at the create because the file may be deleted later.
    `asked_to_end` is the look at which a cancel came."""

    tokens: int = 0
    asked_to_end: int | None = None


@dataclass(frozen=True)
class Ledger:
    """`jobs` counts all jobs, `live` the running ones; `usd` is the bill, to the cent."""

    jobs: int
    live: int
    files: int
    usd: Decimal


@dataclass
class Vendor(Service):
    """Training costs `usd_per_million` tokens, questions `usd_in` and `usd_out`. Without `credit` no job is created. An
    upload is checked after `check_looks` looks, and a cancel takes `cancel_looks`. With `answers` a tuned model answers
    at once; otherwise it has to be deployed first. `address` is where it is reached, for signed addresses."""

    usd_per_million: Decimal = Decimal("0.50")
    usd_in: Decimal = Decimal("0.80")
    usd_out: Decimal = Decimal("3.20")
    credit: bool = True
    check_looks: int = 0
    cancel_looks: int = 2
    answers: bool = True
    looks: dict[str, int] = field(default_factory=dict)
    read_tokens: int = 0
    written_tokens: int = 0
    address: str = ""

    path = ""
    """The part of a row's base_url after the address."""

    @property
    def ledger(self) -> Ledger:
        live = sum(self._status(job) not in FINAL for job in self.jobs.values())
        trained = sum((self.bill_of(job) for job in self.jobs.values()), Decimal(0))
        questions = (self.read_tokens * self.usd_in + self.written_tokens * self.usd_out) / MILLION
        cents = (trained + questions).quantize(Decimal("0.01"), ROUND_HALF_UP)
        return Ledger(len(self.jobs), live, len(self.files), cents)

    def bill_of(self, job: StoredJob) -> Decimal:
        return self.billed_tokens(job) * self.usd_per_million / MILLION

    def billed_tokens(self, job: StoredJob) -> int:
        """Bills all tokens of a job that succeeded, and half of one that was cancelled while it ran."""
        status = self._status(job)
        share = {"succeeded": 2, "cancelled": int(self._is_begun(job))}.get(status, 0)
        return self.tokens_of_job(job) * share // 2

    def tokens_of_job(self, job: StoredJob) -> int:
        assert isinstance(job, VendorJob)
        return job.tokens

    def tokens_of_file(self, file_id: str) -> int:
        return len(self.files[file_id].content.split())

    def _is_begun(self, job: StoredJob) -> bool:
        stages = self.stages[: min(job.polls, len(self.stages) - 1) + 1]
        return any(self._plain(stage) == "running" for stage in stages)

    def _plain(self, stage: str) -> str:
        """Translates a stage into OpenAI's status."""
        return stage

    def _status(self, job: StoredJob) -> str:
        """Returns OpenAI's status. A cancel takes a few looks."""
        ended_at_poll = job.asked_to_end if isinstance(job, VendorJob) else None
        if ended_at_poll is not None:
            return "running" if job.polls - ended_at_poll < self.cancel_looks else "cancelled"
        passed = job.polls if self.stage_s is None else int((time.time() - job.created) / self.stage_s)
        return self._plain(self.stages[min(passed, len(self.stages) - 1)])

    def _is_cancelling(self, job: VendorJob) -> bool:
        return job.asked_to_end is not None and self._status(job) == "running"

    def _end(self, job: VendorJob) -> None:
        if job.asked_to_end is None:
            job.asked_to_end, job.is_cancelled = job.polls, True

    def _is_checked(self, name: str) -> bool:
        self.looks[name] = self.looks.get(name, 0) + 1
        return self.looks[name] > self.check_looks

    def _served(self) -> list[str]:
        done = [job for job in self.jobs.values() if self._status(job) == "succeeded" and self.answers]
        return [
            *self.models,
            *(name for name in map(self.tuned_name, done) if name not in self.deleted_models),
        ]

    def tuned_name(self, job: StoredJob) -> str:
        raise NotImplementedError

    def _chat(self, body: dict[str, Any]) -> Reply:
        reply = super()._chat(body)
        if reply[0] == 200 and isinstance(reply[1], dict):
            self.read_tokens += reply[1]["usage"]["prompt_tokens"]
            self.written_tokens += reply[1]["usage"]["completion_tokens"]
        return reply


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
