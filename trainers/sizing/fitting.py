"""Whether a training fits into a machine's memory, and what would make it fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from trainers.sizing.architecture import Architecture
from trainers.sizing.machines import GPUS, Machine
from trainers.sizing.memory import MIB, Memory, Place, Work, memory_of

ROOM = 1.15  # the estimate is held to within 15% of what was measured
SHORTEST = 4  # a row cut to less than a quarter is another row
MOST_CURES = 4


@dataclass(frozen=True)
class Fit:
    """`standing`: "tight" means that it fits only if the estimate is right. `cures`: changes that would make it fit
    with room to spare, each of another kind; `least`: bytes that the smallest of all changes would take."""

    standing: Literal["fits", "tight", "too large"]
    memory: Memory
    machine: Machine
    cures: tuple[Work, ...]
    least: int

    @property
    def needed(self) -> int:
        """Bytes, with the program itself where it shares the memory."""
        return self.memory.total + self.memory.process


def fit(model: Architecture, work: Work, machine: Machine) -> Fit:
    memory = memory_of(model, work, machine.place)
    needed = memory.total + memory.process
    if needed * ROOM <= machine.memory:
        return Fit("fits", memory, machine, (), needed)
    cures, least = [], needed
    for ladder in () if work.method == "full" else _ladders(work):
        needs = [(one, _needed(model, one, machine.place)) for one in ladder]
        cures += [one for one, bytes_ in needs if bytes_ * ROOM <= machine.memory][:1]
        least = min([least, *(bytes_ for _, bytes_ in needs)])
    standing: Literal["tight", "too large"] = "tight" if needed <= machine.memory else "too large"
    return Fit(standing, memory, machine, tuple(dict.fromkeys(cures))[:MOST_CURES], least)


def as_computed(model: Architecture, work: Work, machine: Machine) -> Work:
    """What the builtin engine comes to by itself on a GPU whose memory proves too small: activations computed again,
    then fewer rows at a time, from which a step learns all the same. Where nothing fits, the least of these."""
    if machine.place.kind != "gpu" or work.pairs or work.method == "full":
        return work
    again = replace(work, checkpoints=True)
    tried = [work, again, *(replace(again, batch=batch) for batch in _halves(work.batch, 1))]
    fitting = (one for one in tried if _needed(model, one, machine.place) * ROOM <= machine.memory)
    return next(fitting, tried[-1])


def smallest_gpu(needed: int) -> str | None:
    """Of those that we know, one that takes so many bytes with room to spare."""
    large = [(mebibytes, name) for name, mebibytes in GPUS.values() if needed * ROOM <= mebibytes * MIB]
    return min(large)[1] if large else None


def _needed(model: Architecture, work: Work, place: Place) -> int:
    memory = memory_of(model, work, place)
    return memory.total + memory.process


def _ladders(work: Work) -> Iterator[list[Work]]:
    """Kinds of changes; within a kind those that change least come first."""
    small = replace(work, method="qlora", checkpoints=True)
    smallest = replace(small, batch=1)
    if not work.checkpoints:
        yield [replace(work, checkpoints=True)]
    yield [replace(work, batch=batch) for batch in _halves(work.batch, 1)]
    if work.method != "qlora":
        yield [replace(work, method="qlora")]
    yield [_shorter(work, length) for length in _halves(work.length, max(1, work.length // SHORTEST))]
    yield [small, *(replace(small, batch=batch) for batch in _halves(work.batch, 1))]
    yield [_shorter(smallest, length) for length in _halves(work.length, max(1, work.length // SHORTEST))]


def _shorter(work: Work, length: int) -> Work:
    return replace(work, length=length, answer=min(work.answer, length))


def _halves(size: int, least: int) -> Iterator[int]:
    while (size := size // 2) >= least:
        yield size
