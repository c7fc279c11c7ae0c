"""What stand-ins of vendors with an API of their own share: a bill to the cent, and how far a job is by looks at it.

They keep the record of Service (files, jobs, answers), and each speaks as its vendor does.
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
    """`tokens`: what all of it takes, as counted when it came: its file may be gone later. `asked_to_end`: the look at
    which a cancel came."""

    tokens: int = 0
    asked_to_end: int | None = None


@dataclass(frozen=True)
class Ledger:
    """`jobs` in all, `live` of them; `usd` as on a bill, to the cent."""

    jobs: int
    live: int
    files: int
    usd: Decimal


@dataclass
class Vendor(Service):
    """`usd_per_million` training tokens; questions are billed by `usd_in` and `usd_out`. Without `credit` no job is
    created. `check_looks`: an upload is looked at so often before it is checked. `cancel_looks`: so long a cancel
    takes. `answers`: a tuned model does; else somebody has to deploy it first."""

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

    path = ""
    """What follows the address in a row's base_url."""

    @property
    def ledger(self) -> Ledger:
        live = sum(self._status(job) not in FINAL for job in self.jobs.values())
        trained = sum((self.bill_of(job) for job in self.jobs.values()), Decimal(0))
        asked = (self.read_tokens * self.usd_in + self.written_tokens * self.usd_out) / MILLION
        cents = (trained + asked).quantize(Decimal("0.01"), ROUND_HALF_UP)
        return Ledger(len(self.jobs), live, len(self.files), cents)

    def bill_of(self, job: StoredJob) -> Decimal:
        return self.billed_tokens(job) * self.usd_per_million / MILLION

    def billed_tokens(self, job: StoredJob) -> int:
        """All of a job that ended well, half of one that was cancelled while it ran."""
        status = self._status(job)
        share = {"succeeded": 2, "cancelled": int(self._is_begun(job))}.get(status, 0)
        return self.tokens_of_job(job) * share // 2

    def tokens_of_job(self, job: StoredJob) -> int:
        assert isinstance(job, VendorJob)
        return job.tokens

    def tokens_of_file(self, file_id: str) -> int:
        return len(self.files[file_id].content.split())

    def _is_begun(self, job: StoredJob) -> bool:
        seen = self.stages[: min(job.polls, len(self.stages) - 1) + 1]
        return any(self._plain(stage) == "running" for stage in seen)

    def _plain(self, word: str) -> str:
        """A stage in OpenAI's words."""
        return word

    def _status(self, job: StoredJob) -> str:
        """In OpenAI's words. A cancel takes a few looks."""
        asked = job.asked_to_end if isinstance(job, VendorJob) else None
        if asked is not None:
            return "running" if job.polls - asked < self.cancel_looks else "cancelled"
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
        return [*self.models, *(n for n in map(self.tuned_name, done) if n not in self.deleted_models)]

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
