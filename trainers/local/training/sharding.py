"""Divides a frozen base among the GPUs of a team, for bases that one GPU can't hold. Each GPU has the whole adapter.

A layer's weights are gathered while the layer is computed (torch's fully_shard, ZeRO-3 of Rajbhandari et al. 2020). So
all processes have to compute the same number of parts in the same order; a process with fewer computes spare ones,
whose result doesn't count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import Module, ModuleList

from trainers.local.peft import PeftModel
from trainers.local.training import distributed
from trainers.methods import Sharding

T = TypeVar("T")
ROOM = 1.3  # memory for the weights and for what a step takes, in sizes of the weights


def is_sharding_wanted(setting: Sharding, processes: int, weights: int, memory: int | None) -> bool:
    """`weights` are the bytes of the base, `memory` those of one device; None where it has none of its own. Pure."""
    if processes == 1 or setting == "none":
        return False
    return setting == "fsdp" or (memory is not None and weights * ROOM > memory)


def device_memory(device: torch.device) -> int | None:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def shard_layers(base: Module, device: torch.device) -> None:
    """`base` is in this machine's memory; every process keeps its part of each layer on `device`."""
    mesh = init_device_mesh(device.type, (distributed.size(),))
    # The longest list of modules is that of the decoder's layers, also where a vision tower has layers of its own.
    lists = [list(module) for module in base.modules() if isinstance(module, ModuleList)]
    for layer in max(lists, key=len, default=[]):
        fully_shard(layer, mesh=mesh)


def shard_rest(model: PeftModel, device: torch.device) -> None:
    """Divides what is outside the layers of a base whose layers are divided; the adapter stays whole.

    This part is divided again after each pass. Saving, which only the first process does, divides it in that process
    anyway, and the next gathering would then wait for processes that take no part in it.
    """
    mesh = init_device_mesh(device.type, (distributed.size(),))
    learnt = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in learnt:
        parameter.data = parameter.data.to(device)
    fully_shard(model, mesh=mesh, ignored_params=learnt, reshard_after_forward=True)


def pad_parts(model: PeftModel, parts: Sequence[Sequence[T]], spare: T) -> Iterator[tuple[Sequence[T], int]]:
    """Yields each part with 1 and, where the model is sharded, `spare` with 0, until there are as many as in the
    process with most."""
    count = distributed.max_of_all(len(parts)) if isinstance(model, FSDPModule) else len(parts)
    for part in parts:
        yield part, 1
    for _ in range(count - len(parts)):
        yield [spare], 0
