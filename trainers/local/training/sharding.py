"""Divides a frozen base among several GPUs if one can't hold it. Each GPU has the whole adapter.

A layer's weights are gathered while the layer is computed (torch's fully_shard, ZeRO-3 of Rajbhandari et al. 2020). So
all processes must compute the same number of parts in the same order; a process with fewer parts computes dummy ones,
whose results are discarded.
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
ROOM = 1.3  # memory for the weights and for a step, as a multiple of the weights


def is_sharding_wanted(setting: Sharding, processes: int, weights: int, memory: int | None) -> bool:
    """`weights` are the bytes of the base, and `memory` those of one device, or None for a CPU. Pure."""
    if processes == 1 or setting == "none":
        return False
    if setting == "fsdp":
        return True
    if memory is None:
        return False
    return weights * ROOM > memory


def device_memory(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory


def shard_layers(base: Module, device: torch.device) -> None:
    """Moves this process's part of each layer from main memory to `device`."""
    mesh = init_device_mesh(device.type, (distributed.size(),))
    # The decoder's layers are the longest list of modules, even if a vision tower has layers too.
    lists = [list(module) for module in base.modules() if isinstance(module, ModuleList)]
    layers = max(lists, key=len, default=[])
    for layer in layers:
        fully_shard(layer, mesh=mesh)


def shard_rest(model: PeftModel, device: torch.device) -> None:
    """Divides the weights outside the layers, after shard_layers. The adapter stays whole.

    With reshard_after_forward these weights are divided again after each pass. Otherwise saving, which only the first
    process does, would divide them in that process alone, and the next gathering would wait for the others forever.
    """
    mesh = init_device_mesh(device.type, (distributed.size(),))
    learnt = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in learnt:
        parameter.data = parameter.data.to(device)
    fully_shard(model, mesh=mesh, ignored_params=learnt, reshard_after_forward=True)


def pad_parts(model: Module, parts: Sequence[Sequence[T]], spare: T) -> Iterator[tuple[Sequence[T], int]]:
    """Yields (part, 1) for each part. If the model is sharded, then yields (`spare`, 0) until all processes have the
    same number of parts."""
    count = len(parts)
    if isinstance(model, FSDPModule):
        count = distributed.max_of_all(count)
    for part in parts:
        yield part, 1
    for _ in range(count - len(parts)):
        yield [spare], 0
