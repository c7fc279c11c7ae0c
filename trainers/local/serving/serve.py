"""Generation in one thread of the server's process: gathers requests for the same model into batches.

torch and the models are loaded in that thread at the first request, so that the server answers all else at
once. Batches run one after the other; a long answer makes the requests behind it wait.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from trainers.local.problems import Problem
from trainers.local.spool import Quantization

if TYPE_CHECKING:
    from trainers.local.serving.decoding import Row
    from trainers.local.serving.reading import Beginning
    from trainers.local.serving.weights import Shelf

MAX_BATCH_ROWS = 16
MAX_BATCH_TOKENS = 16_384  # rows times longest prompt: bounds the memory of a batch
# Callers that come back for more are waited for. Without that, 16 callers in one Python process fell apart into
# batches of 15 and 1, or of 3 and 13, and got 12 answers a second instead of 15.
RETURN_S = 0.06
QUIET_S = 0.005
GATHER_S = 0.2
DEFAULT_MAX_TOKENS = 512

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatMessage:
    role: str
    content: str


@dataclass(frozen=True)
class Sampling:
    """`max_tokens` None: 512. Greedy below a temperature of 0.001. The answer ends before a `stop`."""

    temperature: float
    top_p: float
    max_tokens: int | None
    stop: tuple[str, ...]
    seed: int | None


@dataclass(frozen=True)
class Target:
    """A base model (local folder or hub id), the folder of an adapter over it, and the format of the base's weights
    that the adapter was trained on."""

    base: str
    adapter: Path | None
    quantization: Quantization = "none"


@dataclass(frozen=True)
class Piece:
    text: str


@dataclass(frozen=True)
class Answered:
    """The end of an answer. `completion_tokens` leaves the token out that ends the turn."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


Outcome = Piece | Answered | Problem
Emit = Callable[[Outcome], object]
A = TypeVar("A")
R = TypeVar("R")


class Ticket:
    """A place in the queue."""

    def __init__(self) -> None:
        self.is_abandoned = False

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self.is_abandoned = True


@dataclass(frozen=True)
class Request:
    target: Target
    messages: Sequence[ChatMessage]
    sampling: Sampling
    streams: bool
    emit: Emit
    ticket: Ticket = field(default_factory=Ticket)


@dataclass(frozen=True)
class Prepared:
    request: Request
    row: Row


class Generator:
    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._stopping = False
        self._callers = 0  # how many wanted an answer when the last batch began
        self._shelf: Shelf | None = None
        self._beginnings: dict[Target, Beginning] = {}  # of the last batch

    def submit(
        self,
        target: Target,
        messages: Sequence[ChatMessage],
        sampling: Sampling,
        *,
        streams: bool,
        emit: Emit,
    ) -> Ticket:
        """`emit` is called from the generator's thread: Pieces, then one Answered or Problem."""
        request = Request(target, messages, sampling, streams, emit)
        with self._starting:
            if self._thread is None:
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
        waiting: list[Prepared] = []
        while not self._stopping:
            for request in self._gather(len(waiting)):
                prepared = self._guarded(self._prepare, [request], request)
                if prepared is not None:
                    waiting.append(prepared)
            waiting = [each for each in waiting if not each.request.ticket.is_abandoned]
            batch = choose_batch(waiting)
            if batch:
                taken = set(map(id, batch))
                waiting = [each for each in waiting if id(each) not in taken]
                self._callers = len(batch) + len(waiting)
                self._guarded(self._decode, [each.request for each in batch], batch)

    def _gather(self, waiting: int) -> list[Request]:
        """What lies in the inbox, and while the batch isn't full, what comes in quick succession."""
        found: list[Request] = []
        deadline = time.monotonic() + GATHER_S
        while True:
            is_idle = not waiting and not found
            try:
                request = self._inbox.get(
                    timeout=None if is_idle else self._patience(waiting + len(found), deadline)
                )
            except queue.Empty:
                return found
            if request is None:  # the end
                return found
            if is_idle:
                deadline = time.monotonic() + GATHER_S
            found.append(request)

    def _patience(self, present: int, deadline: float) -> float:
        """How many seconds to wait for one request more."""
        if present >= MAX_BATCH_ROWS or time.monotonic() > deadline:
            return 0
        return RETURN_S if present < self._callers else QUIET_S

    def _guarded(self, step: Callable[[A], R], owners: Sequence[Request], argument: A) -> R | None:
        """The thread's one boundary: it must outlive every request."""
        try:
            return step(argument)
        except Problem as problem:
            outcome = problem
        except Exception:
            reference = secrets.token_hex(4)
            log.exception("generating, reference %s", reference)
            text = f"The model could not answer. The trainer's log says why, under reference {reference}."
            outcome = Problem(500, text, "generation_failed", kind="server_error")
        for owner in owners:
            owner.emit(outcome)
        return None

    def _prepare(self, request: Request) -> Prepared:
        from trainers.local.serving.decoding import Row

        base = self._open_shelf().base(request.target.base, request.target.quantization)
        prompt = base.encode(request.messages)
        room = base.context - len(prompt)
        if room < 1:
            text = (
                f"The messages have {len(prompt)} tokens; this model reads {base.context} with its answer. "
                "Shorten them."
            )
            raise Problem(400, text, "context_length_exceeded", "messages")
        limit = min(room, request.sampling.max_tokens or DEFAULT_MAX_TOKENS)
        row = Row(
            prompt, limit, request.sampling, request.streams, base.tokenizer, request.emit, request.ticket
        )
        return Prepared(request, row)

    def _decode(self, batch: list[Prepared]) -> None:
        from trainers.local.serving.decoding import decode

        target = batch[0].request.target
        base = self._open_shelf().base(target.base, target.quantization)
        with base.wearing(target.adapter) as model:
            rows = [each.row for each in batch]
            earlier = self._beginnings.get(target)
            found = decode(model, base.end_tokens, base.device, rows, earlier)
        self._beginnings = {target: found} if found else {}

    def _open_shelf(self) -> Shelf:
        if self._shelf is None:
            from trainers.local.serving.weights import Shelf

            self._shelf = Shelf()
        return self._shelf


def choose_batch(waiting: Sequence[Prepared]) -> list[Prepared]:
    """The request that waited longest, and those for the same model with prompts nearest to its length."""
    if not waiting:
        return []
    oldest = waiting[0]
    length = len(oldest.row.prompt)
    same = [each for each in waiting if each.request.target == oldest.request.target]
    same.sort(key=lambda each: abs(len(each.row.prompt) - length))
    batch: list[Prepared] = []
    for each in same[:MAX_BATCH_ROWS]:
        longest = max(len(one.row.prompt) for one in [*batch, each])
        if batch and longest * (len(batch) + 1) > MAX_BATCH_TOKENS:
            break
        batch.append(each)
    return batch
