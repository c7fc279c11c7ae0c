"""The storm over our own trainer that rents a machine for each job: bot and trainer are killed, machines are lost.

Beside the record of all storms the stand-in for Hugging Face keeps a ledger of its machines, which is read at the end.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.own import OwnStorm, OwnTrainer
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
    """By the stand-in's ledger. `doubled`: started while another of the same job was live, or after one that had done
    its work. `lost`: jobs that ended without any."""

    started: int
    live: int
    doubled: int
    lost: int

    @property
    def is_clean(self) -> bool:
        return not (self.live or self.doubled or self.lost)


@dataclass
class RentingTrainer(OwnTrainer):
    hf: HfPeer = field(default_factory=HfPeer)

    def kill_training(self) -> bool:
        """Takes a machine away; False where none runs."""
        for machine in self.hf.running:
            if machine.stage == "RUNNING":
                self.hf.end(machine, "ERROR", "Node is gone")
                return True
        return False


@dataclass
class RentedStorm(OwnStorm):
    """`hf` is Hugging Face; `machines`, what its ledger says at the end."""

    wanted: str = "target=hf/tiny"
    hf: HfPeer = field(default_factory=HfPeer)
    machines: Machines | None = None

    def blow(self) -> Verdict:
        before = dict(os.environ)
        with hf_jobs() as self.hf:
            self.hf.files, self.hf.checkpoint = DONE, {"resume/checkpoints/step-000001/state.pt": b"1"}
            self.hf.list_lag_s, self.hf.stub_s = self.orders.list_lag_s, 4.0  # long enough to be lost in
            # for the fork host: huggingface_hub reads them when it is imported
            os.environ |= {"HF_ENDPOINT": self.hf.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
            try:
                return super().blow()
            finally:
                os.environ.clear()
                os.environ.update(before)

    @contextmanager
    def _hosted(self, record: Record) -> Iterator[RentingTrainer]:
        data = self.folder / "trainer"
        trainer = RentingTrainer(self._forks, data, self.model, self.command, IMAGE, hf=self.hf)
        trainer.begin()
        try:
            yield trainer
        finally:
            trainer.kill()

    def _provider_row(self) -> str:
        return super()._provider_row() + HF

    def _look_back(self, provider: Record) -> None:
        hf, by_job = self.hf, defaultdict[str, list[PeerJob]](list)
        for machine in sorted(hf.jobs.values(), key=lambda each: each.created):
            by_job[machine.spec["labels"]["finetune-job"]].append(machine)
        pairs = [pair for machines in by_job.values() for pair in pairwise(machines)]
        doubled = sum(one.stage == "COMPLETED" or one.ended > two.created for one, two in pairs)
        lost = sum(folder.name not in by_job for folder in self.provider.folders())
        self.machines = Machines(len(hf.jobs), len(hf.running), doubled, lost)
