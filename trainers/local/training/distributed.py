"""Lets several processes share one training: each computes a part of every batch, all take the same step, and the first
one writes.

They are started by launch.py; a process that was started alone is a team of one, for which nothing here costs anything.
What the first process decides (a pause, a ceiling, a checkpoint's time) holds for all. Trains nothing."""

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
DOWNLOAD_TIMEOUT = timedelta(hours=12)  # the first process may have a large model to download
STEP_TIMEOUT = timedelta(minutes=30)  # in a step, where all do the same work: longer means that one hangs
_seed = 0
_slow_group: distributed.ProcessGroup | None = None


def join(seed: int) -> None:
    """Connects to the other processes. `seed` is the job's. Raises TrainingFailed where their number is wrong."""
    global _seed, _slow_group
    _seed = seed
    wanted, started = int(os.environ.get(VARIABLE, "1")), int(os.environ.get("WORLD_SIZE", "1"))
    if wanted != started:
        text = f"The job was to be trained by {wanted} processes, and its launcher started {started}."
        raise TrainingFailed("launch_incomplete", f"{text} Check the launcher.")
    if started == 1 or distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=STEP_TIMEOUT
    )
    _slow_group = distributed.new_group(backend="gloo", timeout=DOWNLOAD_TIMEOUT)


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
    """Returns this process's part of the rows. It is empty where there are fewer rows than processes."""
    return rows if is_alone() else rows[rank() :: size()]


def broadcast(value: T) -> T:
    """Returns the first process's value in all processes."""
    if is_alone():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def run_in_first(question: Callable[[], T]) -> T:
    """Returns the first process's answer in all processes. The others don't ask: they may be on machines that lack the
    files."""
    return broadcast(question() if is_first() else None)  # type: ignore[return-value]


def check_pause(pauses: Pauses) -> None:
    """Raises TrainingPaused in all processes at the same step, once the first sees the mark."""
    if run_in_first(lambda: pauses.is_requested):
        raise TrainingPaused


def step_pause_check(pauses: Pauses) -> Callable[[], None]:
    """Returns what to call at every part of a step. A team looks only between steps, where all are at the same
    place."""
    return pauses.check_pause if is_alone() else lambda: None


def any_process(flag: bool) -> bool:
    return flag if is_alone() else max_of_all(int(flag)) > 0


def max_of_all(number: int) -> int:
    """Returns the highest number of all processes."""
    return number if is_alone() else int(_reduce([float(number)], distributed.ReduceOp.MAX)[0])


def sum_all(*numbers: float) -> tuple[float, ...]:
    """Returns each number summed over the processes."""
    return numbers if is_alone() else tuple(_reduce(numbers, distributed.ReduceOp.SUM))


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sums the gradients over the processes, to what one process with all rows would have."""
    if is_alone():
        return
    learnt = list(parameters)
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in learnt]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    for each, summed in zip(learnt, torch.split(flat, [each.numel() for each in learnt]), strict=True):
        each.grad = summed.view_as(each)


def broadcast_parameters(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Gives all processes the first one's parameters."""
    if not is_alone():
        for parameter in parameters:
            distributed.broadcast(parameter.data, src=0)


def reseed(step: int) -> None:
    """Makes each process drop out differently, and a step that is repeated after a kill do the same again."""
    if not is_alone():
        torch.manual_seed(hash((_seed, step, rank())))


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Runs the block in the first process and then in the others, which find what the first left on the disk."""
    if not is_first():
        distributed.barrier(_slow_group)
    yield
    if is_first() and not is_alone():
        distributed.barrier(_slow_group)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Runs the block in one process at a time on each machine, as it takes much memory for a while."""
    turns = int(os.environ.get("LOCAL_WORLD_SIZE", size()))
    for turn in range(turns):
        if turn == rank() % turns:
            yield
        if not is_alone():
            distributed.barrier(_slow_group)


def _reduce(numbers: Sequence[float], how: distributed.ReduceOp.RedOpType) -> list[float]:
    values = torch.tensor(numbers, dtype=torch.float64)
    distributed.all_reduce(values, op=how)
    return [float(value) for value in values]
