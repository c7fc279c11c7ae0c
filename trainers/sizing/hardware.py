"""How much memory a GPU or this machine has, how fast it is, whether a training fits, and what would make it fit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from trainers.sizing.architecture import Architecture
from trainers.sizing.memory import MIB, Device, Memory, Work, estimate_memory

FAST_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # CPU flags: two of x86, then Arm's
# Name, memory in MiB as nvidia-smi and rocm-smi show it (without the part for error correction), and peak speed in
# 10^12 operations per second for dense 2-byte numbers, from the makers' data sheets.
GPUS = {
    "t4": ("NVIDIA T4", 15360, 65),
    "v100": ("NVIDIA V100 16 GB", 16384, 125),
    "l4": ("NVIDIA L4", 23034, 121),
    "a10g": ("NVIDIA A10G", 23028, 70),
    "a10": ("NVIDIA A10", 23028, 125),
    "rtx3090": ("NVIDIA RTX 3090", 24576, 71),
    "rtx4090": ("NVIDIA RTX 4090", 24564, 165),
    "rtx5090": ("NVIDIA RTX 5090", 32607, 210),
    "v100-32gb": ("NVIDIA V100 32 GB", 32768, 125),
    "a100-40gb": ("NVIDIA A100 40 GB", 40960, 312),
    "l40s": ("NVIDIA L40S", 46068, 362),
    "a6000": ("NVIDIA RTX A6000", 49140, 155),
    "a100-80gb": ("NVIDIA A100 80 GB", 81920, 312),
    "h100": ("NVIDIA H100 80 GB", 81559, 989),
    "h200": ("NVIDIA H200", 143771, 989),
    "b200": ("NVIDIA B200", 183359, 2250),
    "mi300x": ("AMD MI300X", 196592, 1307),
}
OLD_GPUS = frozenset(("t4", "v100"))  # before Ampere
GPU_ALIASES = {
    "a100": "a100-80gb",
    "3090": "rtx3090",
    "4090": "rtx4090",
    "5090": "rtx5090",
    "rtxa6000": "a6000",
}
MAX_GB = 10_000

SUSTAINED = 0.3  # the share of a GPU's peak speed that a training reaches, by a rule of thumb
# Operations per second of one core: 800 tickets through SmolLM2-135M in 147 s on 2 cores (docs/scale.md) are 7e10 in
# bfloat16.
CORE_BF16 = 6e10
CORE_FLOAT32 = 2.5e10
MAX_CORES = 32  # a pack of CPU_TOKENS is too small to keep more cores busy
MEMORY_MARGIN = 1.15  # tests hold the estimate within 15% of measured peaks
MAX_SHORTENING = 4  # never suggest cutting rows to less than a quarter of their length
MAX_ALTERNATIVES = 4


@dataclass(frozen=True)
class Machine:
    """`name` is a phrase for sentences. `memory` is in bytes. `speed` is a guess of the operations per second that a
    training sustains, or None if unknown."""

    name: str
    memory: int
    place: Device
    speed: float | None = None


def read_gpu(text: str) -> Machine | None:
    """Reads an amount of memory like '24' or '24GB' (a GB is 10^9 bytes), or a name like 'h100'. Returns None if the
    text is neither."""
    word = re.sub(r"^(nvidia|amd)-?|[\s_]", "", text.lower().strip())
    size = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)(?:gb|g)?", word)
    if size and word not in GPU_ALIASES:  # "3090" is a name
        gigabytes = float(size[1])
        if 0 < gigabytes <= MAX_GB:
            return Machine(f"a GPU of {gigabytes:g} GB", round(gigabytes * 1e9), Device("gpu", 2))
    gpu = GPUS.get(GPU_ALIASES.get(word, word))
    if gpu is None:
        return None
    name, mebibytes, peak = gpu
    return Machine(f"the {name}", mebibytes * MIB, _gpu_place(name), peak * 1e12 * SUSTAINED)


def _gpu_place(name: str) -> Device:
    return Device("gpu", 2, is_old=not OLD_GPUS.isdisjoint(name.lower().replace("-", " ").split()))


def gpu_speed(name: str) -> float | None:
    """Returns the speed of a GPU by its name in nvidia-smi, like "NVIDIA A100-SXM4-80GB", or None if GPUS lacks it."""
    for word in re.findall(r"[a-z0-9]+", name.lower()):
        gpu = GPUS.get(GPU_ALIASES.get(word, word))
        if gpu is not None:
            _, _, peak = gpu
            return peak * 1e12 * SUSTAINED
    return None


def cpu_speed(cores: int, number_bytes: int) -> float:
    core = CORE_FLOAT32
    if number_bytes == 2:
        core = CORE_BF16
    return min(cores, MAX_CORES) * core


@cache
def this_machine() -> Machine:
    """Describes this machine: its first NVIDIA GPU, or its CPU and memory if it has none."""
    gpu = _nvidia_gpu()
    if gpu:
        return gpu
    number_bytes = 4
    if has_fast_bf16(Path("/proc/cpuinfo")):
        number_bytes = 2
    place = Device("cpu", number_bytes)
    speed = cpu_speed(os.cpu_count() or 1, place.number_bytes)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(f"this machine ({memory / 1e9:.0f} GB, no GPU)", memory, place, speed)


def has_fast_bf16(cpuinfo: Path) -> bool:
    """True if Linux's CPU flags show fast bfloat16. False on systems without /proc/cpuinfo."""
    if not cpuinfo.exists():
        return False
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        if line.lower().startswith(("flags", "features")):
            return not set(FAST_BF16).isdisjoint(line.split())
    return False


def _nvidia_gpu() -> Machine | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    names = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(names, capture_output=True, encoding="utf-8", timeout=10, check=True).stdout
        name, _, mebibytes = answer.splitlines()[0].rpartition(",")
        memory = int(mebibytes) * MIB
        return Machine(f"this machine's {name.strip()}", memory, _gpu_place(name), gpu_speed(name))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None  # with a broken driver no training would run on the GPU either


@dataclass(frozen=True)
class Fit:
    """`standing` "tight" means that the training fits only if the estimate is exact. `alternatives` are other settings,
    each of which would make it fit with room to spare. `least` is the number of bytes with the most saving change."""

    standing: Literal["fits", "tight", "too large"]
    memory: Memory
    machine: Machine
    alternatives: tuple[Work, ...]
    least: int

    @property
    def needed(self) -> int:
        """Bytes, including the program itself if it is in the same memory."""
        return self.memory.total + self.memory.process


def check_fit(model: Architecture, work: Work, machine: Machine) -> Fit:
    memory = estimate_memory(model, work, machine.place)
    needed = memory.total + memory.process
    if needed * MEMORY_MARGIN <= machine.memory:
        return Fit("fits", memory, machine, (), needed)
    alternatives: list[Work] = []
    least = needed
    for changes in _changes_by_kind(work):
        fits = False
        for smaller in changes:
            size = needed_bytes(model, smaller, machine.place)
            least = min(least, size)
            # The smallest change that is enough.
            if not fits and size * MEMORY_MARGIN <= machine.memory:
                alternatives.append(smaller)
                fits = True
    different = tuple(dict.fromkeys(alternatives))
    standing: Literal["tight", "too large"] = "too large"
    if needed <= machine.memory:
        standing = "tight"
    return Fit(standing, memory, machine, different[:MAX_ALTERNATIVES], least)


def adapt_to_memory(model: Architecture, work: Work, machine: Machine) -> Work:
    """Returns the settings to which the builtin engine falls back on a GPU with too little memory: first it recomputes
    activations, then it computes fewer rows at a time without changing what a step learns from. If nothing fits,
    returns the smallest of these."""
    if machine.place.kind != "gpu" or work.pairs:
        return work
    again = replace(work, checkpoints=True)
    smaller = [replace(again, batch=batch) for batch in _halve_down_to(work.batch, 1)]
    tried = [work, again, *smaller]
    for settings in tried:
        needed = needed_bytes(model, settings, machine.place)
        if needed * MEMORY_MARGIN <= machine.memory:
            return settings
    return tried[-1]


def smallest_gpu(needed: int) -> str | None:
    """Returns the name of the smallest of GPUS that holds this many bytes with room to spare, or None."""
    with_margin = needed * MEMORY_MARGIN
    large = [(mebibytes, name) for name, mebibytes, _ in GPUS.values() if mebibytes * MIB >= with_margin]
    if not large:
        return None
    _, name = min(large)
    return name


def needed_bytes(model: Architecture, work: Work, place: Device) -> int:
    """Returns the bytes at the peak, with those of the program if it is in the same memory."""
    memory = estimate_memory(model, work, place)
    return memory.total + memory.process


def _changes_by_kind(work: Work) -> Iterator[list[Work]]:
    """Yields a list for each kind of change, in which the smallest change comes first."""
    batches = list(_halve_down_to(work.batch, 1))
    shortest = max(1, work.length // MAX_SHORTENING)
    lengths = list(_halve_down_to(work.length, shortest))
    small = replace(work, method="qlora", checkpoints=True)
    smallest = replace(small, batch=1)
    if not work.checkpoints:
        yield [replace(work, checkpoints=True)]
    yield [replace(work, batch=batch) for batch in batches]
    if work.method not in ("qlora", "full"):
        yield [replace(work, method="qlora")]
    yield [_shorten(work, length) for length in lengths]
    if work.method == "full":
        return
    yield [small, *(replace(small, batch=batch) for batch in batches)]
    yield [_shorten(smallest, length) for length in lengths]


def _shorten(work: Work, length: int) -> Work:
    return replace(work, length=length, answer=min(work.answer, length))


def _halve_down_to(size: int, least: int) -> Iterator[int]:
    while (size := size // 2) >= least:
        yield size
