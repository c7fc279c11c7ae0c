"""What TRL, transformers and accelerate see of a team: one process with one device, so that they share out, wrap and
gather nothing. All that is done by us (team.py). A process that is alone sees them as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]
from trl.trainer.dpo_config import DPOConfig

from trainers.local.training import team

SAID_BY_LAUNCHERS = ("LOCAL_RANK", "WORLD_SIZE")  # where accelerate looks whether there are others


class UnlaunchedConfig(DPOConfig):
    @cached_property
    def _setup_devices(self) -> torch.device:
        """Else a process that thinks that it is alone takes the first GPU, and wants to use all that it sees."""
        if team.is_alone():
            return super()._setup_devices
        AcceleratorState._reset_state(reset_partial_state=True)
        with unlaunched():
            self.distributed_state = PartialState(cpu=self.use_cpu)
        self._n_gpu = 0 if self.use_cpu else 1
        device: torch.device = self.distributed_state.device
        return device


@contextmanager
def unlaunched() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in SAID_BY_LAUNCHERS if name in os.environ}
    try:
        yield
    finally:
        os.environ |= kept
