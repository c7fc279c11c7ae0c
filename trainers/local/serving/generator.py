"""The built-in engine: generation in one thread of the server's process, which gathers requests for the same base model
into batches. torch and the models are loaded in that thread at the first request, so that the server answers all else
at once. What waits is bounded: beyond that a request is refused, with a time after which it is worth trying again."""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from trainers.local.api_errors import ApiError
from trainers.local.launch import quick_imports
from trainers.local.serving.answers import busy, check_queue, prepare
from trainers.local.serving.values import (
    MAX_ADAPTERS,
    EmbeddingRequest,
    PendingRequest,
    Request,
    Ticket,
    Weights,
)
from trainers.log_lines import new_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainers.local.serving.model_cache import Base, ModelCache
    from trainers.local.serving.sequences import Row

# CPU seconds an answer (135M, bf16, labels of 2 to 4 tokens): 0.34 alone, 0.12 of 16, 0.11 of 32, 0.10 of 64
MAX_BATCH_ROWS = 32
MAX_BATCH_TOKENS = 16_384  # rows times longest prompt: bounds the pass that reads them
# Callers that come back for more are waited for. Without that, 16 callers in one Python process fell apart into
# batches of 15 and 1, or of 3 and 13, and got 12 answers a second instead of 15.
RETURN_S = 0.06
QUIET_S = 0.005
GATHER_S = 0.2
BUSY_RETRY_S = 30
LOOK_S = 1.0  # how often an idle generator looks whether a job needs the GPU

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """For one batch. `tokens`: of prompts and answers together, all rows as long as the longest."""

    rows: int
    tokens: int


def choose_batch(waiting: Sequence[Row], room: BatchLimits, *, mixes: bool) -> list[Row]:
    """The row that waited longest, and those over the same base with prompts nearest to its length. Where adapters
    can't be mixed, only those with the same one. Empty where not even the first fits."""
    if not waiting or waiting[0].size > room.tokens:
        return []
    oldest = waiting[0]
    same = [row for row in waiting if _go_together(oldest, row, mixes)]
    same.sort(key=lambda row: abs(len(row.prompt) - len(oldest.prompt)))
    return fill_batch([], [oldest, *(row for row in same if row is not oldest)], room)


def fill_batch(present: Sequence[Row], candidates: Sequence[Row], room: BatchLimits) -> list[Row]:
    """Of `candidates`, over the same base, those that still fit beside `present`, in their order."""
    batch, added = list(present), []
    for row in candidates:
        if len(batch) >= room.rows or not _fits([*batch, row], room):
            break
        batch.append(row)
        added.append(row)
    return added


def _go_together(row: Row, other: Row, mixes: bool) -> bool:
    mine, theirs = row.request.target, other.request.target
    return mine.weights == theirs.weights and (mixes or mine.adapter == theirs.adapter)


def _fits(batch: Sequence[Row], room: BatchLimits) -> bool:
    if len(batch) == 1:
        return batch[0].size <= room.tokens
    return (
        len(batch) * max(len(row.prompt) for row in batch) <= MAX_BATCH_TOKENS
        and len(batch) * max(row.size for row in batch) <= room.tokens
        and len({row.request.target.adapter for row in batch}) <= MAX_ADAPTERS
    )


class Generator:
    """`is_training`: whether a job has a process on the GPU that answers, or on a machine without any."""

    def __init__(self, is_training: Callable[[], bool] = lambda: False) -> None:
        self._is_training = is_training
        self._inbox: queue.SimpleQueue[PendingRequest | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # over the thread's start and what lies in the inbox
        self._in_inbox = 0  # rows
        self._stopping = False
        # What follows is the thread's own; others read lengths.
        self._later: list[PendingRequest] = []  # came while a batch ran that they have no part in
        self._waiting: list[Row] = []
        self._batch: list[Row] = []
        self._callers = 0  # how many rows there were when the last batch began
        self._most_rows = MAX_BATCH_ROWS  # less after a batch that ran out of memory
        self._rows_a_second = 1.0
        self._shelf: ModelCache | None = None

    def submit(self, request: PendingRequest) -> Ticket:
        """Raises Problem (503) where too much waits already."""
        with self._lock:
            open_rows = self._in_inbox + len(self._waiting) + len(self._batch)
            check_queue(open_rows, request.rows, self._rows_a_second)
            self._in_inbox += request.rows
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="generator", daemon=True)
                self._thread.start()
        self._inbox.put(request)
        return request.ticket

    def stop(self, timeout_s: float = 10.0) -> None:
        self._stopping = True
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping:
            with self._boundary(self._give_up):
                self._take_turn()

    def _take_turn(self) -> None:
        self._prepare_all(self._gather(len(self._waiting)))
        self._make_way()
        self._waiting = [row for row in self._waiting if not row.request.ticket.is_abandoned]
        if self._waiting:
            self._answer_some()

    def _give_up(self) -> Sequence[PendingRequest]:
        """Anyone who waits, after a fault that is no request's own. The models are loaded again for the next one."""
        owners = [row.request for row in (*self._waiting, *self._batch) if not row.is_done]
        self._waiting, self._batch, self._shelf = [], [], None
        return owners

    def _gather(self, waiting: int) -> list[PendingRequest]:
        """What lies in the inbox, and while the batch isn't full, what comes in quick succession."""
        requests, self._later = self._later, []
        deadline = time.monotonic() + GATHER_S
        while True:
            is_idle = not waiting and not requests
            present = waiting + sum(each.rows for each in requests)
            try:
                request = self._inbox.get(timeout=LOOK_S if is_idle else self._patience(present, deadline))
            except queue.Empty:
                return requests
            if request is None:  # the end
                return requests
            if is_idle:
                deadline = time.monotonic() + GATHER_S
            requests.append(request)

    def _patience(self, present: int, deadline: float) -> float:
        """How many seconds to wait for one request more."""
        if present >= MAX_BATCH_ROWS or time.monotonic() > deadline:
            return 0
        return RETURN_S if present < self._callers else QUIET_S

    def _prepare_all(self, requests: Iterable[PendingRequest]) -> None:
        for request in requests:
            with self._boundary(lambda request=request: [request]):  # type: ignore[misc]
                if isinstance(request, EmbeddingRequest):
                    self._embed(request)
                elif not request.ticket.is_abandoned:
                    self._waiting += self._prepare(request)
            with self._lock:
                self._in_inbox -= request.rows

    def _prepare(self, request: Request) -> list[Row]:
        from trainers.local.serving.sequences import Row

        base = self._open_shelf().base(request.target.weights)
        vocabulary = base.vocabulary
        preparation = prepare(request, vocabulary, base.context)
        guide = vocabulary.guide(preparation.grammar) if preparation.grammar else None
        return [Row(request, index, preparation, vocabulary, guide) for index in range(request.rows)]

    def _embed(self, request: EmbeddingRequest) -> None:
        if request.target.adapter is not None:
            text = "A fine-tuned model chats; it makes no embeddings."
            raise ApiError(404, text, "model_cannot_embed", "model")
        request.emit(self._open_shelf().embedder(request.target.base).embed(request.texts))

    def _answer_some(self) -> None:
        """A batch, to its end."""
        first = self._waiting[0]
        self._batch = []
        with self._boundary(lambda: [row.request for row in self._batch or [first] if not row.is_done]):
            base = self._open_shelf().base(first.request.target.weights)
            room = self._room(base)
            chosen = choose_batch(self._waiting, room, mixes=base.mixes)
            if not chosen:
                raise _too_long_for_memory(first, room)
            self._callers = len(self._waiting)
            if self._take(base, chosen, ()):
                self._decode(base)
        self._batch = []

    def _take(self, base: Base, chosen: Sequence[Row], alive: Sequence[Row]) -> list[Row]:
        """Out of the queue into the batch: those whose adapters can be had."""
        taken = set(map(id, chosen))
        self._waiting = [row for row in self._waiting if id(row) not in taken]
        in_use = {row.request.target.adapter for row in (*alive, *chosen)}
        held: list[Row] = []
        for row in chosen:
            with self._boundary(lambda row=row: [row.request]):  # type: ignore[misc]
                base.hold(row.request.target.adapter, in_use)
                held.append(row)
        if not base.mixes:  # known only when an adapter is there
            held = self._keep_one_adapter([*alive, *held], held)
        self._batch += held
        return held

    def _keep_one_adapter(self, together: Sequence[Row], held: Sequence[Row]) -> list[Row]:
        """Of `held`, those that wear what the first of all wears; the others wait on."""
        worn = together[0].request.target.adapter if together else None
        self._waiting[:0] = [row for row in held if row.request.target.adapter != worn]
        return [row for row in held if row.request.target.adapter == worn]

    def _decode(self, base: Base) -> None:
        from trainers.local.serving.decoding import decode
        from trainers.local.training.memory import is_out_of_memory

        began, is_short = time.monotonic(), False
        try:
            with self._open_shelf().cores.shared():
                decode(base, self._batch, partial(self._newcomers, base))
        except (
            RuntimeError,
            MemoryError,
        ) as error:  # its traceback holds the tensors until this block is left
            if not is_out_of_memory(error):
                raise
            is_short = True
        if is_short:
            return self._halve(base)
        self._most_rows = min(MAX_BATCH_ROWS, self._most_rows + 1)
        self._rows_a_second = max(0.05, len(self._batch) / (time.monotonic() - began))

    def _halve(self, base: Base) -> None:
        """Back into the queue, at its head: the next batch has half as many rows, and goes on where they stopped."""
        left = [row for row in self._batch if not row.is_done]
        base.forget()
        if len(left) < 2:
            text = "This answer needs more memory than there is. Shorten it, or try again when less goes on here."
            raise busy(text, "out_of_memory", BUSY_RETRY_S)
        self._most_rows = len(left) // 2
        log.warning("out of memory with %d answers at a time; going on with %d", len(left), self._most_rows)
        self._waiting[:0] = left
        self._batch = []

    def _newcomers(self, base: Base, alive: Sequence[Row]) -> Sequence[Row]:
        """Who joins a batch that runs: over the same base, as far as there is room. Raises MemoryError before answers
        without a limit have taken all of it."""
        from trainers.local.serving.decoding import STEPS_BETWEEN_LOOKS

        grows = any(row.request.sampling.max_tokens is None for row in alive)
        if grows and self._room(base).tokens < len(alive) * STEPS_BETWEEN_LOOKS:
            raise MemoryError("out of memory for the next tokens of this batch")
        weights = alive[0].request.target.weights
        self._prepare_all(self._arrived(weights))
        same = [row for row in self._waiting if row.request.target.weights == weights]
        wanted = [row for row in same if not row.request.ticket.is_abandoned]
        return self._take(base, fill_batch(alive, wanted, self._room(base)), alive)

    def _arrived(self, weights: Weights) -> list[PendingRequest]:
        """Chats with this base. All else would load another model beside the one that is at work."""
        requests: list[PendingRequest] = []
        while not self._inbox.empty():
            request = self._inbox.get()
            if isinstance(request, Request) and request.target.weights == weights:
                requests.append(request)
            elif request is not None:  # the end is seen by _stopping
                self._later.append(request)
        return requests

    def _room(self, base: Base) -> BatchLimits:
        from trainers.local.serving.memory import free_bytes, tokens_that_fit

        free = free_bytes(base.device)
        return BatchLimits(
            self._most_rows, sys.maxsize if free is None else tokens_that_fit(free, base.bytes_a_token)
        )

    def _make_way(self) -> None:
        """For a job that trains on the same GPU."""
        if self._shelf is None:
            return
        from trainers.local.serving.memory import limit_to_share

        if not limit_to_share(self._shelf.device, self._is_training()):
            log.info(
                "a job trains on this GPU: models are put away, and loaded again where they fit beside it"
            )
            self._shelf.clear()

    @contextmanager
    def _boundary(self, owners: Callable[[], Sequence[PendingRequest]]) -> Iterator[None]:
        """The thread must outlive every request: what goes wrong is told to those it happened to."""
        try:
            yield
            return
        except ApiError as problem:
            outcome = problem
        except BaseException as error:  # a library's SystemExit too: all callers would wait for a dead thread
            outcome = self._explained(error)
        for owner in {id(owner): owner for owner in owners()}.values():
            owner.emit(outcome)
            owner.ticket.abandon()

    def _explained(self, error: BaseException) -> ApiError:
        from trainers.local.training.memory import is_out_of_memory

        if is_out_of_memory(error):
            log.warning("loading a model: out of memory")
            beside = "beside the job that trains" if self._is_training() else "beside what else goes on here"
            text = f"The model does not fit into memory {beside}. Try again later."
            return busy(text, "out_of_memory", BUSY_RETRY_S)
        reference = new_reference()
        log.exception("generating", extra={"ref": reference})
        text = f"The model could not answer. The trainer's log says why, under reference {reference}."
        return ApiError(500, text, "generation_failed", kind="server_error")

    def _open_shelf(self) -> ModelCache:
        if self._shelf is None:
            with quick_imports():
                from trainers.local.serving.model_cache import ModelCache

            self._shelf = ModelCache()
        return self._shelf


def _too_long_for_memory(row: Row, room: BatchLimits) -> ApiError:
    text = (
        f"This answer may come to {row.size:,} tokens, for which there is no memory now ({room.tokens:,} would fit). "
        "Lower 'max_tokens', shorten the messages, or try again later."
    )
    return busy(text, "out_of_memory", BUSY_RETRY_S)
