"""The engines there are: what each is called, how big it is, what it can. Starts and installs nothing.

Sizes and minutes were measured on 2 CPU cores with PyTorch's CPU build; its CUDA build is about 4 GB more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

BUILTIN = "builtin"
EngineName = Literal["unsloth", "axolotl", "llamafactory"]


@dataclass(frozen=True)
class Engine:
    """`package` is what is installed at `version`, the one whose config keys we write; `beside`: packages that it
    doesn't ask for by itself. `gigabytes` on the disk, `minutes` of a quiet machine. `can` and `licence` are read by
    people."""

    name: EngineName
    package: str
    version: str
    gigabytes: float
    minutes: float
    can: str
    licence: str
    beside: tuple[str, ...] = ()

    @property
    def requirements(self) -> tuple[str, ...]:
        return f"{self.package}=={self.version}", *self.beside


UNSLOTH = Engine(
    name="unsloth",
    package="unsloth",
    version="2026.10.9",
    gigabytes=2.9,
    minutes=2.5,
    can="LoRA and QLoRA with hand-written GPU kernels; without a GPU it trains by plain PyTorch",
    licence="Apache-2.0, its CPU part, studio and command line AGPL-3.0",
)
AXOLOTL = Engine(
    name="axolotl",
    package="axolotl",
    version="0.19.0",
    gigabytes=4.4,
    minutes=4.5,
    can="LoRA and QLoRA from one YAML file that a person can grow: DeepSpeed, FSDP, sample packing",
    licence="Apache-2.0",
)
LLAMAFACTORY = Engine(
    name="llamafactory",
    package="llamafactory",
    version="0.9.5",
    gigabytes=2.3,
    minutes=2,
    can="LoRA and QLoRA from one YAML file, over 100 model families, a web page of its own",
    licence="Apache-2.0",
    beside=("bitsandbytes",),
)
ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (UNSLOTH, AXOLOTL, LLAMAFACTORY)}
NAMES = (BUILTIN, *ENGINES)
