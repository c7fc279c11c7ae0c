"""Asks models in threads, within each provider's limits, so that a provider that hangs never holds up a tick. Each
answer is stored as soon as it arrives.

A step hands over questions with `ask` and finds their answers in the store at a later tick; `collect` returns the
questions that ended without an answer. Questions without an answer are asked again after a restart, and at most those
that were under way are paid for twice. Each is written down before it is sent, so that what may have been paid for
without an answer is known, and counts at its highest price.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot import logs
from storage.database import StorageError
from storage.records import CachedAnswer
from storage.store import Store
from trainers.client.client import Trainer
from trainers.errors import InvalidResponse, Refused, TrainerError, Uncertain
from trainers.providers.providers import ProviderRow
from trainers.types import Message

# The timeout is for up to ALONGSIDE requests at a time; with more callers it grows, as they wait for each other.
TIMEOUT_S = 120.0
ALONGSIDE = 16
MOST_TRIES = 10
MOST_UNREADABLE = 3  # tries of one question: an unreadable answer may have been paid for
MOST_UNREADABLE_IN_A_ROW = 30  # of one model, after which its other questions are dropped
FAILING_TOGETHER = 5  # this many questions in trouble pause the whole provider
LONGEST_PAUSE_S = 60.0
TEMPLATE_TOKENS = 16  # at most, that a message takes besides its text
LONGEST_LOOK_S = 5.0
BUCKET_S = 10  # this many seconds' worth of requests may begin at once
ROW_STATUSES = frozenset({400, 413, 422, 451})

log = logging.getLogger(__name__)
GRACE_S = 2.0


@dataclass(frozen=True)
class Question:
    """`key` names the answer in the store. `model` is 'provider/model'; `at_provider` is the provider's name for it.
    `max_tokens` includes thinking tokens. `is_first` puts it before the others, as a person waits for it. `is_once`: if
    it isn't known to have failed, it is not asked again, as it may have been paid for, and its owner books that.
    `tools` is JSON. `prompt_tokens` are the most that its prompt may have, None if nobody has counted them."""

    key: str
    model: str
    at_provider: str
    messages: tuple[Message, ...]
    max_tokens: int
    is_first: bool = False
    is_once: bool = False
    tools: str = ""
    prompt_tokens: int | None = None

    @property
    def most_prompt_tokens(self) -> int:
        """The tokens that its prompt may be billed for: a token has at least one byte."""
        if self.prompt_tokens is not None:
            return self.prompt_tokens
        tokens = len(self.tools.encode())
        for message in self.messages:
            text = message.content + message.extra
            tokens += len(text.encode()) + TEMPLATE_TOKENS
        return tokens


@dataclass(frozen=True)
class Declined:
    """A question that gets no answer. `of_model`: no other question to this model will get one either. `is_unclear`: it
    was sent, and may have to be paid for."""

    key: str
    model: str
    why: str
    of_model: bool
    is_unclear: bool = False


@dataclass(eq=False)
class _Waiting:
    owner: str
    question: Question
    tries: int = 0
    next_at: float = 0.0


@dataclass
class _Bucket:
    """A token bucket for requests: refilled at `a_minute`, it holds at most BUCKET_S seconds' worth. None: no limit."""

    a_minute: int | None
    now: float
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self._most

    def take(self, now: float) -> bool:
        if self.a_minute is None:
            return True
        passed_s = max(now - self.now, 0.0)
        refilled = self.level + passed_s * self.a_minute / 60
        self.level = min(self._most, refilled)
        self.now = now
        if self.level < 1:
            return False
        self.level -= 1
        return True

    @property
    def _most(self) -> float:
        return max((self.a_minute or 0) * BUCKET_S / 60, 1.0)

    @property
    def next_in_s(self) -> float:
        if self.a_minute is None or self.level >= 1:
            return 0.0
        return (1 - self.level) * 60 / self.a_minute


class ProviderQueue:
    """One provider's questions, its threads, and its pauses. The threads end when no question is left."""

    def __init__(
        self,
        store: Store,
        trainer: Trainer,
        row: ProviderRow,
        clock: Callable[[], float],
        steady: Callable[[], float],
        decline: Callable[[str, Declined], None],
        trainers: Mapping[str, Trainer],
    ) -> None:
        self._trainers = trainers
        self._store = store
        self._trainer = trainer
        self._row = row
        self._clock = clock
        self._steady = steady
        self._decline = decline
        self._queue: deque[_Waiting] = deque()
        self._under_way: dict[str, _Waiting] = {}
        self._bucket = _Bucket(row.requests_per_minute, steady())
        self._paused_until = 0.0
        self._trouble: str | None = None
        self._failing: set[str] = set()
        self._unreadable_in_a_row: Counter[str] = Counter()
        self._pauses = 0
        self._threads = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def add(self, owner: str, questions: Sequence[Question]) -> None:
        with self._changed:
            keys = self.active_keys()
            for question in questions:
                if question.key in keys:
                    continue
                keys.add(question.key)
                if question.is_first:
                    self._queue.appendleft(_Waiting(owner, question))
                else:
                    self._queue.append(_Waiting(owner, question))
            if not self._is_closed:
                self._start_threads()
            self._changed.notify_all()

    def _start_threads(self) -> None:
        """Starts as many as there are questions, up to the provider's limit. They end by themselves."""
        wanted = min(self._row.callers, len(self._queue) + len(self._under_way))
        while self._threads < wanted:
            self._threads += 1
            name = f"asks {self._row.name} {self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def trouble(self) -> str | None:
        with self._changed:
            return self._trouble

    def waiting(self, owner: str) -> int:
        with self._changed:
            everything = (*self._queue, *self._under_way.values())
            return sum(waiting.owner == owner for waiting in everything)

    def active_keys(self) -> set[str]:
        """Returns the keys of the questions that are waiting or under way."""
        with self._changed:
            return {waiting.question.key for waiting in self._queue} | set(self._under_way)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def drop(self, owner: str) -> list[str]:
        with self._changed:
            self._queue = deque(waiting for waiting in self._queue if waiting.owner != owner)
            return [key for key, waiting in self._under_way.items() if waiting.owner == owner]

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait(self, until: float) -> None:
        """Waits for the threads to end, at most `until` (monotonic seconds)."""
        with self._changed:
            left_s = max(until - time.monotonic(), 0.0)
            self._changed.wait_for(lambda: not self._threads, left_s)

    def _work(self) -> None:
        try:
            while (waiting := self._next()) is not None:
                self._ask(waiting)
        finally:
            self._store.database.close_connection()

    def _next(self) -> _Waiting | None:
        """Waits for a question that is due. Returns None if no question is left, so that the thread ends."""
        with self._changed:
            while self._queue and not self._is_closed:
                waiting = self._take_due()
                if waiting is not None:
                    self._under_way[waiting.question.key] = waiting
                    return waiting
                earliest = min(waiting.next_at for waiting in self._queue)
                due_in_s = max(self._paused_until, earliest) - self._steady()
                pause_s = max(due_in_s, self._bucket.next_in_s, 0.01)
                self._changed.wait(min(pause_s, LONGEST_LOOK_S))
            self._threads -= 1
            self._changed.notify_all()
            return None

    def _take_due(self) -> _Waiting | None:
        now = self._steady()
        if now < self._paused_until:
            return None
        waiting = next((waiting for waiting in self._queue if waiting.next_at <= now), None)
        if waiting is None or not self._bucket.take(now):
            return None
        self._queue.remove(waiting)
        return waiting

    def _ask(self, waiting: _Waiting) -> None:
        """Asks one question and stores the outcome. First checks the store, as the question may have been answered
        after the step that asks it looked."""
        question = waiting.question
        sent = None
        try:
            if self._store.answers.read([question.key]):
                self._remove(waiting)
                return
            sent = self._note_sent(waiting)
            reply = self._send(question)
            with self._store.database.immediate():
                self._store.answers.keep([reply], waiting.owner)
                self._forget_sent(sent)
        except Refused as refused:
            self._forget_sent(sent)
            self._decline_question(waiting, str(refused), of_model=refused.status not in ROW_STATUSES)
        except Uncertain as trouble:
            if trouble.may_be_billed:
                self._mark_lost(sent)
            else:
                self._forget_sent(sent)
            self._retry_after_trouble(waiting, trouble)
        except (InvalidResponse, TrainerError) as nonsense:
            self._mark_lost(sent)
            self._retry_unreadable(waiting, str(nonsense))
        except Exception as fault:
            # The end of a thread, where no caller would see any exception: the question's owner has to be told.
            if self._is_closed:  # the store's connection was closed during the call
                self._remove(waiting)
                return
            self._mark_lost(sent)
            with logs.referenced():
                log.exception("asking %s", question.model)
                why = f"The bot itself failed ({type(fault).__name__}). {logs.sorry()}"
            self._decline_question(waiting, why, of_model=True, is_unclear=True)
        else:
            # An answer to a question from before a pause does not end that pause.
            with self._changed:
                self._under_way.pop(waiting.question.key, None)
                self._unreadable_in_a_row.pop(waiting.question.model, None)
                if self._steady() >= self._paused_until:
                    self._pauses = 0
                    self._trouble = None
                    self._failing.clear()

    def _send(self, question: Question) -> CachedAnswer:
        trainer = self._trainer
        called = question.at_provider
        # Only what was trained can be deployed; the models of those that only answer never are.
        if self._row.trains:
            deployed = self._store.deployments.record_use(question.model, now=self._clock())
            if deployed is not None:
                trainer = self._trainers.get(deployed.provider, trainer)
                called = deployed.chat_model
        answer = trainer.chat(
            called,
            question.messages,
            max_tokens=question.max_tokens,
            thinks=self._row.thinks(question.at_provider),
            timeout_s=TIMEOUT_S * max(1.0, self._row.callers / ALONGSIDE),
            tools=question.tools,
        )
        return CachedAnswer(
            key=question.key,
            model=question.model,
            text=answer.text,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            seconds=answer.seconds,
            at=self._clock(),
        )

    def _note_sent(self, waiting: _Waiting) -> int | None:
        """Writes down that a question is about to be sent. Returns the id, None if its owner books it."""
        question = waiting.question
        if question.is_once:
            return None
        return self._store.sent_questions.add(
            waiting.owner,
            question.model,
            question.most_prompt_tokens,
            question.max_tokens,
            now=self._clock(),
        )

    def _forget_sent(self, sent: int | None) -> None:
        if sent is not None:
            self._settle(self._store.sent_questions.remove, sent)

    def _mark_lost(self, sent: int | None) -> None:
        if sent is not None:
            self._settle(self._store.sent_questions.mark_lost, sent)

    def _settle(self, record: Callable[[int], None], sent: int) -> None:
        """Records what became of a question that was sent. One that is open when the bot stops counts as lost."""
        try:
            record(sent)
        except StorageError:
            if not self._is_closed:  # then the store was closed during the call, too
                raise

    def _remove(self, waiting: _Waiting) -> None:
        with self._changed:
            self._under_way.pop(waiting.question.key, None)

    def _decline_question(
        self, waiting: _Waiting, why: str, *, of_model: bool, is_unclear: bool = False
    ) -> None:
        """Declines a question. Its owner is told before the question stops counting as under way. With `of_model`,
        other questions to the model are dropped too, except those that a person waits for: measurements ask again for
        the answers that they miss."""
        model = waiting.question.model
        self._decline(waiting.owner, Declined(waiting.question.key, model, why, of_model, is_unclear))
        with self._changed:
            self._under_way.pop(waiting.question.key, None)
            if of_model:
                self._queue = deque(
                    other for other in self._queue if other.question.model != model or other.question.is_first
                )

    def _retry_after_trouble(self, waiting: _Waiting, trouble: Uncertain) -> None:
        """Handles a provider that limits us or fails. A limit, or trouble with several questions, pauses the whole
        provider; otherwise only this question waits."""
        if waiting.question.is_once and not trouble.is_rate_limit:
            self._decline_question(waiting, str(trouble), of_model=False, is_unclear=True)
            return
        with self._changed:
            now = self._steady()
            self._failing.add(waiting.question.key)
            self._trouble = str(trouble)
            pause = trouble.retry_after
            if pause is None and (trouble.is_rate_limit or len(self._failing) >= FAILING_TOGETHER):
                pause = self._longer_pause(now)
            if pause is None:
                self._retry_later(waiting, now)
                return
            self._paused_until = max(self._paused_until, now + pause)
            self._under_way.pop(waiting.question.key, None)
            self._queue.appendleft(waiting)

    def _longer_pause(self, now: float) -> float:
        """Returns twice the previous pause, in seconds; failures that were under way together count once."""
        self._pauses += now >= self._paused_until
        return min(2.0 ** min(self._pauses, 10), LONGEST_PAUSE_S)

    def _retry_unreadable(self, waiting: _Waiting, why: str) -> None:
        """Handles an unreadable answer. After several in a row from a model the provider pauses, and after many the
        model is given up."""
        if waiting.question.is_once:
            self._decline_question(waiting, why, of_model=False, is_unclear=True)
            return
        model = waiting.question.model
        with self._changed:
            now = self._steady()
            self._trouble = why
            self._unreadable_in_a_row[model] += 1
            if self._unreadable_in_a_row[model] >= MOST_UNREADABLE_IN_A_ROW:
                self._unreadable_in_a_row.pop(model)
                self._decline_question(waiting, why, of_model=True)
                return
            if self._unreadable_in_a_row[model] >= FAILING_TOGETHER:
                self._paused_until = max(self._paused_until, now + self._longer_pause(now))
            self._retry_later(waiting, now, MOST_UNREADABLE)

    def _retry_later(self, waiting: _Waiting, now: float, most: int = MOST_TRIES) -> None:
        """Puts off this question alone; after too many tries it is declined."""
        waiting.tries += 1
        self._under_way.pop(waiting.question.key, None)
        if waiting.tries >= most:
            question = waiting.question
            declined = Declined(question.key, question.model, self._trouble or "", of_model=False)
            self._decline(waiting.owner, declined)
            return
        waiting.next_at = now + min(2.0**waiting.tries, LONGEST_PAUSE_S)
        self._queue.append(waiting)


def key_of(
    model: str, messages: Sequence[Message], max_tokens: int, tools: str = "", asked_on: str = ""
) -> str:
    """Returns the sha256 of the canonical JSON of a question to a model. `asked_on` is a day like '2026-12-07' if only
    an answer to a question of that day counts, '' if any stored answer does. Without tools and a day the key is the
    same as before these were added, so that stored answers stay valid."""
    turns = []
    for message in messages:
        turn = [message.role, message.content]
        if message.extra:
            turn.append(message.extra)
        turns.append(turn)
    request: list[Any] = [model, turns, max_tokens]
    if tools:
        request.append(tools)
    if asked_on:
        request.append({"asked_on": asked_on})
    return hashlib.sha256(json.dumps(request, ensure_ascii=True).encode()).hexdigest()


class LlmClient:
    """`clock` gives unix seconds, for the dates of answers; `steady` is a monotonic clock, for pauses and rates."""

    def __init__(
        self,
        store: Store,
        trainers: Mapping[str, Trainer],
        providers: Sequence[ProviderRow],
        clock: Callable[[], float],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._declined: dict[str, list[Declined]] = {}
        self._queues = {
            row.name: ProviderQueue(
                store, trainers[row.name], row, clock, steady, self._note_declined, trainers
            )
            for row in providers
            if row.name in trainers
        }
        self._lock = threading.Lock()
        store.sent_questions.mark_all_lost()

    def ask(self, owner: str, provider: str, questions: Sequence[Question]) -> None:
        """Queues the questions that are not already waiting or under way for any owner. Does nothing if the provider
        has no key; `trouble` reports that."""
        if provider in self._queues:
            self._queues[provider].add(owner, questions)

    def collect(self, owner: str) -> Sequence[Declined]:
        """Returns the owner's questions that were declined since the last call."""
        with self._lock:
            return self._declined.pop(owner, [])

    def trouble(self, provider: str) -> str | None:
        """Returns why questions to a provider are waiting, as a sentence; None if there is no trouble."""
        queue = self._queues.get(provider)
        return queue.trouble() if queue else f"There is no key for {provider} where the bot runs."

    def waiting(self, owner: str) -> int:
        """Returns how many of the owner's questions are waiting or under way."""
        return sum(queue.waiting(owner) for queue in self._queues.values())

    def idle(self, provider: str, keys: frozenset[str]) -> frozenset[str]:
        """Returns the `keys` of questions that are neither waiting nor under way for any owner."""
        queue = self._queues.get(provider)
        return keys - queue.active_keys() if queue else keys

    def wake(self) -> None:
        """Makes waiting threads look at the clock again."""
        for queue in self._queues.values():
            queue.wake()

    def drop(self, owner: str) -> frozenset[str]:
        """Drops the owner's waiting questions. Returns the keys of those under way, which are paid for, and stored when
        their answers arrive."""
        under_way = [key for queue in self._queues.values() for key in queue.drop(owner)]
        self.collect(owner)
        return frozenset(under_way)

    def close(self) -> None:
        """Asks no further questions, and waits up to GRACE_S seconds for the answers under way."""
        for queue in self._queues.values():
            queue.close()
        until = time.monotonic() + GRACE_S
        for queue in self._queues.values():
            queue.wait(until)

    def _note_declined(self, owner: str, declined: Declined) -> None:
        with self._lock:
            self._declined.setdefault(owner, []).append(declined)
