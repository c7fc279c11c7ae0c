"""Lets several processes share one training: each computes a part of every batch, all take the same step, and only the
first one writes files.

launch.py starts them. In a process that was started alone these functions do nothing. Decisions of the first process
(to pause, to stop at a ceiling, to save a checkpoint) apply to all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch
from torch import distributed

from trainers.local.launch import PROCESSES_VARIABLE
from trainers.local.training.errors import Pauses, TrainingFailed, TrainingPaused
from trainers.local.turns import TrainingTurns, training_turns

T = TypeVar("T")
DOWNLOAD_TIMEOUT = timedelta(hours=12)  # for waits while the first process may download a large model
STEP_TIMEOUT = timedelta(minutes=30)  # in a step all do the same work, so a longer wait means that one hangs
_seed = 0
_slow_group: distributed.ProcessGroup | None = None


def join(seed: int) -> None:
    """Connects to the other processes. `seed` is the job's. Raises TrainingFailed if their number is wrong."""
    global _seed, _slow_group
    _seed = seed
    wanted = int(os.environ.get(PROCESSES_VARIABLE, "1"))
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted != started:
        text = f"The job needs {wanted} processes, and its launcher started {started}."
        raise TrainingFailed("launch_incomplete", f"{text} Check the launcher.")
    if started == 1 or distributed.is_initialized():
        return
    backend = "gloo"
    device = None
    if torch.cuda.is_available():
        # Before the group is made, or every process would use the first GPU.
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    # With its device NCCL connects at once, instead of in the first step, and doesn't have to guess it.
    distributed.init_process_group(backend, timeout=STEP_TIMEOUT, device_id=device)
    _slow_group = distributed.new_group(backend="gloo", timeout=DOWNLOAD_TIMEOUT)


def leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def size() -> int:
    if not distributed.is_initialized():
        return 1
    return distributed.get_world_size()


def is_alone() -> bool:
    return size() == 1


def rank() -> int:
    if not distributed.is_initialized():
        return 0
    return distributed.get_rank()


def is_first() -> bool:
    return rank() == 0


def share(rows: Sequence[T], tokens: Callable[[T], int]) -> Sequence[T]:
    """Returns this process's part of the rows, in their order. It may be empty if there are fewer rows than processes.
    All parts have about as many `tokens`, since a step takes as long as the longest."""
    if is_alone():
        return rows
    return divide(rows, size(), tokens)[rank()]


def divide(rows: Sequence[T], count: int, tokens: Callable[[T], int]) -> list[list[T]]:
    """Deals the longest row first, each to the part that is shortest by then (Graham 1969). Pure."""
    lengths = [tokens(row) for row in rows]
    parts: list[list[int]] = [[] for _ in range(count)]
    sums = [0] * count
    for index in sorted(range(len(rows)), key=lambda index: -lengths[index]):
        shortest = sums.index(min(sums))
        parts[shortest].append(index)
        sums[shortest] += lengths[index]
    return [[rows[index] for index in sorted(part)] for part in parts]


def broadcast(value: T) -> T:
    """Returns the first process's value in all processes."""
    if is_alone():
        return value
    box = [value]
    # On the CPU, so that gloo sends it: NCCL needs everything on a GPU.
    distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def run_in_first(question: Callable[[], T]) -> T:
    """Calls `question` in the first process and returns its result in all. The others may run on machines without the
    files."""
    answer = question() if is_first() else None
    return broadcast(answer)  # type: ignore[return-value]


def check_pause(pauses: Pauses) -> None:
    """Raises TrainingPaused in all processes at the same step, once the first process sees the pause mark."""
    if run_in_first(lambda: pauses.is_requested):
        raise TrainingPaused


def step_pause_check(pauses: Pauses) -> Callable[[], None]:
    """Returns the function to call before every part of a step: it checks for a pause, and lets a server on the same
    processor answer. Several processes check for a pause only between steps, where all are at the same point, so they
    get a function that does nothing."""
    if not is_alone():
        return lambda: None
    turns = training_turns()
    if turns is None:
        return pauses.check_pause
    return partial(_take_turn, turns, pauses)


def _take_turn(turns: TrainingTurns, pauses: Pauses) -> None:
    pauses.check_pause()
    turns.take(pauses.check_pause)


def any_process(flag: bool) -> bool:
    """Returns True in all processes if the flag is set in any."""
    return max_of_all(int(flag)) > 0


def max_of_all(number: int) -> int:
    """Returns the highest of a number in all processes."""
    if is_alone():
        return number
    (highest,) = _reduce([float(number)], distributed.ReduceOp.MAX)
    return int(highest)


def sum_all(*numbers: float) -> tuple[float, ...]:
    """Returns each number summed over the processes."""
    if is_alone():
        return numbers
    return tuple(_reduce(numbers, distributed.ReduceOp.SUM))


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sums the gradients over the processes, as if one process had computed all rows."""
    if is_alone():
        return
    learnt = list(parameters)
    # A process without a row in this step has no gradients.
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in learnt]
    # As one tensor, since each message costs a round trip.
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    sums = torch.split(flat, [each.numel() for each in learnt])
    for each, summed in zip(learnt, sums, strict=True):
        each.grad = summed.view_as(each)


def broadcast_parameters(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Gives all processes the first one's parameters."""
    if not is_alone():
        for parameter in parameters:
            distributed.broadcast(parameter.data, src=0)


def reseed(step: int) -> None:
    """Gives each process its own dropout, and makes a step that is repeated after a kill the same as before."""
    if not is_alone():
        torch.manual_seed(hash((_seed, step, rank())))


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Runs the block in the first process and then in the others, which find the first one's files on the disk."""
    if not is_first():
        distributed.barrier(_slow_group)
    yield
    if is_first() and not is_alone():
        distributed.barrier(_slow_group)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Runs the block in one process at a time on each machine, because it needs much memory for a while."""
    turns = int(os.environ.get("LOCAL_WORLD_SIZE", size()))
    for turn in range(turns):
        if turn == rank() % turns:
            yield
        if not is_alone():
            distributed.barrier(_slow_group)


def _reduce(numbers: Sequence[float], how: distributed.ReduceOp.RedOpType) -> list[float]:
    # float32 would round sums of many tokens.
    values = torch.tensor(numbers, dtype=torch.float64)
    distributed.all_reduce(values, op=how)
    return [float(value) for value in values]
