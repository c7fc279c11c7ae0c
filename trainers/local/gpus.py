"""Which GPUs this trainer gives to its jobs. Looks with nvidia-smi; loads no library of theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES names; where it is unset, every GPU by its number; () without any."""
    named = environment.get(VARIABLE)
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip() not in ("", "-1"))
    tool = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if tool is None:
        return ()
    asked = [tool, "--query-gpu=index", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return tuple(said.stdout.split()) if said.returncode == 0 else ()


def pick_gpus(gpus: Sequence[str], taken: Iterable[str], count: int) -> tuple[str, ...]:
    """The `count` that fewest jobs have; of several the first ones behind serving's, which is the very first.
    () where there are no GPUs."""
    jobs = Counter(taken)
    fewest = sorted(gpus, key=lambda gpu: (jobs[gpu], gpu == gpus[0]))[:count]
    return tuple(sorted(fewest, key=gpus.index))
