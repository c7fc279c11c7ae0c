"""The built-in engine: one thread of the server's process generates text, and batches requests for the same base model.
torch and the models are loaded in that thread at the first request, so that the server answers other requests at once.
The queue is bounded: beyond its limit a request is refused, with a time after which to try again."""

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

from trainers.http.errors import ApiError
from trainers.local.launch import quick_imports
from trainers.local.serving.answers import busy_error, check_queue, internal_error, prepare
from trainers.local.serving.values import (
    MAX_ADAPTERS,
    EmbeddingRequest,
    PendingRequest,
    Request,
    Ticket,
)
from trainers.local.turns import AnswerTurns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trainers.local.serving.model_cache import Base, ModelCache
    from trainers.local.serving.sequences import Row

# CPU seconds per answer (135M, bf16, labels of 2 to 4 tokens), by rows per batch: 0.34 with 1, 0.12 with 16, 0.11 with
# 32, 0.10 with 64.
MAX_BATCH_ROWS = 32
MAX_BATCH_TOKENS = 16_384  # rows times the longest prompt, which bounds the pass that reads them
# A batch waits briefly for callers that send their next request at once. Without that, 16 callers in one Python process
# fell apart into batches of 15 and 1, or of 3 and 13, and got 12 answers per second instead of 15.
RETURN_S = 0.06
QUIET_S = 0.005
GATHER_S = 0.2
BUSY_RETRY_S = 30
STOP_S = 1.0
# How long a job goes on waiting after an answer, for a caller that asks again at once.
LINGER_S = 0.15
IDLE_POLL_S = 1.0  # how often an idle generator checks whether a job needs the GPU

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """Limits of one batch. `tokens` counts prompts and answers together, with each row as long as the longest."""

    rows: int
    tokens: int


def choose_batch(waiting: Sequence[Row], room: BatchLimits, *, can_mix: bool) -> list[Row]:
    """Returns the row that has waited longest, with rows for the same base whose prompts are closest in length. Unless
    adapters can be mixed, all have the same one. Returns an empty list if not even the first row fits."""
    if not waiting or waiting[0].size > room.tokens:
        return []
    oldest = waiting[0]
    target = oldest.request.target
    others = [row for row in waiting[1:] if row.request.target.weights == target.weights]
    if not can_mix:
        others = [row for row in others if row.adapter == target.adapter]
    others.sort(key=lambda row: abs(len(row.prompt) - len(oldest.prompt)))
    return fill_batch([], [oldest, *others], room)


def fill_batch(present: Sequence[Row], waiting: Sequence[Row], room: BatchLimits) -> list[Row]:
    """Returns the first of `waiting`, for the same base, that still fit into the batch with `present`."""
    batch = list(present)
    for row in waiting:
        rows = [*batch, row]
        if not _fits(rows, room):
            break
        batch = rows
    return batch[len(present) :]


def _fits(rows: Sequence[Row], room: BatchLimits) -> bool:
    """True if these rows can be a batch, in which each takes as many tokens as the longest."""
    tokens = len(rows) * max(row.size for row in rows)
    prompt_tokens = len(rows) * max(len(row.prompt) for row in rows)
    if len(rows) > room.rows or tokens > room.tokens:
        return False
    if prompt_tokens > MAX_BATCH_TOKENS and len(rows) > 1:  # a longer prompt is answered alone
        return False
    return len({row.adapter for row in rows}) <= MAX_ADAPTERS


class Generator:
    """`is_training` returns True if a job uses the same GPU as this process, or the CPU if there is no GPU. `turns` is
    the folder of the locks by which answers and such a job take turns."""

    def __init__(self, is_training: Callable[[], bool] = lambda: False, turns: Path | None = None) -> None:
        self._is_training = is_training
        self._turns = AnswerTurns(turns)
        self._inbox: queue.SimpleQueue[PendingRequest | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # guards the thread's start and the count of the inbox
        self._in_inbox = 0  # rows
        self._stopping = False
        self._forgets = threading.Event()
        # These belong to the generator's thread; other threads only read lengths.
        self._later: list[PendingRequest] = []  # came during a batch that they can't join
        self._waiting: list[Row] = []
        self._batch: list[Row] = []
        self._answered = 0  # rows that left the current batch when others joined
        self._callers = 0  # rows that waited when the last batch began
        self._most_rows = MAX_BATCH_ROWS  # less after a batch that ran out of memory
        self._rows_per_second = 1.0
        self._models: ModelCache | None = None
        self._has_turn = False  # since the last batch

    def submit(self, request: PendingRequest) -> Ticket:
        """Raises ApiError (503) if too many answers are queued already."""
        with self._lock:
            rows = (*self._waiting, *self._batch)  # answered rows stay in a batch until others join it
            open_rows = self._in_inbox + sum(not row.is_done for row in rows)
            check_queue(open_rows, request.rows, self._rows_per_second)
            self._in_inbox += request.rows
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="generator", daemon=True)
                self._thread.start()
        self._inbox.put(request)
        return request.ticket

    def forget_texts(self) -> None:
        """Tells the thread to drop what it keeps of prompts and answers, which it does within a second, or before the
        next tokens of a running batch are looked at."""
        self._forgets.set()

    def stop(self) -> None:
        """Gives the thread a moment to stop; a running batch ends with the process (`__main__.serve`)."""
        self._stopping = True
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping:
            with self._boundary(self._give_up):
                self._prepare_all(self._gather())
                self._drop_kept_texts()
                self._unload_for_training()
                self._waiting = [row for row in self._waiting if not row.request.ticket.is_abandoned]
                if self._waiting:
                    self._answer_batch()

    def _give_up(self) -> Sequence[PendingRequest]:
        """Drops and returns all waiting requests, after a fault that none of them caused. The next request loads the
        models again."""
        requests = [row.request for row in (*self._waiting, *self._batch) if not row.is_done]
        self._waiting = []
        self._batch = []
        self._models = None
        return requests

    def _gather(self) -> list[PendingRequest]:
        """Returns the requests in the inbox, and those that follow in quick succession, until a batch is full."""
        requests = self._later
        self._later = []
        deadline = time.monotonic() + GATHER_S
        while True:
            rows = len(self._waiting) + sum(request.rows for request in requests)
            is_idle = not self._waiting and not requests
            if is_idle and self._has_turn:
                patience_s = LINGER_S
            elif is_idle:
                patience_s = IDLE_POLL_S
            elif rows >= MAX_BATCH_ROWS or time.monotonic() > deadline:
                patience_s = 0.0
            elif rows < self._callers:  # those of the last batch may ask again
                patience_s = RETURN_S
            else:
                patience_s = QUIET_S
            try:
                request = self._inbox.get(timeout=patience_s)
            except queue.Empty:
                if is_idle:
                    self._end_turn()
                return requests
            if request is None:  # from `stop`
                return requests
            if is_idle:
                deadline = time.monotonic() + GATHER_S
            requests.append(request)

    def _prepare_all(self, requests: Iterable[PendingRequest]) -> None:
        """Turns chats into waiting rows, and answers requests for embeddings at once."""
        for request in requests:
            with self._boundary(lambda request=request: [request]):  # type: ignore[misc]
                if isinstance(request, EmbeddingRequest):
                    if request.target.adapter is not None:
                        text = "A fine-tuned model can't make embeddings. Use an embedding model."
                        raise ApiError(404, text, "model_cannot_embed", "model")
                    request.emit(self._open_models().embedder(request.target.base).embed(request.texts))
                elif not request.ticket.is_abandoned:
                    self._waiting += self._rows_of(request)
            with self._lock:
                self._in_inbox -= request.rows

    def _rows_of(self, request: Request) -> list[Row]:
        from trainers.local.serving.sequences import Row

        base = self._open_models().base(request.target.weights)
        vocabulary = base.vocabulary
        preparation = prepare(request, vocabulary, base.context)
        guide = None
        if preparation.grammar:
            guide = vocabulary.guide(preparation.grammar)
        return [Row(request, index, preparation, vocabulary, guide) for index in range(request.rows)]

    def _answer_batch(self) -> None:
        first = self._waiting[0]
        self._batch = []
        self._answered = 0
        with self._boundary(lambda: [row.request for row in self._batch or [first] if not row.is_done]):
            base = self._open_models().base(first.request.target.weights)
            room = self._room(base)
            rows = choose_batch(self._waiting, room, can_mix=base.can_mix)
            if not rows and base.prefixes.nbytes:
                base.drop_prefixes()
                room = self._room(base)
                rows = choose_batch(self._waiting, room, can_mix=base.can_mix)
            if not rows:
                text = (
                    f"This answer may take {first.size:,} tokens, and there is memory for {room.tokens:,} now. Lower "
                    "'max_tokens', shorten the messages, or try again later."
                )
                raise busy_error(text, "out_of_memory", BUSY_RETRY_S)
            self._callers = len(self._waiting)
            self._has_turn = True
            self._turns.begin()
            if self._take(base, rows, ()):
                self._decode(base)
        self._batch = []

    def _take(self, base: Base, rows: Sequence[Row], running: Sequence[Row]) -> list[Row]:
        """Moves `rows` from the queue into the batch, in which `running` are already. Returns the moved rows, without
        those whose adapters can't be loaded or can't be mixed with the others'."""
        row_ids = set(map(id, rows))
        self._waiting = [row for row in self._waiting if id(row) not in row_ids]
        in_use = {row.adapter for row in (*running, *rows)}
        taken: list[Row] = []
        for row in rows:
            with self._boundary(lambda row=row: [row.request]):  # type: ignore[misc]
                base.ensure_adapter(row.adapter, in_use)
                taken.append(row)
        if not base.can_mix and taken:  # known only once an adapter is loaded
            adapter = [*running, *taken][0].request.target.adapter
            self._waiting[:0] = [row for row in taken if row.adapter != adapter]
            taken = [row for row in taken if row.adapter == adapter]
        # Rows may join a batch for hours, so the answered ones must not stay in it.
        going_on = [row for row in self._batch if not row.is_done]
        self._answered += len(self._batch) - len(going_on)
        self._batch = going_on + taken
        return taken

    def _decode(self, base: Base) -> None:
        from trainers.local.serving.decoding import decode
        from trainers.local.training.memory import is_out_of_memory

        is_short_of_memory = False
        start = time.monotonic()
        try:
            with self._open_models().cores.shared():
                decode(base, self._batch, partial(self._newcomers, base), self._wait_for_turn)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            is_short_of_memory = True
        finally:
            self._turns.end_pass()
        if not is_short_of_memory:
            self._most_rows = min(MAX_BATCH_ROWS, self._most_rows + 1)
            rows = self._answered + len(self._batch)
            self._rows_per_second = max(0.05, rows / (time.monotonic() - start))
            return

        # Not in the `except` block, since the error's traceback holds the batch's tensors until the block ends.
        base.drop_prefixes()
        left = [row for row in self._batch if not row.is_done]
        if len(left) < 2:
            text = "This answer needs more memory than there is. Shorten it, or try again later."
            raise busy_error(text, "out_of_memory", BUSY_RETRY_S)
        # The next batch has half as many rows, and continues where these stopped.
        self._most_rows = len(left) // 2
        log.warning("out of memory with %d answers at a time; going on with %d", len(left), self._most_rows)
        self._waiting[:0] = left
        self._batch = []

    def _wait_for_turn(self) -> None:
        """Lets a job on the same cores end a part of a step. A GPU shares its time by itself."""
        models = self._open_models()
        if models.device.type != "cpu":
            return
        self._turns.end_pass()
        if self._turns.is_training():
            with models.cores.waiting():
                self._turns.wait()
        self._turns.begin_pass()

    def _end_turn(self) -> None:
        """Called once nobody has asked for a while."""
        self._has_turn = False
        self._turns.end()

    def _newcomers(self, base: Base, running: Sequence[Row]) -> Sequence[Row]:
        """Returns rows that join a running batch: those for the same base, as far as there is room. Raises MemoryError
        before answers without a limit have taken all memory."""
        from trainers.local.serving.decoding import STEPS_BETWEEN_LOOKS

        if self._forgets.is_set():
            base.forget_texts()  # and again after the batch, which keeps more at its end
        grows = any(row.request.sampling.max_tokens is None for row in running)
        if grows and self._room(base).tokens < len(running) * STEPS_BETWEEN_LOOKS:
            raise MemoryError("out of memory for the next tokens of this batch")
        weights = running[0].request.target.weights
        chats: list[PendingRequest] = []
        while not self._inbox.empty():
            request = self._inbox.get()
            if isinstance(request, Request) and request.target.weights == weights:
                chats.append(request)
            elif request is not None:  # None comes from `stop`, which also sets _stopping
                # Answering it now would load another model next to the running one.
                self._later.append(request)
        self._prepare_all(chats)
        waiting = [
            row
            for row in self._waiting
            if row.request.target.weights == weights and not row.request.ticket.is_abandoned
        ]
        return self._take(base, fill_batch(running, waiting, self._room(base)), running)

    def _room(self, base: Base) -> BatchLimits:
        from trainers.local.serving.memory import free_bytes, tokens_that_fit

        free = free_bytes(base.device)
        tokens = sys.maxsize
        if free is not None:
            tokens = tokens_that_fit(free, base.bytes_per_token)
        return BatchLimits(self._most_rows, tokens)

    def _drop_kept_texts(self) -> None:
        """Drops what is kept of prompts and answers, if that was requested, and what was not used for long."""
        forgets = self._forgets.is_set()
        self._forgets.clear()
        if self._models is None:
            return
        if forgets:
            self._models.forget_texts()
        self._models.drop_unused_prefixes()

    def _unload_for_training(self) -> None:
        """Unloads the models if a job trains on the same GPU and they take more than serving's share."""
        if self._models is None:
            return
        from trainers.local.serving.memory import limit_to_share

        if not limit_to_share(self._models.device, self._is_training()):
            log.info(
                "a job trains on this GPU: unloading the models, to load them again if they fit beside it"
            )
            self._models.clear()

    @contextmanager
    def _boundary(self, owners: Callable[[], Sequence[PendingRequest]]) -> Iterator[None]:
        """Sends a fault to the requests that caused it, since the thread must survive it."""
        try:
            yield
            return
        except ApiError as problem:
            outcome = problem
        except BaseException as error:
            # Even a library's SystemExit, else all callers would wait for a dead thread.
            outcome = self._explain(error)
        # A request with several answers owns several rows, and gets one error.
        for owner in {id(owner): owner for owner in owners()}.values():
            owner.emit(outcome)
            owner.ticket.abandon()

    def _explain(self, error: BaseException) -> ApiError:
        from trainers.local.training.memory import is_out_of_memory

        if not is_out_of_memory(error):
            return internal_error(error)
        log.warning("loading a model: out of memory")
        others = "the other programs on this machine"
        if self._is_training():
            others = "the job that trains"
        text = f"The model does not fit into memory next to {others}. Try again later."
        return busy_error(text, "out_of_memory", BUSY_RETRY_S)

    def _open_models(self) -> ModelCache:
        if self._models is None:
            with quick_imports():
                from trainers.local.serving.model_cache import ModelCache

            self._models = ModelCache()
        return self._models
