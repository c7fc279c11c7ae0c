"""Supervised fine-tuning, with LoRA or of all weights: the loss on the supervised tokens of packed or padded chats."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainers.local.job_directory import TrainingJob
from trainers.local.training import distributed, loop
from trainers.local.training.base_model import add_lora
from trainers.local.training.checkpoints import CHECKPOINT_S, resume_from_adapter
from trainers.local.training.data import Row, by_length, row_lengths
from trainers.local.training.errors import Pauses
from trainers.local.training.loop import TrainingMethod, TrainState
from trainers.local.training.metrics_logger import MetricsLogger, Scores
from trainers.local.training.new_adapter import check_sharded_adapter
from trainers.local.training.packing import (
    Abilities,
    Loss,
    Pack,
    fill_packs,
    fill_padded,
    measure,
    pack_rows,
    pad_rows,
    padded_width,
    usual_tokens,
    width,
)
from trainers.local.training.setup import TrainingSetup, prepare_training
from trainers.local.training.sharding import pad_parts, shard_rest
from trainers.methods import METHODS

BUILT_AHEAD = ("cuda", "mps")


def train(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Trains the job in `folder` and ends with adapter/ and DONE. Raises TrainingFailed or TrainingPaused."""
    loop.train(folder, job, prepare, Sft.metrics, checkpoint_s)


def prepare(folder: Path, job: TrainingJob, logger: MetricsLogger, pauses: Pauses) -> Sft:
    setup = prepare_training(folder, job, logger, pauses)
    return create_method(folder, job, setup)


def create_method(folder: Path, job: TrainingJob, setup: TrainingSetup) -> Sft:
    """Adds a new adapter to the base, or loads that of the tuned model which the job trains further, or makes the
    base's own weights learn. `folder` may be a trial's."""
    torch.manual_seed(job.seed)  # here, so that each trial of a sweep begins like a single job
    if METHODS[job.method].leaves_model:
        model = setup.base.requires_grad_(True)
    elif job.continues:
        model = resume_from_adapter(folder, setup.base, job.settings)
    else:
        model = add_lora(setup.base, job.settings)
    if setup.is_sharded:
        shard_rest(model, setup.device)
        if not job.continues:
            check_sharded_adapter(model)
    return Sft(model, setup)


class Sft(TrainingMethod[Row, Scores]):
    """The loss is the mean over the batch's supervised tokens, in nats. The accuracy is the share of these tokens that
    the model predicts as the likeliest."""

    forward_share = 1 / 3

    def __init__(self, model: Any, setup: TrainingSetup) -> None:
        self.model = model
        self.rows = setup.training.rows
        self.validation: Sequence[Row] = ()
        if setup.validation:
            self.validation = setup.validation.rows
        self.able = setup.able
        self.device = setup.device
        self.dtype = setup.dtype
        self.packs = setup.able.combines
        self.is_sharded = setup.is_sharded
        self.usual_tokens = usual_tokens(setup.device, setup.able)
        self.first_room = setup.first_room
        build = partial(build_pack, model=model, able=setup.able, dtype=setup.dtype)
        self._packs = PacksAhead(build, setup.device)
        self._next_parts: Sequence[Sequence[Row]] = ()
        self.looks_ahead = self._packs.is_on

    def tokens(self, rows: Sequence[Row]) -> int:
        return int(row_lengths(rows).sum())

    def line(self, row: Row) -> int | None:
        return row.line

    def width(self, rows: Sequence[Row]) -> int:
        if self.able.pads:
            return padded_width(rows)
        return width(rows)

    def fill(self, rows: Sequence[Row], limit: int) -> list[list[Row]]:
        if self.able.pads:
            return fill_padded(rows, limit, self.device)
        return fill_packs(rows, limit)

    def look_ahead(self, parts: Sequence[Sequence[Row]]) -> None:
        self._next_parts = parts[:1]

    def add_gradients(
        self, state: TrainState[Row, Scores], parts: list[list[Row]], batch: Sequence[Row]
    ) -> Scores:
        """Returns this process's share of the batch's mean loss and of its accuracy."""
        # All processes divide by the tokens of the batch, so that their gradients add up to that of its mean loss.
        supervised = [sum(row.supervised) for row in batch]
        targets = sum(supervised)
        loss = 0.0
        right = 0
        # `counts` is 0 for a part that is computed only because another process has one more.
        padded = list(pad_parts(self.model, parts, batch[0]))
        self._packs.plan([*(rows for rows, _ in padded), *self._next_parts])
        for rows, counts in padded:
            state.check_pause()
            with state.cores.shared():
                part = measure_rows(self.model, rows, self.able, self.dtype, self._packs)
                share = part.total * counts / targets
                state.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
            loss += counts * part.total.item() / targets
            right += counts * part.right
        return Scores(loss, right / targets)

    def total(self, computed: Scores) -> Scores:
        loss, accuracy = distributed.sum_all(computed.loss, computed.accuracy or 0.0)
        return Scores(loss, accuracy)

    def evaluate(self, state: TrainState[Row, Scores]) -> Scores:
        self.model.eval()
        ordered = by_length(self.validation)
        shortest = ordered[0]  # the cheapest one to compute in vain

        def measure_all(parts: list[list[Row]]) -> list[Loss]:
            losses = []
            padded = list(pad_parts(self.model, parts, shortest))
            self._packs.plan(rows for rows, _ in padded)
            for rows, counts in padded:
                state.check_pause()
                with state.cores.shared(), torch.no_grad():
                    loss = measure_rows(self.model, rows, self.able, self.dtype, self._packs)
                losses += [loss] * counts
            return losses

        own = distributed.share(ordered, lambda row: len(row.ids))
        losses = state.batcher.compute_in_parts(own, measure_all, "while validating", keeps_activations=False)
        total, right, targets = distributed.sum_all(
            sum(loss.total.item() for loss in losses),
            sum(loss.right for loss in losses),
            sum(loss.tokens for loss in losses),
        )
        return Scores(total / targets, right / targets)


class PacksAhead:
    """Builds the next pack in a thread while the device computes this one, which for 8,192 tokens takes some
    milliseconds of Python. Not on a CPU, where the step itself needs the cores."""

    def __init__(self, build: Callable[[Sequence[Row]], Pack], device: torch.device) -> None:
        self._build = build
        self._thread: ThreadPoolExecutor | None = None
        if device.type in BUILT_AHEAD:
            self._thread = ThreadPoolExecutor(1, "packs")
        self._coming: deque[Sequence[Row]] = deque()
        self._begun: tuple[Sequence[Row], Future[Pack]] | None = None

    @property
    def is_on(self) -> bool:
        return self._thread is not None

    def plan(self, parts: Iterable[Sequence[Row]]) -> None:
        """Says which packs will be taken, in their order. Others may be taken all the same."""
        self._coming = deque(parts)

    def take(self, rows: Sequence[Row]) -> Pack:
        """Returns the pack of these rows, and begins to build the next one of the plan."""
        begun = self._begun
        self._begun = None
        if self._coming and _are_same(self._coming[0], rows):
            self._coming.popleft()
        if begun is not None and _are_same(begun[0], rows):
            pack = begun[1].result()
        else:
            pack = self._build(rows)
        if self._thread is not None and self._coming:
            following = self._coming[0]
            self._begun = (following, self._thread.submit(self._build, following))
        return pack


def _are_same(rows: Sequence[Row], others: Sequence[Row]) -> bool:
    """Compares the rows by identity, since comparing all tokens would take as long as packing them."""
    return len(rows) == len(others) and all(map(operator.is_, rows, others))


def build_pack(rows: Sequence[Row], *, model: Any, able: Abilities, dtype: torch.dtype) -> Pack:
    """Builds a pack for computing in `dtype`."""
    weight = next(model.parameters())
    if able.pads:
        return pad_rows(rows, weight.device)
    return pack_rows(
        rows,
        weight.device,
        dtype,
        by_rows=able.by_rows,
        by_blocks=able.by_blocks,
    )


def measure_rows(
    model: Any,
    rows: Sequence[Row],
    able: Abilities,
    dtype: torch.dtype,
    packs: PacksAhead | None = None,
) -> Loss:
    """Computes the loss of the rows in `dtype`. Their pack may come from `packs`. autocast is needed because learnt
    weights are in float32 and frozen ones in `dtype`."""
    device = next(model.parameters()).device
    if packs is None:
        pack = build_pack(rows, model=model, able=able, dtype=dtype)
    else:
        pack = packs.take(rows)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return measure(model, pack, able)
