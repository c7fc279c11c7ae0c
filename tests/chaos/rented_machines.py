"""The storm over our own trainer, which rents a machine for each job: bot and trainer are killed, machines are lost.

At the end the ledger of the stand-in for Hugging Face is checked too.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.own_trainer import OwnStorm, OwnTrainer
from tests.chaos.records import Record
from tests.chaos.verdict import Verdict
from tests.peers.hf_jobs import TOKEN, HfPeer, PeerJob, hf_jobs

IMAGE = f"docker.io/acme/finetune@sha256:{'0' * 64}"
HF = f"""
[hf]
hardware = "t4-small"
image = "{IMAGE}"
minutes = 30
"""
DONE = {
    "result/DONE": b'{"step": 3, "trained_tokens": 12, "seconds": 1}',
    "result/adapter/adapter_config.json": b'{"base_model_name_or_path": "/tmp/base"}',
}


@dataclass(frozen=True)
class Machines:
    """Counts by the stand-in's ledger. A machine is redundant if another was live for the same job, or had finished it.
    `lost` counts jobs that never had a machine."""

    started: int
    live: int
    redundant: int
    lost: int

    @property
    def is_clean(self) -> bool:
        return not (self.live or self.redundant or self.lost)


@dataclass
class RentingTrainer(OwnTrainer):
    hf: HfPeer = field(default_factory=HfPeer)

    def kill_training(self) -> bool:
        """Takes a machine away. Returns False if none is running."""
        for machine in self.hf.running:
            if machine.stage == "RUNNING":
                self.hf.end(machine, "ERROR", "Node is gone")
                return True
        return False


@dataclass
class RentedStorm(OwnStorm):
    """`machines` is what the ledger says at the end."""

    target: str = "target=hf/tiny"
    hf: HfPeer = field(default_factory=HfPeer)
    machines: Machines | None = None

    def run(self) -> Verdict:
        before = dict(os.environ)
        with hf_jobs() as self.hf:
            self.hf.files, self.hf.checkpoint = DONE, {"resume/checkpoints/step-000001/state.pt": b"1"}
            self.hf.list_lag_s, self.hf.stub_s = self.orders.list_lag_s, 4.0  # long enough to be lost in
            # for the fork host: huggingface_hub reads them when it is imported
            os.environ |= {"HF_ENDPOINT": self.hf.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
            try:
                return super().run()
            finally:
                os.environ.clear()
                os.environ.update(before)

    @contextmanager
    def _start_provider(self, record: Record) -> Iterator[RentingTrainer]:
        data = self.folder / "trainer"
        trainer = RentingTrainer(self._forks, data, self.model, self.command, IMAGE, hf=self.hf)
        trainer.begin()
        try:
            yield trainer
        finally:
            trainer.kill()

    def _provider_row(self) -> str:
        return super()._provider_row() + HF

    def _record_machines(self, provider: Record) -> None:
        hf, by_job = self.hf, defaultdict[str, list[PeerJob]](list)
        for machine in sorted(hf.jobs.values(), key=lambda each: each.created):
            by_job[machine.spec["labels"]["finetune-job"]].append(machine)
        pairs = [pair for machines in by_job.values() for pair in pairwise(machines)]
        redundant = sum(
            first.stage == "COMPLETED" or first.ended is None or first.ended > second.created
            for first, second in pairs
        )
        lost = sum(folder.name not in by_job for folder in self.provider.folders())
        self.machines = Machines(len(hf.jobs), len(hf.running), redundant, lost)
