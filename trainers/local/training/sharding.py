"""A frozen base divided among the GPUs of a team, for bases that one GPU can't hold. The adapter is whole on each.

Each layer's weights come together for as long as the layer is computed (torch's fully_shard, ZeRO-3 of Rajbhandari et
al. 2020). So all processes compute as many parts in the same order: the ones with fewer compute one more for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import Module, ModuleList

from trainers.local.peft import PeftModel
from trainers.local.training import distributed
from trainers.methods import Sharding

T = TypeVar("T")
ROOM = 1.3  # of a GPU's memory: weights, and what a step takes beside them


def is_wanted(question: Sharding, processes: int, weights: int, memory: int | None) -> bool:
    """`weights`: bytes of the base; `memory`: of one device, None where it has none of its own. Pure."""
    if processes == 1 or question == "none":
        return False
    return question == "fsdp" or (memory is not None and weights * ROOM > memory)


def weight_bytes(base: Path) -> int:
    return sum(path.stat().st_size for path in base.glob("*.safetensors"))


def device_memory(device: torch.device) -> int | None:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def shard_layers(base: Module, device: torch.device) -> None:
    """`base` lies in this machine's memory; of each layer every process keeps its part on `device`."""
    mesh = init_device_mesh(device.type, (distributed.size(),))
    for layer in _layers(base):
        fully_shard(layer, mesh=mesh)


def shard_rest(model: PeftModel, device: torch.device) -> None:
    """What is beside the layers of a base whose layers are divided; the adapter stays whole.

    This part is divided again after each pass too: the first process saves alone, which divides it in that process,
    and the others would then wait for a gathering that it alone begins.
    """
    mesh = init_device_mesh(device.type, (distributed.size(),))
    learnt = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in learnt:
        parameter.data = parameter.data.to(device)
    fully_shard(model, mesh=mesh, ignored_params=learnt, reshard_after_forward=True)


def in_step(model: PeftModel, parts: Sequence[Sequence[T]], spare: T) -> Iterator[tuple[Sequence[T], int]]:
    """Each part with 1. Where the model is sharded, as many as the process with most has: `spare` with 0."""
    wanted = distributed.maximum(len(parts)) if isinstance(model, FSDPModule) else len(parts)
    for part in parts:
        yield part, 1
    for _ in range(wanted - len(parts)):
        yield [spare], 0


def _layers(model: Module) -> list[Module]:
    """The longest list of modules: a decoder's layers, also where a vision tower has layers of its own."""
    lists = [list(module) for module in model.modules() if isinstance(module, ModuleList)]
    return max(lists, key=len, default=[])
