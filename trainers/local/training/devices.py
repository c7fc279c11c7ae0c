"""Chooses the device, the number format, the loss scale, and the number of threads, which leaves cores to other
programs."""

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
WIDE = "gemma"  # families with this prefix have activations beyond float16's range
MIN_MEASURED_S = 0.5  # shorter measurements are too coarse, since the CPU clocks count in ticks
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def best_device() -> torch.device:
    """Returns the best device. A GPU has its number, which torch needs when memory is shared."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def best_dtype(device: torch.device, family: str = "") -> torch.dtype:
    """Returns bfloat16 if the machine multiplies it fast; float16 on GPUs that only support that (V100, T4), if the
    model's `family` stays within its range; otherwise float32. $FINETUNE_DTYPE overrides this."""
    setting = os.environ.get(DTYPE_VARIABLE)
    if setting:
        if setting not in DTYPES:
            text = f"{DTYPE_VARIABLE} is '{setting}'. Set it to {' or '.join(DTYPES)}, or leave it unset."
            raise TrainingFailed("invalid_setting", text)
        return DTYPES[setting]
    if device.type == "cuda":
        # torch.cuda.is_bf16_supported is also true for emulated bfloat16. AMD's MI200 and MI300 report 9.
        generation = torch.cuda.get_device_capability(device)[0]
        if generation >= 8:
            return torch.bfloat16
        if generation == 7 and not family.startswith(WIDE):
            return torch.float16
        return torch.float32
    if device.type == "mps" or has_fast_bf16(Path("/proc/cpuinfo")):
        return torch.bfloat16
    return torch.float32


@dataclass(frozen=True)
class CpuSeconds:
    """`wall` is time by the clock. `busy` is the busy time of all cores that this process may use, and `own` the
    processor time of this process. All are in seconds."""

    wall: float = 0.0
    busy: float = 0.0
    own: float = 0.0

    def __add__(self, other: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(self.wall + other.wall, self.busy + other.busy, self.own + other.own)

    def __sub__(self, other: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(self.wall - other.wall, self.busy - other.busy, self.own - other.own)


class CpuThreads:
    """Sets the number of torch's threads to the number of cores that other programs leave free. Each computing thread
    of this process has its own object.

    Threads that spin while they wait for each other are the fastest, until another program needs one of their cores:
    then all wait for the one that does not run. So we let them spin but never use more than there are free cores. A
    step on 8 rows of SmolLM2-135M on two cores takes 0.82 s on a quiet machine and 1.3 s beside one busy program. Two
    threads that sleep take 1.25 s and 1.4 s, and two that always spin 0.82 s and 3.3 s.
    """

    def __init__(self) -> None:
        self._most = min(torch.get_num_threads(), cores_allowed(QUOTA))
        torch.set_num_threads(self._most)
        self._seen = CpuSeconds()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wraps a wait within `shared`, whose time and whose other programs don't count."""
        start = cpu_seconds()
        yield
        self._seen -= cpu_seconds() - start

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Wraps a step or a batch. The next one leaves to other programs the cores that they used during this one."""
        start = cpu_seconds()
        yield
        self._seen += cpu_seconds() - start
        if self._seen.wall < MIN_MEASURED_S:
            return
        threads = choose_threads(self._seen, count_cores(), self._most)
        self._seen = CpuSeconds()
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)


def choose_threads(seen: CpuSeconds, cores: int, most: int) -> int:
    """Returns 1 to `most` threads, assuming that other programs keep using as many cores as in `seen`."""
    others = (seen.busy - seen.own) / seen.wall
    return max(1, min(most, round(cores - others)))


def cpu_seconds() -> CpuSeconds:
    """Returns the seconds since the machine and this process started."""
    times = psutil.cpu_times(percpu=True)
    busy = 0.0
    for core in _usable(len(times)):
        spent = times[core]
        busy += spent.user + spent.system + getattr(spent, "nice", 0.0)  # Windows has no nice
    return CpuSeconds(time.monotonic(), busy, time.process_time())


def count_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(_usable(psutil.cpu_count() or 1))


def cores_allowed(quota: Path) -> int:
    """Returns how many cores a container may keep busy, rounded up. torch would start a thread for each core of the
    host."""
    of_machine = psutil.cpu_count() or 1
    try:
        most, period = quota.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # not Linux, or no control group
        return of_machine
    if most == "max":
        return of_machine
    return max(1, math.ceil(int(most) / int(period)))


def _usable(online: int) -> Sequence[int]:
    """Returns the numbers of the cores that this process may use: all of them on systems that don't tell, like
    macOS."""
    process = psutil.Process()
    own: Sequence[int] = ()
    if hasattr(process, "cpu_affinity"):
        own = process.cpu_affinity()
    # The affinity may name a core beyond those with times, which would be no valid index.
    if own and max(own) < online:
        return own
    return range(online)


def new_scaler(device: torch.device, dtype: torch.dtype) -> GradScaler:
    """Returns a scaler that multiplies the loss for float16, so that small gradients are not lost: float16 has no
    numbers below 6e-8 (Micikevicius et al. 2018, Mixed Precision Training, section 3.2). If a gradient overflows, the
    step is recomputed at half the scale instead of skipped. In other formats the scaler does nothing.
    """
    scaler = GradScaler(device.type, enabled=dtype == torch.float16)
    # Creates the scaler's tensors, even in a process without a row in its first step.
    scaler.scale(torch.zeros(1, device=device))
    return scaler


def unscale_gradients(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Divides the gradients by the scale. If they overflowed, halves the scale and returns False: the step must be
    recomputed. Returns True otherwise, and also if the scale can't become smaller."""
    if not scaler.is_enabled():
        return True
    scaler.unscale_(optimizer)
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).item()
    scale = scaler.get_scale()
    if math.isfinite(norm) or scale <= 1:
        scaler.update()
        return True
    scaler.update(scale / 2)
    return False
