"""Several processes at one training: each has a part of every batch, all take the same step, the first one writes.

Started by launch.py; a process that was started alone is a team of one, for which all here is free. What the first
process decides (a pause, a ceiling, a checkpoint's time) is decided for all. Trains nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from trainers.local.launch import VARIABLE
from trainers.local.training.errors import Pauses, TrainingFailed, TrainingPaused

T = TypeVar("T")
PATIENCE = timedelta(hours=12)  # the first process may have a large model to download
TIMEOUT = timedelta(minutes=30)  # in a step, where all do as much; then one hangs, and the others end
_seed = 0
_patient: distributed.ProcessGroup | None = None


def join(seed: int) -> None:
    """Meet the others. `seed` is the job's. Raises TrainingFailed where they are not as many as were wanted."""
    global _seed, _patient
    _seed = seed
    wanted, value = int(os.environ.get(VARIABLE, "1")), int(os.environ.get("WORLD_SIZE", "1"))
    if wanted != value:
        text = f"The job was to be trained by {wanted} processes, and its launcher started {value}. Check the launcher."
        raise TrainingFailed("launch_incomplete", text)
    if value == 1 or distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT
    )
    _patient = distributed.new_group(backend="gloo", timeout=PATIENCE)


def leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_alone() -> bool:
    return size() == 1


def is_first() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def share(rows: Sequence[T]) -> Sequence[T]:
    """This process's part; together they are all, each once. Empty where there are fewer rows than processes."""
    return rows if is_alone() else rows[rank() :: size()]


def decide(value: T) -> T:
    """The first process's value, in all."""
    if is_alone():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def ask_first(question: Callable[[], T]) -> T:
    """The first process's answer, in all; nobody else is asked, as where the disk of its machine knows it."""
    return decide(question() if is_first() else None)  # type: ignore[return-value]


def look(pauses: Pauses) -> None:
    """Raises TrainingPaused in all processes at the same step, where the first finds the mark."""
    if ask_first(lambda: pauses.is_wanted):
        raise TrainingPaused


def look_in_step(pauses: Pauses) -> Callable[[], None]:
    """To be asked at every part of a step. A team is asked between steps alone, where all are at the same place."""
    return pauses.look if is_alone() else lambda: None


def any_of(flag: bool) -> bool:
    return flag if is_alone() else maximum(int(flag)) > 0


def maximum(number: int) -> int:
    """The highest of all processes."""
    return number if is_alone() else int(_reduced([float(number)], distributed.ReduceOp.MAX)[0])


def sum_all(*numbers: float) -> tuple[float, ...]:
    """Each summed over the processes."""
    return numbers if is_alone() else tuple(_reduced(numbers, distributed.ReduceOp.SUM))


def add_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients over the processes: what one process with all rows would have."""
    if is_alone():
        return
    learnt = list(parameters)
    flat = torch.cat([_gradient(each).flatten() for each in learnt])
    distributed.all_reduce(flat)
    for each, summed in zip(learnt, torch.split(flat, [each.numel() for each in learnt]), strict=True):
        each.grad = summed.view_as(each)


def broadcast_parameters(parameters: Iterable[torch.nn.Parameter]) -> None:
    """All begin with the first one's numbers."""
    for each in parameters if not is_alone() else ():
        distributed.broadcast(each.data, src=0)


def reseed(step: int) -> None:
    """Each process drops out differently, and a step that is repeated after a kill does as before."""
    if not is_alone():
        torch.manual_seed(hash((_seed, step, rank())))


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """The others do it once the first has: what it leaves on the disk is theirs too."""
    if not is_first():
        distributed.barrier(_patient)
    yield
    if is_first() and not is_alone():
        distributed.barrier(_patient)


@contextmanager
def one_after_the_other() -> Iterator[None]:
    """What takes much of a machine's memory for a while is done by one process at a time on each."""
    turns = int(os.environ.get("LOCAL_WORLD_SIZE", size()))
    for turn in range(turns):
        if turn == rank() % turns:
            yield
        if not is_alone():
            distributed.barrier(_patient)


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _reduced(numbers: Sequence[float], how: distributed.ReduceOp.RedOpType) -> list[float]:
    values = torch.tensor(numbers, dtype=torch.float64)
    distributed.all_reduce(values, op=how)
    return [float(value) for value in values]
