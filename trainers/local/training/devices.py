"""Where to compute: the device, its number format and loss scale, and as many threads as other programs
leave cores."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from trainers.local.training.errors import TrainingFailed
from trainers.sizing.hardware import has_fast_bf16

DTYPE_VARIABLE = "FINETUNE_DTYPE"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WIDE = "gemma"  # families of that beginning have activations beyond float16's range


def best_device() -> torch.device:
    """A GPU by its number: torch asks for one where memory is divided."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(device: torch.device, family: str = "") -> torch.dtype:
    """bfloat16 where the machine multiplies it fast; float16 on GPUs that only do that (V100, T4), if the model's
    `family` keeps within its range; else float32. $FINETUNE_DTYPE overrules."""
    question = os.environ.get(DTYPE_VARIABLE)
    if question:
        if question not in DTYPES:
            text = f"{DTYPE_VARIABLE} is '{question}'. Set it to {' or '.join(DTYPES)}, or leave it unset."
            raise TrainingFailed("invalid_setting", text)
        return DTYPES[question]
    if device.type == "cuda":
        return _on_gpu(torch.cuda.get_device_capability(device)[0], family)
    is_fast = device.type == "mps" or has_fast_bf16(Path("/proc/cpuinfo"))
    return torch.bfloat16 if is_fast else torch.float32


def _on_gpu(generation: int, family: str) -> torch.dtype:
    """By NVIDIA's compute capability: torch.cuda.is_bf16_supported says yes where it is emulated, too. AMD's MI200 and
    MI300 are 9."""
    if generation >= 8:
        return torch.bfloat16
    return torch.float16 if generation == 7 and not family.startswith(WIDE) else torch.float32


LOOK_S = 0.5  # what is seen of less time is the clock's ticks more than the work
QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class CpuSeconds:
    """Seconds: `wall`, and of the processor; `busy` of all cores that this process may use, `own` of this process."""

    wall: float = 0.0
    busy: float = 0.0
    own: float = 0.0

    def __add__(self, other: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(self.wall + other.wall, self.busy + other.busy, self.own + other.own)

    def __sub__(self, other: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(self.wall - other.wall, self.busy - other.busy, self.own - other.own)


class CpuThreads:
    """As many threads compute as other work leaves cores of this machine. For a thread that computes; another thread of
    the process has its own.

    Threads that spin while they wait for each other are the fastest, until another program wants one of their cores:
    then all wait for the one that does not run. So they spin, and there are never more than free cores. A step on 8
    rows of SmolLM2-135M on two cores, quiet and beside one busy program: 0.82 s and 1.3 s, where two threads that sleep
    instead take 1.25 s and 1.4 s, and two that spin whatever else runs 0.82 s and 3.3 s.
    """

    def __init__(self) -> None:
        self._most = min(torch.get_num_threads(), cores_allowed(QUOTA))
        torch.set_num_threads(self._most)
        self._seen = CpuSeconds()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around a step, a batch: what others take meanwhile is left to them in the next."""
        begun = cpu_seconds()
        yield
        self._seen += cpu_seconds() - begun
        if self._seen.wall < LOOK_S:
            return
        threads = threads_for(self._seen, count_cores(), self._most)
        self._seen = CpuSeconds()
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)


def threads_for(seen: CpuSeconds, cores: int, most: int) -> int:
    """Of 1 to `most`: what others took they will take again."""
    others = (seen.busy - seen.own) / seen.wall
    return max(1, min(most, round(cores - others)))


def cpu_seconds() -> CpuSeconds:
    """Since the machine, and this process, started."""
    times = psutil.cpu_times(percpu=True)
    usable = _usable(len(times))
    busy = sum(times[core].user + times[core].system + getattr(times[core], "nice", 0.0) for core in usable)
    return CpuSeconds(time.monotonic(), busy, time.process_time())


def count_cores() -> int:
    """Cores that this process may use."""
    return len(_usable(psutil.cpu_count() or 1))


def cores_allowed(quota: Path) -> int:
    """As many as a container may keep busy, rounded up: torch starts a thread for each core of the host."""
    try:
        most, period = quota.read_text().split()
    except (OSError, ValueError):  # another system, or no control group
        return psutil.cpu_count() or 1
    return psutil.cpu_count() or 1 if most == "max" else max(1, math.ceil(int(most) / int(period)))


def _usable(online: int) -> Sequence[int]:
    """All where the system does not tell, as macOS."""
    process = psutil.Process()
    own: Sequence[int] = process.cpu_affinity() if hasattr(process, "cpu_affinity") else ()
    return own if own and max(own) < online else range(online)


def new_scaler(device: torch.device, dtype: torch.dtype) -> GradScaler:
    """float16 has no numbers below 6e-8: the loss is multiplied before the way back, so that small gradients are not
    lost. Where one becomes too large instead, the step is computed again at half the scale; none is left out
    (Micikevicius et al. 2018, Mixed Precision Training, section 3.2). Does nothing in other formats.
    """
    scaler = GradScaler(device.type, enabled=dtype == torch.float16)
    scaler.scale(
        torch.zeros(1, device=device)
    )  # makes its tensors, also in a process that has no row at first
    return scaler


def is_learnable(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Takes the scale off the gradients. False where they overflowed and a smaller scale may help, which is set."""
    if not scaler.is_enabled():
        return True
    scaler.unscale_(optimizer)
    learnt = [
        item.grad for group in optimizer.param_groups for item in group["params"] if item.grad is not None
    ]
    scale = scaler.get_scale()
    if math.isfinite(torch.nn.utils.get_total_norm(learnt).item()) or scale <= 1:
        scaler.update()
        return True
    scaler.update(scale / 2)
    return False
